"""What a person reads of students after ``lit-aux fit``."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lit_aux.experiments.fit_rows import student_rows
from lit_aux.results.means import is_log, kind_of_mean, mean_and_error
from lit_aux.runs.job import Row
from lit_aux.runs.table import COLUMNS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lit_aux.modules import AuxiliaryModule

_AXES = ("overlap", "correlation", "k_main", "magnitude", "rescale", "n_main")
_ORDERED = (int, float, str)
Cell = tuple[tuple[str, Any], ...]


def report_students(module: "AuxiliaryModule", console: "Console") -> list[Row]:
    """Print how the last phase's replicas ended.

    Args:
        module: One whose network is a student, after ``fit``.
        console: Where the table is printed.

    Returns:
        Their rows.
    """
    rows = student_rows(module)
    if rows:
        if not console.is_terminal:
            console.width = max(console.width, 120)
        console.print(student_table(rows))
    return rows


def student_table(rows: Sequence[Row]) -> "Table":
    """Return a table with a row for each cell of the grid: means as ``lit-aux table`` has them."""
    from rich import box
    from rich.table import Table

    log = {name: is_log(rows, name) for name in ("loss_best", "loss_final")}
    title = f"Test loss of {rows[0]['setup']} students: {kind_of_mean(log['loss_best'])}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = varied(rows)
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


def varied(rows: Sequence[Row]) -> list[str]:
    """Return the axes that vary, those of a teacher of one's own first, and n_main."""
    beside = (*COLUMNS, "evaluations", "replica")
    own = [name for name, value in rows[0].items() if name not in beside and isinstance(value, _ORDERED)]
    names = [*own, *_AXES]
    values = {name: {row[name] for row in rows if name in row} for name in names}
    return [name for name in names if len(values[name]) > 1 or name == "n_main"]
