"""What ``lit-aux fit`` found of students, as rows of the results table."""

from typing import Any, cast

from lit_aux.data import TeacherDataModule
from lit_aux.experiments.measures import measures_of
from lit_aux.experiments.results import COLUMNS, run_hash
from lit_aux.modules import AuxiliaryModule
from lit_aux.phases import Phase

Row = dict[str, Any]


def setup_of(module: AuxiliaryModule) -> str:
    """Return the setup of the results table that a module's phases are: STL, MTL, PT+FT, with (LP) or not."""
    *earlier, last = module.phases
    pretrained = getattr(module, "pretrained", None) is not None
    if pretrained or any(phase.trainable != "readout" for phase in earlier):
        name = "PT+FT"
    else:
        name = "MTL" if len(last.tasks) > 1 else "STL"
    return f"{name} (LP)" if last.trainable == "readout" else name


def student_rows(module: AuxiliaryModule) -> list[Row]:
    """Return one row for each replica that ended the last phase, in the order of the replicas.

    Columns are those of the results table, and ``evaluations`` and ``replica`` beside them.

    Args:
        module: One whose network is a student, after ``fit``.
    """
    students = module.students
    assert students is not None
    results = students.ended(module.phases[-1].name)
    kind = type(students.net).__name__.removesuffix("Net").lower()
    setup = setup_of(module)
    rows = []
    for result in sorted(results, key=lambda row: int(row["replica"])):
        replica = result["replica"]
        row = {**students.data.replicas[replica], "experiment": kind, "setup": setup}
        if setup.startswith("PT+FT"):
            given = getattr(module, "rescale", None)
            row["rescale"] = _of_replica(1.0 if given is None else given, replica)
        row["run"] = run_hash({**row, "options": _options(module, replica)})
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
    return [
        {"run": row["run"], **measure}
        for row in rows
        for measure in measures_of(students.net, data, results[row["replica"]], phase)
    ]


def _of_replica(value: Any, replica: int) -> Any:
    return value[replica] if isinstance(value, list | tuple) else value


def _plain(thing: Any) -> Row:
    """Return the public options of an object that are numbers, texts or lists of them."""
    kinds = (int, float, str, bool, type(None))
    return {
        name: value
        for name, value in vars(thing).items()
        if not name.startswith("_")
        and name != "training"
        and (
            isinstance(value, kinds) or (isinstance(value, list) and all(isinstance(v, kinds) for v in value))
        )
    }


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
        "phases": [_of_phase(phase, replica) for phase in module.phases],
        "preset": getattr(module, "rescale_preset", None),
        "pretrained": getattr(module, "pretrained", None),
    }


def _of_phase(phase: Phase, replica: int) -> Row:
    options = _plain(phase) | {"readout_scale": _of_replica(phase.readout_scale, replica)}
    options.pop("integrator", None)  # an object: its own options follow
    if phase.integrator is not None:
        options["integrator"] = {"kind": type(phase.integrator).__name__, **_plain(phase.integrator)}
    elif phase.optimizer is not None:
        options["optimizer"] = {k: v for k, v in _defaults(phase).items() if isinstance(v, int | float | str)}
    return options


def _defaults(phase: Phase) -> Row:
    """Return the options of an optimizer that is given as a callable, as it builds them."""
    import torch

    assert phase.optimizer is not None
    built = phase.optimizer([torch.nn.Parameter(torch.zeros(1, 1))])
    return {"kind": type(built).__name__, **built.defaults}
