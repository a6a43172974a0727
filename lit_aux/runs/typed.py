"""CSV files of results and measures as typed rows."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isinf, isnan
from pathlib import Path
from typing import Any, TypeAlias

from lit_aux.errors import ConfigurationError, shortened
from lit_aux.runs.table import COLUMNS
from lit_aux.spreadsheets import meant

Row: TypeAlias = dict[str, Any]
_WHOLE = ("seed", "n_main", "overlap", "k_main", "steps", "step", "seeds")
_TEXT = ("run", "experiment", "setup", "solver", "error", "phase", "layer", "measure", "quantity", "task")


@dataclass(frozen=True)
class TableRow:
    """A row of a results table and where it is.

    Attributes:
        row: What it says.
        path: The file.
        line: In which line.
        turn: How many rows of the same run the file has above it.
    """

    row: Row
    path: Path
    line: int
    turn: int

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.path}, line {self.line}"


def typed(
    path: Path, columns: Iterable[str], needed: Iterable[str], one_of: Iterable[str] = ()
) -> list[tuple[Row, int]]:
    """Read a file: its rows, each with at least these columns, and in which line they are.

    Args:
        path: The file.
        columns: Columns that each row has in the end.
        needed: Columns without which the file is of another kind.
        one_of: Likewise, where one of them is enough.

    Raises:
        ConfigurationError: If it cannot be read, is of another kind, a line has more or fewer fields than the
            first, or a field is not what its column says.
    """
    header, read = csv_rows("FILE", path)
    if not {*needed} <= {*header} or (one_of and not {*one_of} & {*header}):
        shown = ",".join(header)[:60]
        raise ConfigurationError(f"FILE {path}: is no results table; its first line is {shown!r}")
    empty: Row = dict.fromkeys([*columns, *header])
    rows: list[tuple[Row, int]] = []
    for fields, line in read:
        values = {n: _value(path, line, n, text) for n, text in zip(header, fields, strict=True)}
        rows.append((empty | values, line))
    return rows


def as_read(row: Mapping[str, Any], path: Path) -> Row:
    """Return a row as it will be read once it is in a file, or as it stands there as text.

    Args:
        row: Columns that are not known, too; what is not there is empty.
        path: The file.
    """
    found = dict.fromkeys([*COLUMNS, *row])
    for name, value in row.items():
        missing = isinstance(value, float) and isnan(value)
        found[name] = _value(path, 0, name, value) if isinstance(value, str) else None if missing else value
    return found


def csv_rows(option: str, path: Path) -> tuple[list[str], Iterator[tuple[list[str], int]]]:
    """Read a CSV file: its first line, and the fields of each other that is not empty, with its number.

    Args:
        option: What named the file.
        path: The file.

    Raises:
        ConfigurationError: If it cannot be read; as a line is reached that has more or fewer fields than the
            first.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(whole_lines(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{option} {path}: cannot be read ({reason})") from None
    reader = csv.reader(lines)
    try:
        read = [(fields, reader.line_num) for fields in reader]
    except csv.Error as error:
        place = f"{option} {path}: line {reader.line_num}"
        raise ConfigurationError(f"{place}: cannot be read ({error})") from None
    header = [meant(name) for name in read[0][0]] if read else []

    def rows() -> Iterator[tuple[list[str], int]]:
        for fields, line in read[1:]:
            if fields and len(fields) != len(header):
                what = f"line {line} has {len(fields)} fields of {len(header)}"
                raise ConfigurationError(
                    f"{option} {path}: {what}; the file is torn: mend or remove the line"
                )
            if fields:
                yield fields, line

    return header, rows()


def whole_lines(file: Iterable[str]) -> Iterator[str]:
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
    text = meant(text)
    if name in _TEXT:
        return text
    try:
        if name == "correlation":
            return tuple(float(part) for part in text.split("|"))
        if name == "converged":
            return {"true": True, "false": False}[text.lower()]
        number = float(text)
        if isnan(number) and name in COLUMNS and name not in _WHOLE:
            return None
        if isinf(number) and name in COLUMNS:
            raise OverflowError
        return int(number) if name in _WHOLE else number
    except (ValueError, KeyError, OverflowError):
        if name in COLUMNS or name in _WHOLE:
            place = f"FILE {path}: line {line}"
            raise ConfigurationError(f"{place}: {name} cannot be {shortened(text)!r}") from None
        return text
