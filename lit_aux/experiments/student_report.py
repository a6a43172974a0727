"""What a person sees of students after ``lit-aux fit``: a table and a picture."""

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lit_aux.experiments.fit_rows import student_rows
from lit_aux.files import atomic_path
from lit_aux.results.means import is_log, kind_of_mean, mean_and_error, mean_of, scaled
from lit_aux.runs.job import Row
from lit_aux.runs.table import COLUMNS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lit_aux.modules import AuxiliaryModule

_AXES = ("overlap", "correlation", "k_main", "magnitude", "rescale", "n_main")
_ORDERED = (int, float, str)
Cell = tuple[tuple[str, Any], ...]


def report_students(module: "AuxiliaryModule", folder: Path, console: "Console") -> dict[str, str]:
    """Print how the last phase's replicas ended, and draw it.

    Args:
        module: One whose network is a student, after ``fit``.
        folder: The run's folder.
        console: Where the table is printed.

    Returns:
        The picture, where n_main varies, by what it is.
    """
    rows = student_rows(module)
    if not rows:
        return {}
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(student_table(rows))
    files = {}
    if len({row["n_main"] for row in rows}) > 1 and "loss_best" in rows[0]:
        files["picture"] = str(draw_students(rows, folder / "students.png"))
    return files


def student_table(rows: Sequence[Row]) -> "Table":
    """Return a table with a row for each cell of the grid: means as ``lit-aux table`` has them."""
    from rich import box
    from rich.table import Table

    log = {name: is_log(rows, name) for name in ("loss_best", "loss_final")}
    title = f"Test loss of {rows[0]['setup']} students: {kind_of_mean(log['loss_best'])}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = _shown(rows)
    for name in (*shown, "best", "final", "converged", "gradients"):
        # on a narrow terminal the correlations of many units are what breaks
        units = name == "correlation"
        table.add_column(
            name, justify="right", no_wrap=not units, overflow="fold", min_width=11 if units else None
        )
    for cell, members in by_cell(rows, shown).items():
        table.add_row(
            *(short(value) for _, value in cell),
            *(mean_and_error((row.get(name) for row in members), log[name]) for name in log),
            f"{sum(row['converged'] for row in members)}/{len(members)}",
            f"{fmean(row['evaluations'] for row in members):,.0f}",
        )
    return table


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
    others = [name for name in _shown(rows) if name != "n_main"]
    log = is_log(rows, "loss_best")
    lines = by_cell(rows, others)
    for number, (cell, members) in enumerate(lines.items()):
        points = by_cell(members, ["n_main"])
        x = [key[0][1] for key in points]
        bars = [_bar(point, "loss_best", log) for point in points.values()]
        means, below, above = zip(*bars, strict=True)
        colour = colormaps["viridis"](0.85 * number / max(1, len(lines) - 1))
        label = ", ".join(f"{name} {short(value)}" for name, value in cell)
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


def by_cell(rows: Sequence[Row], names: Sequence[str]) -> dict[Cell, list[Row]]:
    """Return the rows by their values of some axes, in the order of those values."""
    cells: dict[Cell, list[Row]] = {}
    for row in sorted(rows, key=lambda row: tuple(row[name] for name in names)):
        cells.setdefault(tuple((name, row[name]) for name in names), []).append(row)
    return cells


def short(value: Any) -> str:
    """Return a value of an axis as it is read; correlations that are all alike as one."""
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else f"{value:g}"
    try:
        parts = [f"{float(part):g}" for part in value.split("|")]
    except ValueError:  # a word
        return value
    return parts[0] if len({*parts}) == 1 else "|".join(parts)


def _shown(rows: Sequence[Row]) -> list[str]:
    """Return the axes that vary, those of a teacher of one's own first, and n_main."""
    beside = (*COLUMNS, "evaluations", "replica")
    own = [name for name, value in rows[0].items() if name not in beside and isinstance(value, _ORDERED)]
    names = [*own, *_AXES]
    values = {name: {row[name] for row in rows if name in row} for name in names}
    return [name for name in names if len(values[name]) > 1 or name == "n_main"]


def _bar(rows: Sequence[Row], name: str, log: bool) -> tuple[float, float, float]:
    """Return a mean and how far two standard errors reach below and above it; 0 for one seed."""
    values = [scaled(float(row[name]), log) for row in rows if name in row and not isnan(row[name])]
    if not values:
        return nan, nan, nan
    stat = mean_of(values)
    reach = 0.0 if isnan(stat.error) else 2 * stat.error
    if log:
        mean = 10**stat.mean
        return mean, mean - 10 ** (stat.mean - reach), 10 ** (stat.mean + reach) - mean
    return stat.mean, min(reach, 0.9 * stat.mean), reach
