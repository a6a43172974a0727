"""What came out of a run: a table, a picture and a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_aux.callbacks import RepresentationDimensionality

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from rich.table import Table

    from lit_aux.callbacks import LayerDimensionality
    from lit_aux.phases import PhaseResult


def report(trainer: "Trainer") -> Path:
    """Print how a run's phases ended and which features were reused; write the same to the run's folder.

    Writes ``summary.json`` and ``summary.png`` into ``trainer.log_dir``, or ``default_root_dir`` without a
    logger.

    Args:
        trainer: A :class:`~lit_aux.PhaseTrainer` after ``fit``.

    Returns:
        The folder.
    """
    from rich.console import Console

    phases: list[PhaseResult] = getattr(trainer, "phase_results", [])
    layers = [row for callback in _measuring(trainer) for row in callback.results]
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"phases": [p.asdict() for p in phases], "layers": [asdict(row) for row in layers]}
    (folder / "summary.json").write_text(json.dumps(_finite(content), indent=2) + "\n")
    console = Console()
    console.print(phase_table(phases))
    if layers:
        console.print(layer_table(layers))
    for phase in phases:
        if phase.checkpoint is not None:
            console.print(f"checkpoint of {phase.name}: {phase.checkpoint}", soft_wrap=True, highlight=False)
    picture = draw(phases, layers, folder / "summary.png")
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
    console.print(f"metrics: {folder / 'summary.json'}", soft_wrap=True, highlight=False)
    return folder


def _measuring(trainer: "Trainer") -> list[RepresentationDimensionality]:
    """Return the callbacks that measured layers, the Trainer's own and those of single phases."""
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    for phase in getattr(trainer.lightning_module, "phases", []):
        callbacks += phase.callbacks
    return [c for c in callbacks if isinstance(c, RepresentationDimensionality)]


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _number(metrics: dict[str, float], name: str) -> str:
    value = metrics.get(name)
    return "" if value is None else f"{value:.3f}"


def phase_table(phases: Sequence["PhaseResult"]) -> "Table":
    """Return a table with a row for each phase and task."""
    from rich.table import Table

    table = Table(title="Phases", title_justify="left")
    for name in ("phase", "task"):
        table.add_column(name)
    for name in ("test accuracy", "test loss", "train loss", "epochs", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("why it ended", overflow="fold")
    for phase in phases:
        for i, task in enumerate(phase.tasks):
            stage = "test" if f"{task}/test_loss" in phase.metrics else "val"
            reason = f"reused; {phase.reason}" if phase.reused else phase.reason
            table.add_row(
                phase.name if i == 0 else "",
                task,
                _number(phase.metrics, f"{task}/{stage}_accuracy"),
                _number(phase.metrics, f"{task}/{stage}_loss"),
                _number(phase.metrics, f"{task}/train_loss"),
                str(phase.epochs) if i == 0 else "",
                f"{phase.seconds:.1f}" if i == 0 else "",
                reason if i == 0 else "",
            )
    return table


def layer_table(layers: Sequence["LayerDimensionality"]) -> "Table":
    """Return a table with a row for each layer that was measured."""
    from rich.table import Table

    table = Table(title="Which features were reused", title_justify="left")
    for name in ("phase", "layer"):
        table.add_column(name)
    for name in ("PR before", "PR after", "ENSD", "PR after/before", "ENSD/PR after"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    last = None
    for row in layers:
        values = (row.pr_before, row.pr_after, row.ensd, row.pr_ratio, row.ensd_ratio)
        table.add_row(
            row.phase if row.phase != last else "", row.layer, *(f"{v:.2f}" for v in values), row.verdict
        )
        last = row.phase
    return table


def draw(phases: Sequence["PhaseResult"], layers: Sequence["LayerDimensionality"], path: Path) -> Path:
    """Draw both tables as one picture.

    Args:
        phases: How each phase went.
        layers: What was measured in each layer; the last phase's are drawn.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lit_aux.callbacks._picture import _draw_phase

    shown = [row for row in layers if row.phase == layers[-1].phase] if layers else []
    figure = Figure(figsize=(11, 4.6) if shown else (5.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, width_ratios=(1, 1.9)) if shown else [figure.subplots()]
    _draw_phases(axes[0], phases)
    if shown:
        _draw_phase(axes[1], shown[0].phase, shown)
    figure.savefig(path, dpi=150)
    return path


def _draw_phases(axes: Any, phases: Sequence["PhaseResult"]) -> None:
    """Draw each phase's accuracy on each of its tasks as a labelled bar."""
    rows = [
        (
            f"{phase.name}\n{task}",
            phase.metrics.get(f"{task}/test_accuracy", phase.metrics.get(f"{task}/val_accuracy")),
        )
        for phase in phases
        for task in phase.tasks
    ]
    known = [(label, value) for label, value in rows if value is not None]
    places = range(len(known))
    axes.barh(places, [value for _, value in known], color="#4477aa", height=0.6)
    axes.set_yticks(places, [label for label, _ in known])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    for place, (_, value) in zip(places, known, strict=True):
        axes.text(value + 0.02, place, f"{value:.3f}", va="center")
    axes.set_xlabel("accuracy")
    axes.set_title("How each phase ended", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
