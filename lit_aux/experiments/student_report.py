"""What a person sees of students after ``lit-aux fit``: a table and a picture."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from lit_aux.experiments.fit_rows import student_rows
from lit_aux.files import atomic_path
from lit_aux.results.means import bar, is_log, kind_of_mean, spelled_mean
from lit_aux.results.selection import spelled
from lit_aux.results.sheet import Sheet, show
from lit_aux.results.statistics import Key, cells
from lit_aux.runs.table import COLUMNS
from lit_aux.runs.typed import Row, as_read

if TYPE_CHECKING:
    from lit_aux.modules import AuxiliaryModule

_AXES = ("overlap", "correlation", "k_main", "magnitude", "rescale", "n_main")
_ORDERED = (int, float, str)


def report_students(module: "AuxiliaryModule", folder: Path) -> dict[str, str]:
    """Print how the last phase's replicas ended, and draw it.

    Args:
        module: One whose network is a student, after ``fit``.
        folder: The run's folder.

    Returns:
        The picture, where n_main varies, by what it is.
    """
    rows = student_rows(module)
    if not rows:
        return {}
    show([student_table(rows)])
    files = {}
    if len({row["n_main"] for row in rows}) > 1 and "loss_best" in rows[0]:
        files["picture"] = str(draw_students(rows, folder / "students.png"))
    return files


def student_table(rows: Sequence[Row]) -> Sheet:
    """Return a table with a row for each cell of the grid: means as ``lit-aux table`` has them."""
    read = [as_read(row, Path("results.csv")) for row in rows]
    log, names = is_log(read, "loss_best"), _shown(read)
    columns = [*names, "best", "final", "converged", "gradients"]
    title = f"Test loss of {read[0]['setup']} students: {kind_of_mean(log)}"
    sheet = Sheet(title, columns, labels=len(names))
    measured = [("loss_best", log), ("loss_final", log), ("evaluations", False)]
    found = [cells(read, value, names, of_logs) for value, of_logs in measured]
    for key, cell in found[0].items():
        best, final, gradients = (of_value[key].stat for of_value in found)
        numbers = [spelled_mean(best, log), spelled_mean(final, log), f"{cell.converged}/{cell.runs}"]
        sheet.rows.append([*map(spelled, key), *numbers, f"{gradients.mean:,.0f}" if gradients else "-"])
    return sheet


def draw_students(rows: Sequence[Row], path: Path) -> Path:
    """Draw the best test loss against the rows of the main task, a line for each value of the other axes.

    Args:
        rows: Of :func:`~lit_aux.experiments.fit_rows.student_rows`.
        path: The PNG to write.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    read = [as_read(row, path) for row in rows]
    others = [name for name in _shown(read) if name != "n_main"]
    log = is_log(read, "loss_best")
    lines: dict[Key, list[tuple[float, float, float, float]]] = {}
    for (*place, n_main), values in cells(read, "loss_best", [*others, "n_main"], log).items():
        mean, low, high = bar(values.stat, log)
        # of one seed there is no bar; where the lower end is no loss, the bar ends above 0
        reach = 0 if isnan(low) else mean - low if log else min(mean - low, 0.9 * mean)
        lines.setdefault(tuple(place), []).append((n_main, mean, reach, 0 if isnan(high) else high - mean))
    for number, (cell, points) in enumerate(lines.items()):
        x, means, below, above = zip(*points, strict=True)
        colour = colormaps["viridis"](0.85 * number / max(1, len(lines) - 1))
        label = ", ".join(f"{name} {spelled(value)}" for name, value in zip(others, cell, strict=True))
        axes.errorbar(x, means, [below, above], label=label, color=colour, marker="o", ms=4, capsize=2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    counts = sorted({row["n_main"] for row in rows})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rows of the main task")
    axes.set_ylabel(f"best test loss ({'geometric mean ' if log else ''}± 2 s.e. over seeds)")
    axes.set_title(str(rows[0]["setup"]), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if others:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def _shown(rows: Sequence[Row]) -> list[str]:
    """Return the axes that vary, those of a teacher of one's own first, and n_main."""
    beside = (*COLUMNS, "evaluations", "replica")
    own = [name for name, value in rows[0].items() if name not in beside and isinstance(value, _ORDERED)]
    names = [*own, *_AXES]
    values = {name: {row[name] for row in rows if name in row} for name in names}
    return [name for name in names if len(values[name]) > 1 or name == "n_main"]
