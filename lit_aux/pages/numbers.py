"""The tables of means, paired differences and winners: those that ``lit-aux table`` prints."""

from collections.abc import Sequence

from lit_aux.errors import ConfigurationError
from lit_aux.pages.grid import Grid
from lit_aux.results import selection, sheets
from lit_aux.results.means import is_log
from lit_aux.results.sheet import Sheet
from lit_aux.results.sheets import Query
from lit_aux.runs.typed import Row

BASELINE = "STL"


def grids_of(rows: Sequence[Row]) -> tuple[list[Grid], list[str]]:
    """Return the tables, and what cannot be shown.

    Rows whose tables are about different columns, losses of students and accuracies of images say, are not
    in one table.
    """
    found: list[Grid] = []
    notes: list[str] = []
    for part in _alike(rows):
        try:
            found += [Grid.of(sheet, "; lit-aux table prints all") for sheet in _sheets(part)]
        except ConfigurationError as error:
            notes.append(str(error).removeprefix("FILE: "))
    return found, notes


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows by the column that those of their experiment are about."""
    by_experiment: dict[object, list[Row]] = {}
    for row in rows:
        by_experiment.setdefault(row.get("experiment"), []).append(row)
    about: dict[object, str | None] = {}
    for name, own in by_experiment.items():
        try:
            about[name] = selection.default_value(own)
        except ConfigurationError:  # all failed: they belong to whatever there is
            about[name] = None
    values = list(dict.fromkeys(value for value in about.values() if value is not None))
    if len(values) < 2:
        return [list(rows)] if rows else []
    return [[row for row in rows if about[row.get("experiment")] in (value, None)] for value in values]


def _sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Return what ``lit-aux table`` prints of rows."""
    value = selection.default_value(rows)
    query = Query(rows, value, is_log(rows, value), selection.is_higher_better(value))
    found = [sheets.means(query)]
    if (paired := sheets.pairs(query, BASELINE)).rows:
        found.append(paired)
    if query.higher is not None and (won := sheets.who_wins(query)).rows:
        found.append(won)
    return found
