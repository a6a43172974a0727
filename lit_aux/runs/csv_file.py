"""A CSV file whose lines are whole or absent: appended in one write, repaired when it is opened."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_write
from lit_aux.spreadsheets import as_csv, meant
from lit_aux.storage import StorageError, storage_trouble

csv.field_size_limit(1 << 26)  # characters; the reason why a run failed can be long


class CsvFile:
    """A CSV file with fixed columns.

    Args:
        path: The file.
        columns: Its header.
        added: How many of the last columns a file that was written before may lack; it is read as if they
            were empty, and gets them when it is opened.
    """

    def __init__(self, path: Path, columns: Sequence[str], added: int = 0) -> None:
        self.path, self.columns, self.added = path, tuple(columns), added
        self._file: int | None = None

    @property
    def _header(self) -> bytes:
        return (",".join(self.columns) + "\n").encode()

    def check(self) -> bool:
        """Raise if there is a file that is no table of these columns; return whether it lacks added ones."""
        try:
            with self.path.open("rb") as file:
                start = file.read(len(self._header) + 1)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failure("read", error) from None
        first, end, _ = start.partition(b"\n")
        header = first.removesuffix(b"\r").decode(errors="replace")
        counts = range(len(self.columns), len(self.columns) - self.added - 1, -1)
        known = [",".join(self.columns[:count]) for count in counts]
        torn = not end and known[0].startswith(header)  # its writer was killed at once
        if not torn and (not end or header not in known):
            raise ConfigurationError(
                f"--out {self.path}: the file begins with {header[:60]!r}, not with the columns "
                f"{self.columns[0]},{self.columns[1]},...; name another file, this one is left as it is"
            )
        return bool(end) and header != known[0]

    def open(self) -> None:
        """Open for appending; write the header of a new file and cut off a line that is not whole."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            older = self.check()
            size = os.fstat(self._file).st_size
            whole = self._end_of_lines(size)
            if whole < size:
                os.ftruncate(self._file, whole)
        except OSError as error:
            raise self._failure("written", error) from None
        if whole == 0:
            self._write(self._header)
        elif older:
            self._replace(self.rows())

    def _end_of_lines(self, size: int, block: int = 1 << 16) -> int:
        """Return how many bytes the whole lines have, looking from the end."""
        assert self._file is not None
        end = size
        while end > 0:
            start = max(0, end - block)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield the rows by column.

        Raises:
            ConfigurationError: If a line has more or fewer fields than the first.
        """
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if None in row or None in row.values():
                    fewer = "fewer" if None in row.values() else "more"
                    raise ConfigurationError(
                        f"--out {self.path}: line {reader.line_num} has {fewer} fields than the first; "
                        "mend or remove the line, or name another file"
                    )
                yield {name: meant(row.get(name) or "") for name in self.columns}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows in one write and wait until they are on the disk.

        Raises:
            ValueError: For a column that the file does not have.
            ConfigurationError: If they cannot be written; the file is as before then.
        """
        content = self._text(rows)
        if content:
            self._write(content)

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Leave out rows, replacing the file as a whole if there are any."""
        rows = list(self.rows())
        kept = [row for row in rows if wanted(row)]
        if len(kept) < len(rows):
            self._replace(kept)

    def _replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        try:
            atomic_write(self.path, self._header + self._text(rows))
        except OSError as error:
            raise self._failure("written", error) from None
        self.close()
        self.open()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        lines = []
        for row in rows:
            if unknown := [name for name in row if name not in self.columns]:
                raise ValueError(f"{self.path.name} has no column {unknown[0]!r}")
            values = [_spelled(row.get(name)) for name in self.columns]
            if any("\n" in value or "\r" in value for value in values):
                raise ValueError(f"{self.path.name}: a value has several lines: {values}")
            lines.append(values)
        return as_csv(lines).encode()

    def _write(self, content: bytes) -> None:
        """Write all or nothing: one call for one process, so that a kill leaves at most one torn line."""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, content)
            if written < len(content):  # the disk is full
                raise OSError(0, f"only {written} of {len(content)} bytes could be written")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise self._failure("written", error) from None

    def _failure(self, verb: str, error: OSError) -> ConfigurationError | StorageError:
        full = storage_trouble(error.strerror, self.path)
        return full or ConfigurationError(f"--out {self.path}: cannot be {verb} ({error.strerror})")


def _spelled(value: Any) -> str:
    """Write a value so that pandas reads it back: nothing for NaN, numbers of a sequence joined by ``|``."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(value))  # numpy's own numbers spell their type
    if isinstance(value, list | tuple):
        return "|".join(str(float(part)) for part in value)
    return str(value).replace("\r", "\\r").replace("\n", "\\n")  # a row is a line
