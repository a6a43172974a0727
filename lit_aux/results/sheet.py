"""A printed table: as text, Markdown or CSV."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lit_aux.errors import printable
from lit_aux.spreadsheets import as_csv

Format = Literal["text", "markdown", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
_MARKDOWN = re.compile(r"([\\`*_<>\[\]])")


@dataclass
class Sheet:
    """Rows of text under columns, with a title above and notes below.

    Attributes:
        title: What it shows.
        columns: Their names.
        rows: The fields of every row.
        labels: How many of the first columns say what a row is; the others hold numbers.
        notes: What else is to be known, a line each.
        wrap: Whether long fields may be broken into lines.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    labels: int = 1
    notes: list[str] = field(default_factory=list)
    wrap: bool = False

    def without_empty(self, *names: str) -> "Sheet":
        """Return the table without those of some columns in which every field is empty."""
        columns = enumerate(self.columns)
        kept = [i for i, name in columns if name not in names or any(row[i] for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        labels = sum(i < self.labels for i in kept)
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows, labels=labels)

    def render(self, kind: Format, width: int = 200) -> str:
        """Return the table as text, Markdown or CSV; CSV has neither title nor notes.

        Args:
            kind: Which.
            width: Most characters in a line of text.
        """
        if kind == "csv":
            return as_csv([self.columns, *self.rows])
        text = self._markdown() if kind == "markdown" else self._text(width)
        return printable(text)

    def _markdown(self) -> str:
        rule = [":--" if number < self.labels else "--:" for number in range(len(self.columns))]
        lines = [_line(self.columns), _line(rule), *map(_line, self.rows)] if self.rows else []
        notes = [f"\n{_plain(note)}" for note in self.notes]
        return "\n".join([f"**{_plain(self.title)}**", "", *lines, *notes, ""])

    def _text(self, width: int) -> str:
        parts = [self.title]
        parts += ["\n".join(self._block(columns, width)) for columns in self._blocks(width) if self.rows]
        return "\n".join([*parts, *self.notes]) + "\n"

    def _blocks(self, width: int) -> Iterator[list[int]]:
        """Yield columns that fit side by side, the labels in each, so that no number is cut off."""
        widths = [max(map(len, column)) + 3 for column in zip(self.columns, *self.rows, strict=True)]
        labels = list(range(self.labels))
        block, used = [*labels], 2 + sum(widths[: self.labels])
        for number in range(self.labels, len(widths)):
            if len(block) > len(labels) and not self.wrap and used + widths[number] > width:
                yield block
                block, used = [*labels], 2 + sum(widths[: self.labels])
            block.append(number)
            used += widths[number]
        yield block

    def _block(self, columns: Sequence[int], width: int) -> list[str]:
        """Return the lines of some columns."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for number in columns:
            justify: Literal["left", "right"] = "left" if number < self.labels else "right"
            table.add_column(self.columns[number], justify=justify, no_wrap=not self.wrap)
        for row in self.rows:
            table.add_row(*(row[number] for number in columns))
        limit = width if self.wrap else 10_000  # what is not to be broken may be wider than the terminal
        console = Console(file=io.StringIO(), width=limit, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(table)
        return [line.rstrip() for line in capture.get().splitlines()]


def exact(number: float) -> str:
    """Write a number in full; nothing for NaN."""
    return "" if number != number else repr(float(number))


def _line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(field).replace("|", "\\|") for field in fields) + " |"


def _plain(text: str) -> str:
    """Return text in which Markdown finds nothing to interpret."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))
