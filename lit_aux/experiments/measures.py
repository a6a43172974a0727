"""What is measured of a student at its end, as rows of ``measures.csv``."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_aux.data import ReLUTeacher, TeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.functional import feature_alignment, kmeans_inertia, unit_contributions
from lit_aux.functional.clustering import Reference
from lit_aux.functional.norms import (
    entry_share,
    f1_norm,
    f12_norm,
    l1_norm,
    l2_norm,
    l12_norm,
    top_share,
)
from lit_aux.models import DiagonalNet, ReLUNet, StudentNet

CLUSTERS = (1, 2, 3, 4, 6, 8, 12)
"""Numbers of clusters for which a ReLU student's inertia is measured, beside those of its teachers' units."""
COSTS = ("evaluations", "rejected", "stages", "curvature", "time", "lr")


def measures_of(
    net: StudentNet, data: TeacherDataModule, row: dict[str, Any], phase: str
) -> list[dict[str, Any]]:
    """Return what a replica cost, and norms and shares of student and teacher.

    Args:
        net: The trained network.
        data: Its data.
        row: What the phase says of the replica.
        phase: The phase's name.
    """
    step, replica = row["steps"], row["replica"]
    head = {"phase": phase, "step": step}
    rows = [{**head, "layer": "", "measure": name, "value": row[name]} for name in COSTS]
    for layer, measure, value in _solution(net, data, replica):
        rows.append({**head, "layer": layer, "measure": measure, "value": value})
    return [row for row in rows if row["value"] == row["value"]]


def _solution(net: StudentNet, data: TeacherDataModule, replica: int) -> Iterator[tuple[str, str, float]]:
    """Yield what is known of networks of this kind, and of teachers of the same kind."""
    main, aux = (data.teacher(replica, task) for task in ("main", "aux"))
    if isinstance(net, DiagonalNet):
        linear = isinstance(main, Tensor) and isinstance(aux, Tensor)
        yield from _diagonal(net, (main.double(), aux.double()) if linear else None, replica)
    elif isinstance(net, ReLUNet):
        alike = isinstance(main, ReLUTeacher) and isinstance(aux, ReLUTeacher)
        yield from _relu(net, (main, aux) if alike else None, replica)


def _diagonal(
    net: DiagonalNet, teachers: tuple[Tensor, Tensor] | None, replica: int
) -> Iterator[tuple[str, str, float]]:
    with torch.no_grad():
        solutions = {"student": net.coefficients()[replica].cpu().double()}
    if teachers is not None:
        main, aux = teachers
        solutions["teacher"] = torch.stack([aux if task == "aux" else main for task in net.tasks])
    for layer, coefficients in solutions.items():
        yield layer, "l12", float(l12_norm(coefficients))
        own = coefficients[net.task_slice("main")]
        yield layer, "l1", float(l1_norm(own))
        yield layer, "l2", float(l2_norm(own))
        if teachers is not None:
            yield layer, "top_share", float(top_share(own[0], int((main != 0).sum())))
            yield layer, "aux_share", float(entry_share(own[0], aux != 0))


def _relu(
    net: ReLUNet, teachers: tuple[ReLUTeacher, ReLUTeacher] | None, replica: int
) -> Iterator[tuple[str, str, float]]:
    first = net.first["weight"].detach()[replica].cpu().double()
    readout = net.readout["weight"].detach()[replica].cpu().double()
    main = net.task_slice("main")
    yield "student", "F_1", float(f1_norm(first, readout[main]))
    yield "student", "F_12", float(f12_norm(first, readout))
    sizes = {*CLUSTERS}
    if teachers is not None:
        teacher, other = teachers
        yield "teacher", "F_1", float(f1_norm(teacher.directions.double(), teacher.readout.double()[None]))
        sizes.add(len(teacher.directions))
    # Units that contribute nothing keep the direction of their start, which says nothing of what was learned.
    contributions = unit_contributions(first, readout[main])
    for k in sorted(sizes):
        inertia = partial(kmeans_inertia, first, k, reference=_reference(k))
        yield "student", f"inertia_k{k}", _measured(inertia)
        yield "student", f"contribution_inertia_k{k}", _measured(partial(inertia, unit_weights=contributions))
    if teachers is None:
        return
    for end, directions in (("", teacher.directions), ("_aux", other.directions)):
        k = len(directions)
        alignment = partial(feature_alignment, first, directions.double(), k)
        yield "student", f"alignment_k{k}{end}", _measured(alignment)


def _reference(k: int) -> Reference:
    """Return what inertia is compared with: around their mean, one cluster leaves everything unexplained."""
    return "origin" if k == 1 else "mean"


def _measured(measure: Callable[[], Tensor]) -> float:
    """Return a measure, NaN where the student has too few different units for it."""
    try:
        return float(measure())
    except ConfigurationError:
        return float("nan")
