"""What a fit of students reached."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, looks_of
from lit_aux.drawing.style import ordered_looks
from lit_aux.experiments.student_report import varied
from lit_aux.results.means import bar, is_log
from lit_aux.results.selection import spelled
from lit_aux.results.statistics import Key, cells
from lit_aux.runs.job import Row
from lit_aux.runs.typed import as_read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_students(rows: Sequence[Row]) -> "Figure":
    """Draw the best test loss against the rows of the main task, a curve for each cell of the other axes.

    Args:
        rows: Of the replicas of one fit, as in its ``results.csv``.
    """
    read = [as_read(row, Path("results.csv")) for row in rows]
    log, others = is_log(read, "loss_best"), [name for name in varied(read) if name != "n_main"]
    lines: dict[Key, list[tuple[float, ...]]] = {}
    for (*place, n_main), cell in cells(read, "loss_best", [*others, "n_main"], log).items():
        if cell.stat is not None:
            lines.setdefault(tuple(place), []).append((n_main, *bar(cell.stat, log), cell.stat.seeds))
    curves = []
    for key, points in lines.items():
        name = ", ".join(f"{axis} {spelled(value)}" for axis, value in zip(others, key, strict=True))
        curves.append(Curve(name or str(rows[0]["setup"]), *zip(*points, strict=True)))
    label = f"{'geometric mean of ' if log else ''}best test loss"
    panel = Panel(("students",), (0, 0), tuple(curves), "rows of the main task", label, str(rows[0]["setup"]))
    looks = looks_of([curve.key for curve in curves], ordered_looks(len(curves)))
    return draw(Layout((panel,), len(rows), looks, scale=1.4))
