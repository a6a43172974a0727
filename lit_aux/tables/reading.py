"""Results tables and published ones as typed rows: without torch, and quick to import."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.duplicates import settled
from lit_aux.experiments.results import COLUMNS
from lit_aux.storage import check_given
from lit_aux.tables.row_tasks import name_tasks
from lit_aux.tables.several import measures_of
from lit_aux.tables.typed import Row, TableRow, typed

__all__ = ["PathLike", "Row", "read_measures", "read_rows", "tables_of"]

PathLike: TypeAlias = str | os.PathLike[str]
_CELL = (*COLUMNS[2 : COLUMNS.index("loss_best")], "quantity", "layer")
"""What tells cells of an experiment apart."""


def read_rows(paths: PathLike | Iterable[PathLike], duplicates: str | None = None) -> list[Row]:
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
        One mapping a row, in the order of the files. It has every column of the results table (None where
        the file has none or the field is empty), the file's others, and ``task``, which task the row
        is about, where anything tells it. Numbers are int or float, ``converged`` is a truth value,
        ``correlation`` a tuple of floats. Failed runs are among them: those where ``error`` is not None.

    Raises:
        ConfigurationError: If there is no such table, a field is not what its column says, or rows of one
            run differ.
    """
    groups = _groups(paths)
    rows = settled([[(one.row, one.place) for one in group] for group in groups], duplicates)
    _name_experiments(rows, groups)
    name_tasks(rows, groups)
    return rows


def read_measures(
    paths: PathLike | Iterable[PathLike],
    duplicates: str | None = None,
    checked: Collection[str] | None = None,
) -> list[Row]:
    """Read the measures beside results tables: of the rows that :func:`read_rows` returns for the same paths.

    Args:
        paths: The results tables, or folders, as for :func:`read_rows`.
        duplicates: As for :func:`read_rows`.
        checked: The measures that must agree where there are several rows of a run; all by default.

    Returns:
        One mapping a row, ``run, phase, step, layer, measure, value``. ``value`` is a float, or text where
        it is no number; what is empty is None.

    Raises:
        ConfigurationError: If there is no such table, a file is not of this kind, or measures of one run
            differ in its several tables.
    """
    return measures_of(_groups(paths), duplicates, checked)


def tables_of(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return the files that paths stand for, each once: files themselves, and tables within folders.

    Raises:
        ConfigurationError: If there is no such file, or no table in a folder.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for path in given:
        check_given("FILE", path)
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            own = path / "results.csv"
            inside = [own] if own.is_file() else sorted(filter(_counts(path), path.rglob("results.csv")))
            if not inside:
                raise ConfigurationError(f"FILE {path}: there is no results.csv in this folder")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            raise ConfigurationError(f"FILE {path}: there is no such file")
    return list(found)


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


def _counts(folder: Path) -> Callable[[Path], bool]:
    """Return what tells tables beneath a folder from those in its hidden folders: trash, snapshots."""

    def counts(path: Path) -> bool:
        return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)

    return counts


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
