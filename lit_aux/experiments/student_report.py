"""What a person sees of students after ``lit-aux fit``: a table and a picture."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from lit_aux.experiments.display import mean_and_error
from lit_aux.experiments.student_rows import Row, student_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lit_aux.modules import AuxiliaryModule

_AXES = ("overlap", "correlation", "k_main", "magnitude", "rescale", "n_main")
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
    """Return a table with a row for each cell of the grid: means over seeds, with standard errors."""
    from rich import box
    from rich.table import Table

    title = f"Test loss of {rows[0]['setup']} students: mean ± standard error over seeds"
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
            mean_and_error(row.get("loss_best", "") for row in members),
            mean_and_error(row.get("loss_final", "") for row in members),
            f"{sum(row['converged'] for row in members)}/{len(members)}",
            f"{fmean(row['evaluations'] for row in members):,.0f}",
        )
    return table


def draw_students(rows: Sequence[Row], path: Path) -> Path:
    """Draw the best test loss against the rows of the main task, a line for each value of the other axes.

    Args:
        rows: Of :func:`~lit_aux.experiments.student_rows.student_rows`.
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
    lines = by_cell(rows, others)
    for number, (cell, members) in enumerate(lines.items()):
        points = by_cell(members, ["n_main"])
        x = [key[0][1] for key in points]
        means = [fmean(_values(point, "loss_best")) for point in points.values()]
        errors = [2 * _error(_values(point, "loss_best")) for point in points.values()]
        below = [min(error, 0.9 * mean) for error, mean in zip(errors, means, strict=True)]
        colour = colormaps["viridis"](0.85 * number / max(1, len(lines) - 1))
        label = ", ".join(f"{name} {short(value)}" for name, value in cell)
        axes.errorbar(x, means, [below, errors], label=label, color=colour, marker="o", ms=4, capsize=2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    counts = sorted({row["n_main"] for row in rows})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rows of the main task")
    axes.set_ylabel("best test loss (± 2 s.e. over seeds)")
    axes.set_title(str(rows[0]["setup"]), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if others:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15)
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
        return f"{value:g}"
    parts = [f"{float(part):g}" for part in value.split("|")]
    return parts[0] if len({*parts}) == 1 else "|".join(parts)


def _shown(rows: Sequence[Row]) -> list[str]:
    """Return the axes that vary, and n_main."""
    values = {name: {row[name] for row in rows if name in row} for name in _AXES}
    return [name for name in _AXES if len(values[name]) > 1 or name == "n_main"]


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if name in row]


def _error(values: Sequence[float]) -> float:
    """Return the standard error of a mean; 0 for one value, which says nothing of it."""
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
