"""What a fit found, as rows of ``results.csv`` and ``measures.csv``."""

import os
import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lit_aux.callbacks import RepresentationDimensionality, TaskDiagnostic, TrajectoryLog, WeightRescaling
from lit_aux.callbacks._parameters import uncompiled
from lit_aux.data import OwnTeacherDataModule, TeacherDataModule
from lit_aux.experiments.measures import measures_of
from lit_aux.identity.configuration import run_identity
from lit_aux.models import StudentNet, TransformersBackbone
from lit_aux.modules import AuxiliaryModule
from lit_aux.phases import Phase
from lit_aux.phases.identity import beneath, describe_data, own_network_options, own_parts
from lit_aux.phases.phased import setup_of
from lit_aux.runs.duplicates import settled
from lit_aux.runs.job import Row
from lit_aux.runs.table import CLASSES, COLUMNS, TASK, ResultsTable, option_measures, run_hash
from lit_aux.runs.wandb_summary import log_rows

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lit_aux.callbacks import LayerDimensionality


def found_rows(module: AuxiliaryModule, trainer: "Trainer") -> tuple[list[Row], list[Row]]:
    """Return the rows of a fit, one for each replica of a student, else one; and their measures.

    Args:
        module: After ``fit``.
        trainer: What fitted it.
    """
    if module.students is None:
        rows = image_rows(module, trainer)
        return rows, image_measures(module, trainer, rows)
    rows = student_rows(module)
    measures = student_measures(module, rows)
    return [{k: v for k, v in row.items() if k in COLUMNS} for row in rows], measures


def write_rows(module: AuxiliaryModule, trainer: "Trainer", folder: Path) -> dict[str, str]:
    """Write the rows of a fit into its folder, and into the summaries of its W&B runs.

    Rows that the files hold already are left as they are; new ones of the same runs must agree with them. Of
    several processes the first alone writes.

    Args:
        module: After ``fit``.
        trainer: What fitted it.
        folder: The run's folder.

    Returns:
        The files that were written, by what they are.

    Raises:
        ConfigurationError: If they cannot be written, or there is a file of another kind by one of their
            names, which is left as it is, or a row of the same run with other numbers.
    """
    rows, measures = found_rows(module, trainer) if trainer.is_global_zero else ([], [])
    if not rows:
        return {}
    log_rows(trainer.loggers, rows, measures)
    with ResultsTable(folder / "results.csv") as table:
        known = {row["run"]: row for row in table.rows()}
        again = [[(known[row["run"]], str(table.path)), (row, "now")] for row in rows if row["run"] in known]
        settled(
            again, None, "trainer.default_root_dir", "name another folder, or take the row out of this one"
        )
        new = [row for row in rows if row["run"] not in known]
        runs = {row["run"] for row in new}
        table.append(new, [measure for measure in measures if measure["run"] in runs])
    return {"results": str(table.path), "measures": str(table.measures_path)}


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
        backbone = uncompiled(getattr(uncompiled(module.net), "backbone", None))
        network = backbone.pretrained_content if isinstance(backbone, TransformersBackbone) else None
        contents = {"pretrained_content": module.pretrained_content, "network_content": network}
        told = {name: content for name, content in contents.items() if content is not None}  # no options
        return run_hash(run_identity(trainer.configuration) | told)
    described = {name: part for name, part in trainer.description.items() if name != "versions"}
    files = describe_data(data, module.phases)
    return run_hash({**row, **described, "limits": trainer.limits, "files": files})


def _rescale(module: AuxiliaryModule) -> float:
    """Return the factor of the first phase that rescales; 1 where none does."""
    callbacks = [callback for phase in module.phases for callback in phase.callbacks]
    factors = [callback.factor for callback in callbacks if isinstance(callback, WeightRescaling)]
    return float(of_replica(factors[0], 0)) if factors else 1.0


def student_rows(module: AuxiliaryModule) -> list[Row]:
    """Return one row for each replica that ended the last phase, in the order of the replicas.

    Columns are those of the results table, and beside them ``evaluations``, ``replica`` and the options of a
    teacher of one's own.

    Args:
        module: One whose network is a student, after ``fit``.
    """
    students = module.students
    assert students is not None
    results = students.ended(module.phases[-1].name)
    data = cast(TeacherDataModule, students.data)
    setup = setup_of(module)
    own = _own_parts(module)
    rows = []
    for result in sorted(results, key=lambda row: int(row["replica"])):
        replica = result["replica"]
        row = {**data.replicas[replica], **data.own_options(replica)}
        row |= {"experiment": student_experiment(students.net, data), "setup": setup}
        if setup.startswith("PT+FT"):
            given = getattr(module, "rescale", None)
            row["rescale"] = of_replica(1.0 if given is None else given, replica)
        row["run"] = run_hash({**row, "options": _options(module, replica) | own})
        names = [name for name in (*COLUMNS, "evaluations", "replica") if name in result]
        shared = result["seconds"] / len(results)  # they trained together
        rows.append(row | {name: result[name] for name in names} | {"seconds": shared})
    return rows


def student_measures(module: AuxiliaryModule, rows: list[Row]) -> list[Row]:
    """Return rows of ``measures.csv``: what the replicas of some rows cost, and their norms and shares."""
    students = module.students
    assert students is not None
    phase = module.phases[-1].name
    results = {row["replica"]: row for row in students.results[phase]}
    data = cast(TeacherDataModule, students.data)
    found = []
    for row in rows:
        own = data.own_options(row["replica"])
        found += option_measures(row["run"], {name: own[name] for name in own if name not in COLUMNS})
        measured = measures_of(students.net, data, results[row["replica"]], phase)
        found += [{"run": row["run"], **measure} for measure in measured]
    return found


def student_experiment(net: StudentNet, data: TeacherDataModule) -> str:
    """Name network and teacher: ``diagonal``, ``relu``, and with a teacher of one's own ``relu-rotated``."""
    kind = type(net).__name__.removesuffix("Net").lower()
    if not isinstance(data, OwnTeacherDataModule):
        return kind
    teacher = re.sub(r"(Teacher|DataModule|Data)+$", "", type(data).__name__) or "own"
    return f"{kind}-{teacher.lower()}"


def _own_parts(module: AuxiliaryModule) -> Row:
    """Return what replicas depend on that is somebody's own: code, and attributes that lit_aux does not know.

    Those that hold the axes of a grid are left out: each replica has its own value in its row.
    """
    students = module.students
    assert students is not None
    description = getattr(module.trainer, "description", None)
    if not description:
        return {}
    parts = own_parts(description)
    own = parts.pop("own", {})
    told = beneath(
        own, {f"data.own.{name}" for name in cast(TeacherDataModule, students.data).own_options(0)}
    )
    kept = {name: value for name, value in own.items() if name not in told}
    kept |= own_network_options(students.net, description)
    return parts | ({"own": kept} if kept else {})


def _options(module: AuxiliaryModule, replica: int) -> Row:
    """Return all on which a replica's numbers depend beside its place in the grid."""
    students = module.students
    assert students is not None
    net, data = students.net, cast(TeacherDataModule, students.data)
    network = {name: getattr(net, name) for name in ("in_features", "hidden") if hasattr(net, name)}
    network |= {"init_scale": float(net.scales[replica]), "dtype": str(net.dtype)}
    settings = {name: str(value) for name, value in data.settings().items()}
    names = ("n_aux", "n_test")
    return {
        "network": network,
        "data": settings | {name: getattr(data, name) for name in names},
        "phases": [of_phase(phase, replica) for phase in module.phases],
        "preset": getattr(module, "rescale_preset", None),
        "pretrained": getattr(module, "pretrained", None),
    }


def task_measures(rows: Sequence[dict[str, Any]], phase: str, task: str, data: Any) -> list[dict[str, Any]]:
    """Return measures that name the task of rows, so that rows of different tasks are never compared.

    Args:
        rows: Of the results table.
        phase: The phase at whose end they were measured.
        task: The task.
        data: The data module; one of the project's knows the classes of its tasks.

    Returns:
        Rows of ``measures.csv``, whose value is how many classes the task has, 1 where that is not known.
    """
    classes = _classes(data, task)
    names = [(TASK, task)] + ([(CLASSES, "|".join(classes))] if classes else [])
    return [
        {"run": row["run"], "phase": phase, "step": row.get("steps"), "layer": " ".join(name.split())}
        | {"measure": measure, "value": float(max(1, len(classes)))}
        for row in rows
        for measure, name in names
    ]


def _classes(data: Any, task: str) -> list[str]:
    known, names = getattr(data, "task_classes", None), getattr(data, "class_names", None)
    if known is None or names is None or task not in known:
        return []
    return sorted(str(names[number]) for number in known[task])


_KINDS = (int, float, str, bool, type(None))


def plain(thing: Any) -> Row:
    """Return the public attributes of an object that are numbers, texts or lists of them.

    Args:
        thing: A phase, a layer, a data module, ...; whether a layer is in training mode is left out.
    """
    return {
        name: value
        for name, value in vars(thing).items()
        if not name.startswith("_")
        and name != "training"
        and (
            isinstance(value, _KINDS)
            or (isinstance(value, list) and all(isinstance(v, _KINDS) for v in value))
        )
    }


def of_replica(value: Any, replica: int) -> Any:
    """Return a replica's own value of an option that may be a list with one for each."""
    return value[replica] if isinstance(value, list | tuple) else value


def of_phase(phase: Phase, replica: int = 0) -> Row:
    """Return a phase's options, those of its integrator or optimizer, and those of its schedule."""
    options = plain(phase) | {"readout_scale": of_replica(phase.readout_scale, replica)}
    options.pop("integrator", None)  # an object: its own options follow
    if phase.integrator is not None:
        options["integrator"] = {"kind": type(phase.integrator).__name__, **plain(phase.integrator)}
    elif phase.optimizer is not None:
        options |= _built(phase)
    return options


def _built(phase: Phase) -> Row:
    """Return what an optimizer and a schedule that are given as callables are when they are built."""
    import torch

    assert phase.optimizer is not None
    built = phase.optimizer([torch.nn.Parameter(torch.zeros(1, 1))])
    defaults = {"kind": type(built).__name__, **built.defaults}
    options: Row = {"optimizer": {k: v for k, v in defaults.items() if isinstance(v, int | float | str)}}
    if phase.lr_scheduler is not None:
        schedule = phase.lr_scheduler(built)
        options["lr_scheduler"] = {"kind": type(schedule).__name__, **plain(schedule)}
    return options
