"""What came out of a run: a table, a picture and a file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_aux.files import atomic_path, atomic_write
from lit_aux.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from matplotlib.axes import Axes
    from rich.console import Console
    from rich.table import Table

    from lit_aux.callbacks import LayerDimensionality
    from lit_aux.phases import PhaseResult


def report(trainer: "Trainer") -> RunFolder:
    """Print how a run's phases ended and which features were reused; write the same to the run's folder.

    To be called on every process of a run; the first alone prints and writes. In a notebook nothing is
    printed: what is returned shows tables and picture as the last line of a cell or in ``display(...)``.

    Writes ``summary.json`` and ``summary.png`` into ``trainer.log_dir``, or ``default_root_dir`` without a
    logger. Layers are shown for the last phase; the file holds them for every phase. Of students there is,
    for several n_main, ``students.png`` in place of the picture. The project's own modules have
    ``results.csv`` and ``measures.csv`` too, and their W&B runs the same in their summaries.

    Args:
        trainer: A :class:`~lit_aux.PhaseTrainer` after ``fit``.

    Returns:
        The folder, a path.

    Raises:
        ConfigurationError: If ``results.csv`` or ``measures.csv`` cannot be written; all else is done then.
    """
    from lit_aux.experiments.fit_rows import measured_layers
    from lit_aux.modules import AuxiliaryModule

    folder = RunFolder(trainer.log_dir or trainer.default_root_dir)  # the processes agree on it: all must ask
    if not trainer.is_global_zero:
        return folder
    phases: list[PhaseResult] = getattr(trainer, "phase_results", [])
    layers = measured_layers(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"phases": [p.asdict() for p in phases], "layers": [asdict(row) for row in layers]}
    content["continued"] = getattr(trainer, "continued", [])
    atomic_write(folder / "summary.json", json.dumps(finite(content), indent=2) + "\n")
    shown = [_short_name(row) for row in layers if row.phase == layers[-1].phase]
    console, folder.tables = _console()
    console.print(phase_table(phases))
    if shown:
        console.print(layer_table(shown))
    found = {f"checkpoint of {p.name}": p.checkpoint for p in phases if p.checkpoint is not None}
    module: Any = trainer.lightning_module
    if getattr(module, "students", None) is None:
        found["picture"] = str(draw(phases, shown, folder / "summary.png"))
    else:
        from lit_aux.experiments.student_report import report_students

        found |= report_students(module, folder, console)
    found["metrics"] = str(folder / "summary.json")
    _tell(console, found)
    folder.files = found
    if isinstance(module, AuxiliaryModule):
        from lit_aux.experiments.fit_rows import write_rows

        written = write_rows(module, trainer, folder)
        _tell(console, written)
        folder.files = found | written
    return folder


def _console() -> "tuple[Console, list[Table]]":
    """Return a console that prints, but not in a notebook, and the list of the tables that it is given."""
    from rich.console import Console
    from rich.table import Table

    tables: list[Table] = []

    class Kept(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            tables.extend(each for each in objects if isinstance(each, Table))
            if not self.is_jupyter:
                super().print(*objects, **options)

    return Kept(), tables


def _tell(console: "Console", found: dict[str, str]) -> None:
    """Say where files are."""
    for what, where in found.items():
        console.print(f"{what}: {where}", soft_wrap=True, highlight=False, markup=False)


def _short_name(row: "LayerDimensionality") -> "LayerDimensionality":
    return replace(row, layer=short_layer(row.layer))


def short_layer(name: str) -> str:
    """Name a layer as timm or the user does, without the path to it in the project's modules.

    Args:
        name: As in ``named_modules`` of the module.
    """
    for prefix in ("net.", "backbone.", "network."):
        name = name.removeprefix(prefix)
    return name


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _number(metrics: dict[str, float], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"  # of students, whose losses vanish


_SCORES = ("accuracy", "f1", "iou", "r2")
"""Metrics of which 1 is the best that there is."""
_METRICS = (*_SCORES, "mae")


def _measured(phase: "PhaseResult", task: str) -> dict[str, float]:
    """Return a task's metrics at the end of a phase by name, of test samples where there are some."""
    for stage in ("test", "val"):
        prefix = f"{task}/{stage}_"
        found = {k.removeprefix(prefix): v for k, v in phase.metrics.items() if k.startswith(prefix)}
        if found:
            return {name: found[name] for name in sorted(found, key=_place)}
    return {}


def _place(metric: str) -> tuple[int, str]:
    """Return where a metric stands among others: the usual ones first."""
    return (_METRICS.index(metric) if metric in _METRICS else len(_METRICS), metric)


def phase_table(phases: Sequence["PhaseResult"]) -> "Table":
    """Return a table with a row for each phase and task."""
    from rich import box
    from rich.table import Table

    table = Table(title="How each phase ended", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("phase", "task"):
        table.add_column(name)
    measured = [_measured(phase, task) for phase in phases for task in phase.tasks]
    metrics = sorted({name for found in measured for name in found} - {"loss"}, key=_place)
    for name in (*metrics, "loss", "train loss"):
        table.add_column(name, justify="right")
    table.add_column("why it ended", overflow="fold")
    for phase in phases:
        together = _number(phase.metrics, "train_loss")  # of students, over all tasks
        for i, task in enumerate(phase.tasks):
            found = _measured(phase, task)
            reason = f"trained before; {phase.reason}" if phase.reused else phase.reason
            table.add_row(
                phase.name if i == 0 else "",
                task,
                *(_number(found, name) for name in (*metrics, "loss")),
                _number(phase.metrics, f"{task}/train_loss") or together,
                reason if i == 0 else "",
            )
    return table


def borderline_caption(layers: Iterable["LayerDimensionality"]) -> dict[str, Any]:
    """Return the options of a table that say what brackets around verdicts mean, if there are some."""
    near = any(row.borderline for row in layers)
    return {"caption": "in brackets: borderline", "caption_justify": "left"} if near else {}


def layer_table(layers: Sequence["LayerDimensionality"]) -> "Table":
    """Return a table with a row for each layer that was measured in one phase."""
    from rich import box
    from rich.table import Table

    judged = any(row.shown_verdict for row in layers)
    what = "Which features {} reused" if judged else "Dimensions before and after {}"
    title = what.format(layers[0].phase) if layers[0].phase else "Which features were reused"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, **borderline_caption(layers))
    table.add_column("layer", no_wrap=True)
    for name in ("PR before", "PR after", "ENSD", "PR ratio", "ENSD/PR"):
        table.add_column(name, justify="right")
    if judged:
        table.add_column("verdict")
    for row in layers:
        values = (row.pr_before, row.pr_after, row.ensd, row.pr_ratio, row.ensd_ratio)
        table.add_row(row.layer, *(f"{v:.2f}" for v in values), *([row.shown_verdict] if judged else []))
    return table


def draw(phases: Sequence["PhaseResult"], layers: Sequence["LayerDimensionality"], path: Path) -> Path:
    """Draw both tables as one picture.

    Args:
        phases: How each phase went.
        layers: What was measured in the layers of one phase.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lit_aux.callbacks.picture import draw_layers

    height = max(2.2, 0.42 * len(layers) + 1.3)
    figure = Figure(figsize=(10.5, height) if layers else (5.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, width_ratios=(1, 1.7)) if layers else [figure.subplots()]
    _draw_phases(axes[0], phases)
    if layers:
        draw_layers(axes[1], layers[0].phase, layers)
        axes[1].set_xlabel("dimensions")
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def _draw_phases(axes: "Axes", phases: Sequence["PhaseResult"]) -> None:
    """Draw how well each phase does each of its tasks as a labelled bar: its accuracy, or another score."""
    known: dict[str, float] = {}
    drawn: set[str] = set()
    for phase in phases:
        for task in phase.tasks:
            found = [(name, value) for name, value in _measured(phase, task).items() if name in _SCORES]
            for name, value in found[:1]:
                known[f"{phase.name}\n{task}" + ("" if name == "accuracy" else f" ({name})")] = value
                drawn.add(name)
    places = range(len(known))
    axes.barh(places, [max(value, 0) for value in known.values()], color="#8fb3d4", height=0.55)
    axes.set_yticks(places, list(known))
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.5, 1.0])
    for place, value in zip(places, known.values(), strict=True):
        axes.text(max(value, 0) + 0.02, place, f"{value:.3f}", va="center", fontweight="bold")
    axes.set_xlabel(drawn.pop() if len(drawn) == 1 else "score" if drawn else "accuracy")
    axes.set_title("How each phase ended", loc="left", fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
