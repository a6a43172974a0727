"""What came out of a run: a table, a picture and a file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from lit_aux.errors import printable
from lit_aux.files import atomic_write
from lit_aux.results.sheet import Sheet, show
from lit_aux.run_folder import RunFolder, in_notebook

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

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
    from lit_aux.drawing.layers import draw_summary
    from lit_aux.drawing.style import save
    from lit_aux.experiments.fit_rows import measured_layers, student_rows, write_rows
    from lit_aux.experiments.student_report import student_table
    from lit_aux.figures.fits import draw_students
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
    folder.tables = [phase_table(phases), *([layer_table(shown)] if shown else [])]
    found = {f"checkpoint of {p.name}": p.checkpoint for p in phases if p.checkpoint is not None}
    module: Any = trainer.lightning_module
    if getattr(module, "students", None) is None:
        found["picture"] = str(save(draw_summary(scores(phases), shown), folder / "summary.png"))
    elif rows := student_rows(module):
        folder.tables.append(student_table(rows))
        if len({row["n_main"] for row in rows}) > 1 and "loss_best" in rows[0]:
            found["picture"] = str(save(draw_students(rows), folder / "students.png"))
    found["metrics"] = str(folder / "summary.json")
    quiet = in_notebook()
    if not quiet:
        show(folder.tables)
        _tell(found)
    folder.files = found
    if isinstance(module, AuxiliaryModule):
        written = write_rows(module, trainer, folder)
        folder.files = found | written
        if not quiet:
            _tell(written)
    return folder


def _tell(found: dict[str, str]) -> None:
    """Say where files are."""
    for what, where in found.items():
        print(f"{what}: {printable(where)}", flush=True)


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


def phase_table(phases: Sequence["PhaseResult"]) -> Sheet:
    """Return a table with a row for each phase and task."""
    measured = [_measured(phase, task) for phase in phases for task in phase.tasks]
    metrics = sorted({name for found in measured for name in found} - {"loss"}, key=_place)
    why = "why it ended"
    columns = ["phase", "task", *metrics, "loss", "train loss", why]
    sheet = Sheet("How each phase ended", columns, labels=2, wrap=True, left=[why])
    for phase in phases:
        together = _number(phase.metrics, "train_loss")  # of students, over all tasks
        for i, task in enumerate(phase.tasks):
            found = _measured(phase, task)
            numbers = [_number(found, name) for name in (*metrics, "loss")]
            numbers.append(_number(phase.metrics, f"{task}/train_loss") or together)
            reason = f"trained before; {phase.reason}" if phase.reused else phase.reason
            sheet.rows.append([*(("", task) if i else (phase.name, task)), *numbers, "" if i else reason])
    return sheet


DIMENSIONS = {
    "pr_before": "PR before",
    "pr_after": "PR after",
    "ensd": "ENSD",
    "pr_ratio": "PR ratio",
    "ensd_ratio": "ENSD/PR",
}
"""The columns of tables of layers, by the field of a layer."""


def borderline_note(layers: Iterable["LayerDimensionality"]) -> list[str]:
    """Return what brackets around verdicts mean, if there are some."""
    return ["in brackets: borderline"] if any(row.borderline for row in layers) else []


def layer_table(layers: Sequence["LayerDimensionality"]) -> Sheet:
    """Return a table with a row for each layer that was measured in one phase."""
    judged = any(row.shown_verdict for row in layers)
    what = "Which features {} reused" if judged else "Dimensions before and after {}"
    title = what.format(layers[0].phase) if layers[0].phase else "Which features were reused"
    columns = ["layer", *DIMENSIONS.values(), *["verdict"] * judged]
    sheet = Sheet(title, columns, notes=borderline_note(layers), left=["verdict"])
    for row in layers:
        values = [f"{getattr(row, name):.2f}" for name in DIMENSIONS]
        sheet.rows.append([row.layer, *values, *[row.shown_verdict] * judged])
    return sheet


def scores(phases: Iterable["PhaseResult"]) -> dict[str, tuple[str, float]]:
    """Return what each phase is scored by in each of its tasks, accuracy or another, and how well it does."""
    found: dict[str, tuple[str, float]] = {}
    for phase in phases:
        for task in phase.tasks:
            known = [(name, value) for name, value in _measured(phase, task).items() if name in _SCORES]
            found |= {f"{phase.name} {task}": one for one in known[:1]}
    return found
