"""What ``lit-aux fit`` found of a deep network, as a row of the results table and its measures."""

import os
import re
from math import isfinite
from typing import TYPE_CHECKING, Any

from lit_aux.callbacks import RepresentationDimensionality, TaskDiagnostic, TrajectoryLog, WeightRescaling
from lit_aux.experiments._described import of_replica
from lit_aux.experiments.student_rows import Row
from lit_aux.experiments.task_measures import task_measures
from lit_aux.identity.configuration import run_identity
from lit_aux.modules import AuxiliaryModule
from lit_aux.phases.identity import describe_data
from lit_aux.phases.phased import setup_of
from lit_aux.runs.table import run_hash

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lit_aux.callbacks import LayerDimensionality

_COLUMNS = {"loss_final": "test_loss", "train_loss": "train_loss", "accuracy": "test_accuracy"}


def image_rows(module: AuxiliaryModule, trainer: "Trainer") -> list[Row]:
    """Return the row of a fit: how the last phase ended on its main task.

    Columns are those of the results table. ``main`` is the main task; where the last phase has no task of
    this name, its first one. ``run`` is a hash of all that decides the numbers; see
    :func:`~lit_aux.identity.configuration.run_identity`.

    Args:
        module: After ``fit``; its network is no student.
        trainer: A :class:`~lit_aux.PhaseTrainer`; any other knows nothing of phases, and there is no row.
    """
    results = getattr(trainer, "phase_results", [])
    if not results:
        return []
    last, task = results[-1], _main_task(module)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    setup = setup_of(module)
    row: Row = {"experiment": experiment_of(module, data), "setup": setup, "seed": _seed(data)}
    if hasattr(data, "train_size"):
        row["n_main"] = data.train_size(task)
    if setup.startswith("PT+FT"):
        row["rescale"] = _rescale(module)
    row["run"] = _run(row, trainer, data, module)
    metrics = {column: last.metrics.get(f"{task}/{name}") for column, name in _COLUMNS.items()}
    return [
        row
        | {column: value for column, value in metrics.items() if value is not None}
        | {
            "steps": last.steps,
            "converged": " < " in last.reason,  # the training loss, below the threshold
            "seconds": round(sum(phase.seconds for phase in results), 1),
        }
    ]


def image_measures(module: AuxiliaryModule, trainer: "Trainer", rows: list[Row]) -> list[Row]:
    """Return the measures of a fit: PR and ENSD by layer, and every metric that is no column of its row.

    Of what callbacks measure of each task on the way there is the last value. Metrics bear the task's name
    (``main/val_accuracy``); they are of the end of their phase.
    """
    task = _main_task(module)
    results = getattr(trainer, "phase_results", [])
    steps = {phase.name: phase.steps for phase in results}
    columns = {f"{task}/{name}" for name in _COLUMNS.values()}
    found: list[tuple[str, str, str, Any]] = [
        (phase.name, "", name, value)
        for phase in results
        for name, value in phase.metrics.items()
        if phase is not results[-1] or name not in columns
    ]
    found += [
        (layer.phase, layer.layer, name, value)
        for layer in measured_layers(trainer)
        for name, value in vars(layer).items()
    ]
    found += _diagnosed_tasks(trainer)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return task_measures(rows, results[-1].name if results else "", task, data) + [
        {"run": row["run"], "phase": phase, "step": steps.get(phase), "layer": layer, "measure": name}
        | {"value": float(value)}
        for row in rows
        for phase, layer, name, value in found
        if isinstance(value, int | float) and isfinite(value)
    ]


def measured_layers(trainer: "Trainer") -> list["LayerDimensionality"]:
    """Return what callbacks measured in layers, the Trainer's own callbacks and those of single phases."""
    measuring = (c for c in _callbacks(trainer) if isinstance(c, RepresentationDimensionality))
    return [row for callback in measuring for row in callback.results]


def _diagnosed_tasks(trainer: "Trainer") -> list[tuple[str, str, str, Any]]:
    """Return phase, no layer, name and last value of what diagnostics of tasks measured."""
    measuring = (c for c in _callbacks(trainer) if isinstance(c, TaskDiagnostic))
    rows = [
        row for c in measuring if not isinstance(c, TrajectoryLog) for row in c.results
    ]  # the losses of a trajectory are among the phase's own metrics
    last = {(row.phase, f"{row.task}/{row.measure}"): row.value for row in rows}
    return [(phase, "", name, value) for (phase, name), value in last.items()]


def _callbacks(trainer: "Trainer") -> list[Any]:
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    for phase in getattr(trainer.lightning_module, "phases", []):
        callbacks += phase.callbacks
    return callbacks


def experiment_of(module: AuxiliaryModule, data: Any) -> str:
    """Name data and network: ``digits-resnet18``, ``cifar100-vit``.

    Data modules may have a ``short_name``; else their class says it. timm's transformers go by the name of
    their family, since size, patches and image size follow from options.
    """
    short: str = getattr(data, "short_name", None) or type(data).__name__.removesuffix("DataModule").lower()
    backbone = getattr(module.net, "backbone", module.net)
    name = getattr(backbone, "name", None)
    if not isinstance(name, str):
        return f"{short}-{type(backbone).__name__.lower()}"
    return f"{short}-{re.sub(r'_[a-z0-9]+_patch.*', '', name.partition('.')[0])}"


def _main_task(module: AuxiliaryModule) -> str:
    tasks = module.phases[-1].tasks
    return "main" if "main" in tasks else tasks[0]


def _seed(data: Any) -> int | None:
    """Return the global seed; where there is none, that of the data."""
    given = os.environ.get("PL_GLOBAL_SEED")
    return getattr(data, "seed", None) if given is None else int(given)


def _run(row: Row, trainer: Any, data: Any, module: AuxiliaryModule) -> str:
    """Return the run's name: a hash of its configuration and code; in Python, of what it was built of."""
    if trainer.configuration is not None:
        return run_hash(run_identity(trainer.configuration))
    described = {name: part for name, part in trainer.description.items() if name != "versions"}
    files = describe_data(data, module.phases)
    return run_hash({**row, **described, "limits": trainer.limits, "files": files})


def _rescale(module: AuxiliaryModule) -> float:
    """Return the factor of the first phase that rescales; 1 where none does."""
    callbacks = [callback for phase in module.phases for callback in phase.callbacks]
    factors = [callback.factor for callback in callbacks if isinstance(callback, WeightRescaling)]
    return float(of_replica(factors[0], 0)) if factors else 1.0
