"""Results tables and published ones as typed rows: without torch, and quick to import."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.results import COLUMNS, MEASURE_COLUMNS, measures_path

PathLike: TypeAlias = str | os.PathLike[str]
Row: TypeAlias = dict[str, Any]
_WHOLE = ("seed", "n_main", "overlap", "k_main", "steps", "step", "seeds")
_TEXT = ("run", "experiment", "setup", "solver", "error", "phase", "layer", "measure", "quantity")


def read_rows(paths: PathLike | Iterable[PathLike]) -> list[Row]:
    """Read one or several results tables, one after the other.

    A folder stands for its ``results.csv``, or for every one beneath it where it has none itself. A run that
    several tables hold is taken once: the first row that is not of a failed run. Published tables are read as
    well: rows without ``run``, with fewer columns or other ones (``accuracy_se``, ``baseline``, ``seeds``).

    Args:
        paths: Files or folders.

    Returns:
        One mapping a row, in the order of the files. It has every column of the results table (None where
        the file has none or the field is empty) and the file's others. Numbers are int or float,
        ``converged`` is a truth value, ``correlation`` a tuple of floats. Failed runs are among them: those
        where ``error`` is not None.

    Raises:
        ConfigurationError: If there is no such table, or a field is not what its column says.
    """
    return [row for row, _ in _taken(paths)]


def read_measures(paths: PathLike | Iterable[PathLike]) -> list[Row]:
    """Read the measures beside results tables: of the rows that :func:`read_rows` returns for the same paths.

    Args:
        paths: The results tables, or folders, as for :func:`read_rows`.

    Returns:
        One mapping a row: ``run, phase, step, layer, measure, value``. ``value`` is a float, or text where
        it is no number; what is empty is None.

    Raises:
        ConfigurationError: If there is no such table, or a file is not of this kind.
    """
    homes: dict[Path, set[str]] = {}
    for row, path in _taken(paths):
        homes.setdefault(path, set()).add(row["run"])
    measures: list[Row] = []
    for table, runs in homes.items():
        path = measures_path(table)
        if path.is_file():
            rows = _typed(path, MEASURE_COLUMNS, MEASURE_COLUMNS)
            measures += [{name: row[name] for name in MEASURE_COLUMNS} for row in rows if row["run"] in runs]
    return measures


def tables_of(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return the files that paths stand for, each once: files themselves, and tables within folders.

    Raises:
        ConfigurationError: If there is no such file, or no table in a folder.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            own = path / "results.csv"
            inside = [own] if own.is_file() else sorted(path.rglob("results.csv"))
            if not inside:
                raise ConfigurationError(f"FILE {path}: there is no results.csv in this folder")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            raise ConfigurationError(f"FILE {path}: there is no such file")
    return list(found)


def _taken(paths: PathLike | Iterable[PathLike]) -> list[tuple[Row, Path]]:
    """Return every row that counts, and the file it is from."""
    taken: list[tuple[Row, Path]] = []
    places: dict[str, int] = {}
    for path in tables_of(paths):
        for row in _typed(path, COLUMNS, (), ("setup", "quantity")):
            run = row["run"]
            if run is None or run not in places:
                if run is not None:
                    places[run] = len(taken)
                taken.append((row, path))
            elif taken[places[run]][0]["error"] is not None and row["error"] is None:
                taken[places[run]] = (row, path)
    return taken


def _typed(
    path: Path, columns: Iterable[str], needed: Iterable[str], one_of: Iterable[str] = ()
) -> list[Row]:
    """Read a file; every row has at least these columns.

    Args:
        path: The file.
        columns: Columns that each row has in the end.
        needed: Columns without which the file is of another kind.
        one_of: Likewise, where one of them is enough.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(_whole_lines(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"FILE {path}: cannot be read ({reason})") from None
    reader = csv.reader(lines)
    header = next(reader, [])
    if not {*needed} <= {*header} or (one_of and not {*one_of} & {*header}):
        raise ConfigurationError(
            f"FILE {path}: is no results table; its first line is {','.join(header)[:60]!r}"
        )
    empty: Row = dict.fromkeys([*columns, *header])
    return [
        empty
        | {name: _value(path, reader.line_num, name, text) for name, text in zip(header, fields, strict=True)}
        for fields in reader
        if len(fields) == len(header)
    ]


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file but for a last one that a writer has not ended; others end theirs or not."""
    own = False
    for number, line in enumerate(file):
        own = own or (number == 0 and line.startswith("run,"))
        if line.endswith("\n") or not own:
            yield line


def _value(path: Path, line: int, name: str, text: str) -> Any:
    """Return what a field says."""
    if text == "":
        return None
    if name in _TEXT:
        return text
    try:
        if name == "correlation":
            return tuple(float(part) for part in text.split("|"))
        if name == "converged":
            return {"true": True, "false": False}[text.lower()]
        number = float(text)
        return int(number) if name in _WHOLE else number
    except (ValueError, KeyError, OverflowError):
        if name in COLUMNS or name in _WHOLE:
            raise ConfigurationError(f"FILE {path}: line {line}: {name} cannot be {text!r}") from None
        return text
