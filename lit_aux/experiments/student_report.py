"""What a person reads of students after ``lit-aux fit``."""

from collections.abc import Sequence
from pathlib import Path

from lit_aux.results.means import is_log, kind_of_mean, spelled_mean
from lit_aux.results.selection import spelled
from lit_aux.results.sheet import Sheet
from lit_aux.results.statistics import cells
from lit_aux.runs.table import COLUMNS
from lit_aux.runs.typed import Row, as_read

_AXES = ("overlap", "correlation", "k_main", "magnitude", "rescale", "n_main")
_ORDERED = (int, float, str)


def student_table(rows: Sequence[Row]) -> Sheet:
    """Return a table with a row for each cell of the grid: means as ``lit-aux table`` has them."""
    read = [as_read(row, Path("results.csv")) for row in rows]
    log, names = is_log(read, "loss_best"), varied(read)
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


def varied(rows: Sequence[Row]) -> list[str]:
    """Return the axes that vary, those of a teacher of one's own first, and n_main."""
    beside = (*COLUMNS, "evaluations", "replica")
    own = [name for name, value in rows[0].items() if name not in beside and isinstance(value, _ORDERED)]
    names = [*own, *_AXES]
    values = {name: {row[name] for row in rows if name in row} for name in names}
    return [name for name in names if len(values[name]) > 1 or name == "n_main"]
