"""The list of runs, with links into their folders."""

from collections.abc import Sequence
from typing import Any

from lit_aux.errors import printable, shortened
from lit_aux.pages.grid import MOST_LINES, Cell, Grid, setup_cell
from lit_aux.pages.links import Links
from lit_aux.pages.sources import Sources
from lit_aux.results.selection import options_of, spelled
from lit_aux.runs.table import COLUMNS
from lit_aux.runs.typed import Row

NEWEST = 500
"""Rows that a page has where there are more than :data:`~lit_aux.pages.grid.MOST_LINES`."""
_FIRST = ("experiment", "task", "setup")
_PLACES = COLUMNS[3 : COLUMNS.index("loss_best")]
_FOUND = ("value", *COLUMNS[COLUMNS.index("loss_best") : -1])
_OPTIONS = 8  # options of a sweep that get a column


def list_of_runs(sources: Sources, links: Links) -> Grid:
    """Return a line for each row; of very many, the newest."""
    rows = sources.rows
    shown = rows if len(rows) <= MOST_LINES else rows[-NEWEST:]
    options = options_of(sources.measures)
    varied = _varied(shown, options)
    others = [name for name in dict.fromkeys(n for row in shown for n in row) if _is_other(name)]
    labels = [*_FIRST, *_PLACES, *others, *varied]
    columns = ["run", *labels, *_FOUND, "state"]
    grid = Grid("Each run", columns, labels=1 + len(labels), texts=frozenset({len(columns) - 1}))
    for row in shown:
        own = options.get(row.get("run") or "", {})
        cells = [Cell(_text(own.get(name) if name in varied else row.get(name))) for name in labels]
        cells[2] = setup_cell(spelled(row.get("setup")))
        numbers = [Cell(_text(row.get(name))) for name in _FOUND]
        grid.rows.append([links.run(row.get("run")), *cells, *numbers, _state(row)])
    if len(shown) < len(rows):
        grid.notes.append(
            f"the {len(shown)} newest of {len(rows):,} rows, the last ones of the tables; the tables of "
            "means hold all"
        )
    return grid.without_empty().without_alike()


def _varied(rows: Sequence[Row], options: dict[str, dict[str, Any]]) -> list[str]:
    """Return the options of a sweep that differ from run to run."""
    of_rows = [options.get(row.get("run") or "", {}) for row in rows]
    names = dict.fromkeys(name for own in of_rows for name in own)
    return [name for name in names if len({str(own.get(name)) for own in of_rows}) > 1][:_OPTIONS]


def _is_other(name: str) -> bool:
    """Whether a column is one of published tables only."""
    return name not in (*COLUMNS, "task", "value")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.5g}"
    return printable(shortened(spelled(value), 200))


def _state(row: Row) -> Cell:
    error = row.get("error")
    if error is not None:
        return Cell(f"failed: {printable(shortened(str(error), 300))}", tone="bad")
    return Cell("")
