"""Results tables, published ones and measures as typed rows: without torch, and quick to import."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from lit_aux.errors import ConfigurationError
from lit_aux.runs.duplicates import HINT, check_one_kind, chosen, mean_value, same, settled, shown
from lit_aux.runs.row_tasks import name_tasks
from lit_aux.runs.table import COLUMNS, MEASURE_COLUMNS, measures_path
from lit_aux.runs.typed import Row, TableRow, typed
from lit_aux.spreadsheets import as_html
from lit_aux.storage import check_given

PathLike: TypeAlias = str | os.PathLike[str]
_CELL = (*COLUMNS[2 : COLUMNS.index("loss_best")], "quantity", "layer")
"""What tells cells of an experiment apart."""
_KINDS = "they were drawn differently (what ends their names says how): read one of the tables"
_Key = tuple[str | None, ...]
_WHAT = ("phase", "layer", "measure")


class Rows(list[Row]):
    """Rows of a table; a notebook shows the first of them, and the columns in which they differ."""

    def _repr_html_(self) -> str:
        values: dict[str, set[object]] = {}
        for row in self:
            for name, value in row.items():
                values.setdefault(name, set()).add(value)
        columns = [name for name, found in values.items() if len(found) > 1]
        alike = {name: _told(*found) for name, found in values.items() if len(found) == 1 and found != {None}}
        failed = sum(row.get("error") is not None for row in self)
        first = [[_told(row.get(name)) for name in columns] for row in self[:_FIRST]]
        notes = [f"all: {', '.join(f'{name} {value}' for name, value in alike.items())}"] if alike else []
        notes += [f"the first {_FIRST} are shown"] if len(self) > _FIRST else []
        title = f"{len(self):,} rows" + (f", {failed:,} of runs that failed" if failed else "")
        return as_html(title, columns, first, notes=notes)


_FIRST = 20


def _told(value: object) -> str:
    """Write a value for a reader."""
    if isinstance(value, tuple):
        return "|".join(map(_told, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read_rows(paths: PathLike | Iterable[PathLike], duplicates: str | None = None) -> Rows:
    """Read one or several results tables, one after the other.

    A folder stands for its ``results.csv``, or for every one beneath it where it has none itself. A run that
    is there several times, in one table or in several, counts once if its rows agree; those of failed runs
    give way to others. Published tables are read as well: rows without ``run``, with fewer columns or other
    ones (``accuracy_se``, ``baseline``, ``seeds``); of several that do not name their experiment, it is
    called after its file.

    Args:
        paths: Files or folders.
        duplicates: What counts where rows of one run differ by more than one hundredth: ``first``, ``last``,
            or the arithmetic ``mean`` of each value. By default they are refused.

    Returns:
        One mapping a row, in the order of the files, as a list that a notebook shows. A row has every
        column of the results table (None where the file has none or the field is empty), the file's others,
        and ``task``, which task the row is about, where anything tells it. Numbers are int or float,
        ``converged`` is a truth value, ``correlation`` a tuple of floats. Failed runs are among them: those
        where ``error`` is not None.

    Raises:
        ConfigurationError: If there is no such table, a field is not what its column says, rows of one run
            differ, or those of one experiment have other draws or sizes of teachers.
    """
    groups = _groups(paths)
    rows = settled([[(one.row, one.place) for one in group] for group in groups], duplicates)
    check_one_kind("FILE", rows, _KINDS)
    _name_experiments(rows, groups)
    name_tasks(rows, groups)
    return Rows(rows)


def read_measures(
    paths: PathLike | Iterable[PathLike],
    duplicates: str | None = None,
    checked: Collection[str] | None = None,
) -> Rows:
    """Read the measures beside results tables: of the rows that :func:`read_rows` returns for the same paths.

    Args:
        paths: The results tables, or folders, as for :func:`read_rows`.
        duplicates: As for :func:`read_rows`.
        checked: The measures that must agree where there are several rows of a run; all by default.

    Returns:
        One mapping a row, ``run, phase, step, layer, measure, value``, as a list that a notebook shows.
        ``value`` is a float, or text where it is no number; what is empty is None.

    Raises:
        ConfigurationError: If there is no such table, a file is not of this kind, or measures of one run
            differ in its several tables.
    """
    return Rows(measures_of(_groups(paths), duplicates, checked))


def tables_of(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return the files that paths stand for, each once: files themselves, and tables within folders.

    Raises:
        ConfigurationError: If there is no such file, or no table in a folder.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return files_of("FILE", given, "results.csv", nearest=True)


def files_of(
    option: str, paths: Iterable[PathLike], name: str, hint: str = "", *, nearest: bool = False
) -> list[Path]:
    """Return files that are given by themselves or by a folder that has some, each once.

    Args:
        option: The option that names them, for errors.
        paths: Files, and folders, for all files of the name beneath.
        name: What they are called.
        hint: What to do where there is none.
        nearest: Whether a file in a folder itself stands for the folder.

    Raises:
        ConfigurationError: For what is not there, or a folder without any.
    """
    found: dict[Path, Path] = {}
    for given in paths:
        check_given(option, given)
        path = Path(given)
        if not path.exists():
            raise ConfigurationError(f"{option} {path}: there is no such file or folder")
        own = path / name if nearest and path.is_dir() else path
        inside = [own] if own.is_file() else files_beneath(path, name)
        if not inside:
            raise ConfigurationError(f"{option} {path}: there is no {name} in this folder{hint}")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def files_beneath(folder: Path, name: str) -> list[Path]:
    """Return the files of a name anywhere in a folder but in hidden folders: trash, snapshots."""
    found = (path for path in folder.rglob(name) if path.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _groups(paths: PathLike | Iterable[PathLike]) -> list[list[TableRow]]:
    """Return every row: those of one run together, in the order in which runs come."""
    groups: list[list[TableRow]] = []
    of_run: dict[str, list[TableRow]] = {}
    for path in tables_of(paths):
        for row, line in typed(path, COLUMNS, (), ("setup", "quantity")):
            run = row["run"]
            group = [] if run is None else of_run.setdefault(run, [])
            if not group:
                groups.append(group)
            group.append(TableRow(row, path, line, sum(one.path == path for one in group)))
    return groups


def _name_experiments(rows: Sequence[Row], groups: Sequence[Sequence[TableRow]]) -> None:
    """Call rows after their files where several files do not name their experiment and have a cell in common.

    Two experiments in one cell would be averaged; parts of one experiment have no cell in common.
    """
    nameless = [
        (row, group[0].path)
        for row, group in zip(rows, groups, strict=True)
        if row["run"] is None and row["experiment"] is None
    ]
    of_cell: dict[tuple[object, ...], set[Path]] = {}
    for row, path in nameless:
        of_cell.setdefault(tuple(row.get(name) for name in _CELL), set()).add(path)
    if any(len(paths) > 1 for paths in of_cell.values()):
        for row, path in nameless:
            row["experiment"] = path.stem


# Measures


def measures_of(
    groups: Sequence[Sequence[TableRow]],
    duplicates: str | None = None,
    checked: Collection[str] | None = None,
) -> list[Row]:
    """Return the measures of the rows that count.

    Args:
        groups: The rows of each run.
        duplicates: Which of several rows count, as for :func:`~lit_aux.runs.reading.read_rows`.
        checked: The measures that must agree where there are several rows of a run; all by default.

    Raises:
        ConfigurationError: If a file is of another kind; if what was measured of a run differs from row to
            row by more than one hundredth and ``duplicates`` is None.
    """
    files = {one.path: None for group in groups for one in group if one.row["run"] is not None}
    found = {path: _read_measures(path) for path in files}
    single: dict[Path, set[str]] = {}
    several: list[Row] = []
    for group in groups:
        run = group[0].row["run"]
        if len(group) > 1:
            several += _settled_measures(
                group, {one.path: found[one.path].get(run, []) for one in group}, duplicates, checked
            )
        elif run is not None:
            single.setdefault(group[0].path, set()).add(run)
    kept = [rows for path, runs in single.items() for run, rows in found[path].items() if run in runs]
    return [row for rows in kept for row in rows] + several


def _read_measures(table: Path) -> dict[str, list[Row]]:
    """Return the measures beside a table by run."""
    path = measures_path(table)
    found: dict[str, list[Row]] = {}
    for row, _ in typed(path, MEASURE_COLUMNS, MEASURE_COLUMNS) if path.is_file() else []:
        found.setdefault(row["run"], []).append({name: row[name] for name in MEASURE_COLUMNS})
    return found


def _settled_measures(
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
            _check_measure(name, places)
        kept.append({**places[0][1], "value": mean_value(values) if how == "mean" else values[0]})
    return kept


def _of_turn(turn: int | None, measures: Sequence[Row]) -> dict[_Key, Row]:
    """Return each measure: the last one of its name, or that of a turn."""
    found: dict[_Key, list[Row]] = {}
    for row in measures:
        found.setdefault(tuple(row[name] for name in _WHAT), []).append(row)
    return {key: rows[-1 if turn is None else min(turn, len(rows) - 1)] for key, rows in found.items()}


def _check_measure(name: str | None, places: Sequence[tuple[TableRow, Row]]) -> None:
    first, own = places[0]
    for other, row in places[1:]:
        if not same(own["value"], row["value"]):
            raise ConfigurationError(
                f"FILE: there are {len(places)} rows of run {own['run']} and the measure {name} differs: "
                f"{shown(own['value'])} ({first.place}), {shown(row['value'])} ({other.place}); {HINT}"
            )
