"""What a fit of students reached."""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, looks_of
from lit_aux.drawing.style import ordered_looks
from lit_aux.experiments.student_report import by_cell, short, varied
from lit_aux.figures.curves import average
from lit_aux.results.means import is_log
from lit_aux.runs.job import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_students(rows: Sequence[Row]) -> "Figure":
    """Draw the best test loss against the rows of the main task, a curve for each cell of the other axes.

    Args:
        rows: Of the replicas of one fit, as in its ``results.csv``.
    """
    log = is_log(rows, "loss_best")
    curves = []
    for cell, members in by_cell(rows, [name for name in varied(rows) if name != "n_main"]).items():
        known = [row for row in members if not isnan(row["loss_best"])]
        points = [
            (
                key[0][1],
                *average([row["loss_best"] for row in same], "geometric" if log else "arithmetic"),
                len(same),
            )
            for key, same in by_cell(known, ["n_main"]).items()
        ]
        name = ", ".join(f"{axis} {short(value)}" for axis, value in cell) or str(rows[0]["setup"])
        if points:
            curves.append(Curve(name, *zip(*points, strict=True)))
    label = f"{'geometric mean of ' if log else ''}best test loss"
    panel = Panel(("students",), (0, 0), tuple(curves), "rows of the main task", label, str(rows[0]["setup"]))
    looks = looks_of([curve.key for curve in curves], ordered_looks(len(curves)))
    return draw(Layout((panel,), len(rows), looks, scale=1.4))
