"""The tables of means, paired differences and winners: those that ``lit-aux table`` prints."""

from collections.abc import Sequence

from lit_aux.errors import ConfigurationError
from lit_aux.pages.grid import Grid
from lit_aux.results import selection, table
from lit_aux.runs.typed import Row


def grids_of(rows: Sequence[Row]) -> tuple[list[Grid], list[str]]:
    """Return the tables, and what cannot be shown.

    Rows whose tables are about different columns, losses of students and accuracies of images say, are not
    in one table.
    """
    found: list[Grid] = []
    notes: list[str] = []
    for part in _alike(rows):
        try:
            found += [Grid.of(sheet, "; lit-aux table prints all") for sheet in table(part)]
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
