"""What ``lit-aux fit`` found of students, as rows of the results table."""

from typing import Any, cast

from lit_aux.data import TeacherDataModule
from lit_aux.experiments._described import of_phase, of_replica
from lit_aux.experiments.measures import measures_of
from lit_aux.modules import AuxiliaryModule
from lit_aux.phases.identity import own_parts
from lit_aux.phases.phased import setup_of
from lit_aux.runs.table import COLUMNS, run_hash

Row = dict[str, Any]


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
    description = getattr(module.trainer, "description", None)
    own = own_parts(description) if description else {}
    rows = []
    for result in sorted(results, key=lambda row: int(row["replica"])):
        replica = result["replica"]
        row = {**students.data.replicas[replica], "experiment": kind, "setup": setup}
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
    return [
        {"run": row["run"], **measure}
        for row in rows
        for measure in measures_of(students.net, data, results[row["replica"]], phase)
    ]


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
