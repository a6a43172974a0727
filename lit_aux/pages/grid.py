"""Tables of a page: text in cells, some of it links."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import NamedTuple

from lit_aux.drawing.style import SETUPS
from lit_aux.errors import printable
from lit_aux.results.sheet import Sheet

MOST_LINES = 2000
"""Lines of a table that a page has; of more the first, and a note says so."""
_CHOICES = 60
_WITH_CONTROLS = 6  # lines from which choosing and sorting are of use


class Cell(NamedTuple):
    """What a field of a table holds.

    Attributes:
        text: The text.
        href: Where it leads.
        colour: Of the setup that it names, as pictures have it.
        tone: A word for its look: ``bad``, a verdict, or ``gone`` for a folder that is not there.
        key: What it is sorted by in place of its text.
    """

    text: str
    href: str = ""
    colour: str = ""
    tone: str = ""
    key: str = ""


@dataclass
class Grid:
    """A table.

    Attributes:
        title: What it shows.
        columns: Their names.
        rows: The cells of every line.
        labels: How many of the first columns say what a line is; the others hold numbers.
        notes: What else is to be known, a line each.
        texts: Columns behind the labels that hold text, and are aligned as such.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    labels: int = 1
    notes: list[str] = field(default_factory=list)
    texts: frozenset[int] = frozenset()

    @classmethod
    def of(cls, sheet: Sheet, hint: str = "") -> "Grid":
        """Return a printed table as one of a page.

        Args:
            sheet: The printed table.
            hint: Where to find the lines that are too many for a page.
        """
        columns = [printable(name) for name in sheet.columns]
        lines = sheet.rows[:MOST_LINES]
        rows = [[_cell(name, text) for name, text in zip(columns, line, strict=True)] for line in lines]
        notes = [printable(note) for note in sheet.notes]
        if len(sheet.rows) > len(lines):
            notes.insert(0, f"the first {len(lines):,} of {len(sheet.rows):,} lines{hint}")
        return cls(printable(sheet.title), columns, rows, sheet.labels, notes)

    @property
    def controls(self) -> bool:
        """Whether it is long enough to be sorted and narrowed down."""
        return len(self.rows) >= _WITH_CONTROLS

    @property
    def choices(self) -> frozenset[int]:
        """The columns by whose values lines can be chosen; runs are found by their text."""
        wanted = [i for i in (*range(self.labels), *self.texts) if self.columns[i] != "run"]
        return frozenset(i for i in wanted if 1 < len({row[i].text for row in self.rows}) <= _CHOICES)

    def without_empty(self) -> "Grid":
        """Return the table without columns in which every field is empty."""
        return self._kept([i for i in range(len(self.columns)) if any(row[i].text for row in self.rows)])

    def without_alike(self) -> "Grid":
        """Return the table without columns that say the same in all of several lines; a note has them."""
        alike = {
            i: self.rows[0][i].text
            for i in range(1, self.labels)
            if self.columns[i] != "setup" and len({row[i].text for row in self.rows}) == 1
        }
        if len(self.rows) < 2 or not alike:
            return self
        made = self._kept([i for i in range(len(self.columns)) if i not in alike])
        told = ", ".join(f"{self.columns[i]} {text}" for i, text in alike.items())
        made.notes = [f"all rows: {told}", *self.notes]
        return made

    def _kept(self, kept: Sequence[int]) -> "Grid":
        """Return the table with these columns only."""
        return replace(
            self,
            columns=[self.columns[i] for i in kept],
            rows=[[row[i] for i in kept] for row in self.rows],
            labels=sum(i < self.labels for i in kept),
            texts=frozenset(new for new, i in enumerate(kept) if i in self.texts),
        )


def number_of(value: object) -> float:
    """Return a number that somebody's file holds; NaN for what is none, or none that a float can be."""
    try:
        return float(value) if isinstance(value, int | float) else nan
    except OverflowError:
        return nan


def spelled_number(value: object, form: str = ".4g") -> str:
    """Write a number that somebody's file holds; nothing for what is none."""
    number = number_of(value)
    return f"{number:{form}}" if isfinite(number) else ""


def text_cells(fields: Iterable[str]) -> list[Cell]:
    """Return fields as cells."""
    return [Cell(printable(field)) for field in fields]


def setup_cell(text: str) -> Cell:
    """Return the cell of a setup, with its colour."""
    return _cell("setup", text)


def _cell(column: str, text: str) -> Cell:
    """Return a cell; that of a setup, or of one and its rescale factor, has the colour of pictures."""
    shown = printable(text)
    look = SETUPS.get(shown.partition(" s=")[0])
    return Cell(shown, colour="" if look is None else look.colour)
