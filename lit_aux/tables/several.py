"""Measures of runs of which there are several rows."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lit_aux.errors import ConfigurationError
from lit_aux.runs.duplicates import HINT, chosen, mean_value, same, shown
from lit_aux.runs.table import MEASURE_COLUMNS, measures_path
from lit_aux.tables.typed import Row, TableRow, typed

_Key = tuple[str | None, ...]
_WHAT = ("phase", "layer", "measure")


def measures_of(
    groups: Sequence[Sequence[TableRow]],
    duplicates: str | None = None,
    checked: Collection[str] | None = None,
) -> list[Row]:
    """Return the measures of the rows that count.

    Args:
        groups: The rows of each run.
        duplicates: Which of several rows count, as for :func:`~lit_aux.tables.reading.read_rows`.
        checked: The measures that must agree where there are several rows of a run; all by default.

    Raises:
        ConfigurationError: If a file is of another kind; if what was measured of a run differs from row to
            row by more than one hundredth and ``duplicates`` is None.
    """
    files = {one.path: None for group in groups for one in group if one.row["run"] is not None}
    found = {path: _read(path) for path in files}
    single: dict[Path, set[str]] = {}
    several: list[Row] = []
    for group in groups:
        run = group[0].row["run"]
        if len(group) > 1:
            several += _settled(
                group, {one.path: found[one.path].get(run, []) for one in group}, duplicates, checked
            )
        elif run is not None:
            single.setdefault(group[0].path, set()).add(run)
    kept = [rows for path, runs in single.items() for run, rows in found[path].items() if run in runs]
    return [row for rows in kept for row in rows] + several


def _read(table: Path) -> dict[str, list[Row]]:
    """Return the measures beside a table by run."""
    path = measures_path(table)
    found: dict[str, list[Row]] = {}
    for row, _ in typed(path, MEASURE_COLUMNS, MEASURE_COLUMNS) if path.is_file() else []:
        found.setdefault(row["run"], []).append({name: row[name] for name in MEASURE_COLUMNS})
    return found


def _settled(
    group: Sequence[TableRow],
    found: Mapping[Path, Sequence[Row]],
    how: str | None,
    checked: Collection[str] | None,
) -> list[Row]:
    """Return the measures of one run, of which there are several rows."""
    counts = Counter(one.path for one in group)
    good = [group[number] for number in chosen([(one.row, one.place) for one in group], "mean")]
    by_key: dict[_Key, list[tuple[TableRow, Row]]] = {}
    for one in good:
        # of several rows in one file, each has its own part of the measures, in the same order
        turn = one.turn if counts[one.path] > 1 else None
        for key, row in _of_turn(turn, found[one.path]).items():
            by_key.setdefault(key, []).append((one, row))
    if how in ("first", "last"):
        wanted = good[0 if how == "first" else -1]
        return [row for places in by_key.values() for one, row in places if one is wanted]
    kept = []
    for (*_, name), places in by_key.items():
        values = [row["value"] for _, row in places]
        if how is None and (checked is None or name in checked):
            _check(name, places)
        kept.append({**places[0][1], "value": mean_value(values) if how == "mean" else values[0]})
    return kept


def _of_turn(turn: int | None, measures: Sequence[Row]) -> dict[_Key, Row]:
    """Return each measure: the last one of its name, or that of a turn."""
    found: dict[_Key, list[Row]] = {}
    for row in measures:
        found.setdefault(tuple(row[name] for name in _WHAT), []).append(row)
    return {key: rows[-1 if turn is None else min(turn, len(rows) - 1)] for key, rows in found.items()}


def _check(name: str | None, places: Sequence[tuple[TableRow, Row]]) -> None:
    first, own = places[0]
    for other, row in places[1:]:
        if not same(own["value"], row["value"]):
            raise ConfigurationError(
                f"FILE: there are {len(places)} rows of run {own['run']} and the measure {name} differs: "
                f"{shown(own['value'])} ({first.place}), {shown(row['value'])} ({other.place}); {HINT}"
            )
