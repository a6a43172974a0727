"""A printed table: as text, Markdown, CSV or HTML."""

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from textwrap import wrap
from typing import Literal, get_args
from unicodedata import east_asian_width

from lit_aux.errors import printable
from lit_aux.spreadsheets import Bold, as_csv, as_html

Format = Literal["text", "markdown", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
_MARKDOWN = re.compile(r"([\\`*_<>\[\]~&])")


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
        left: Names of columns of text beside the labels.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    labels: int = 1
    notes: list[str] = field(default_factory=list)
    wrap: bool = False
    left: Sequence[str] = ()

    def without_empty(self, *names: str) -> "Sheet":
        """Return the table without those of some columns in which every field is empty."""
        columns = enumerate(self.columns)
        kept = [i for i, name in columns if name not in names or any(row[i] for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        labels = sum(i < self.labels for i in kept)
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows, labels=labels)

    def __str__(self) -> str:
        return self.render("text")

    def render(self, kind: Format, width: int = 200, styled: bool = False) -> str:
        """Return the table as text, Markdown or CSV; CSV has neither title nor notes.

        Args:
            kind: Which.
            width: Most characters in a line of text.
            styled: Whether text has a terminal's signs for what is bold.
        """
        if kind == "csv":
            return as_csv([self.columns, *self.rows])
        return printable(self._markdown()) if kind == "markdown" else self._text(width, styled)

    def to_html(self) -> str:
        """Return the table as HTML, with a caption, and the notes below; nothing in it is carried out."""
        return as_html(self.title, self.columns, self.rows, self.labels, self.notes)

    _repr_html_ = to_html

    def _is_left(self, number: int) -> bool:
        return number < self.labels or self.columns[number] in self.left

    def _markdown(self) -> str:
        rule = [":--" if self._is_left(number) else "--:" for number in range(len(self.columns))]
        lines = [_line(self.columns), _line(rule), *map(_line, self.rows)] if self.rows else []
        notes = [f"\n{_plain(note)}" for note in self.notes]
        return "\n".join([f"**{_plain(self.title)}**", "", *lines, *notes, ""])

    def _text(self, width: int, styled: bool) -> str:
        blocks = [self._block(columns, width, styled) for columns in self._blocks(width) if self.rows]
        return "\n".join([printable(self.title), *blocks, *map(printable, self.notes)]).rstrip("\n") + "\n"

    def _blocks(self, width: int) -> Iterator[list[int]]:
        """Yield columns that fit side by side, the labels in each, so that no number is cut off."""
        widths = [max(map(_width, column)) + 3 for column in zip(self.columns, *self.rows, strict=True)]
        labels = list(range(self.labels))
        block, used = [*labels], 2 + sum(widths[: self.labels])
        for number in range(self.labels, len(widths)):
            if len(block) > len(labels) and not self.wrap and used + widths[number] > width:
                yield block
                block, used = [*labels], 2 + sum(widths[: self.labels])
            block.append(number)
            used += widths[number]
        yield block

    def _block(self, columns: Sequence[int], width: int, styled: bool) -> str:
        """Return the lines of some columns."""
        fields = [[row[number] for number in columns] for row in [self.columns, *self.rows]]
        widths = [max(map(_width, column)) for column in zip(*fields, strict=True)]
        while self.wrap and sum(widths) + 3 * len(widths) + 1 > width and max(widths) > _NARROW:
            widths[widths.index(max(widths))] -= 1
        justified = [str.ljust if self._is_left(number) else str.rjust for number in columns]
        lines = [""]
        for number, row in enumerate(fields):
            broken = [_broken(printable(text), most) for text, most in zip(row, widths, strict=True)]
            bold = [styled and (number == 0 or isinstance(text, Bold)) for text in row]
            for parts in zip_longest(*broken, fillvalue=""):
                places = zip(justified, parts, widths, bold, strict=True)
                shown = [
                    _BOLD.format(put(text, most - _width(text) + len(text)))
                    if strong
                    else put(text, most - _width(text) + len(text))
                    for put, text, most, strong in places
                ]
                lines.append(f"  {'   '.join(shown)}".rstrip())
            if number == 0:
                lines.append(f" {_LINE * (sum(widths) + 3 * len(widths) - 1)}")
        return "\n".join([*lines, ""])


_NARROW = 8
"""Characters below which no column is broken."""
_BOLD = "\x1b[1m{}\x1b[0m"
_LINE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"


def _width(text: str) -> int:
    """Return how many places text takes in a terminal."""
    return len(text) if text.isascii() else sum(1 + (east_asian_width(c) in "WF") for c in text)


def _broken(text: str, most: int) -> list[str]:
    """Return the lines of a field."""
    return [text] if _width(text) <= most else wrap(text, most)


def show(sheets: Iterable[Sheet]) -> None:
    """Print tables and an empty line after each, as wide as the terminal, or 200 characters without one.

    Args:
        sheets: The tables.
    """
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 200
    print("\n".join(sheet.render("text", width, terminal) for sheet in sheets), flush=True)


def exact(number: float) -> str:
    """Write a number in full; nothing for NaN."""
    return "" if number != number else repr(float(number))


def _line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(map(_field, fields)) + " |"


def _field(text: str) -> str:
    plain = _plain(text).replace("|", "\\|")
    return f"**{plain}**" if isinstance(text, Bold) else plain


def _plain(text: str) -> str:
    """Return text in which Markdown finds nothing to interpret."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))
