"""Tables as CSV that a spreadsheet shows and does not carry out, and as HTML that a browser does not."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lit_aux.errors import printable

_STARTS = "=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20"  # the last four are the first ones, in full width
_RUN = re.compile(f"'*[{_STARTS}]")
_QUOTED = re.compile(f"'+[{_STARTS}]")
_NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\|{_NUMBER})*", re.IGNORECASE | re.ASCII)


def shown(field: Any) -> Any:
    """Return a field as it is written: text that a spreadsheet would take for a formula gets an apostrophe.

    Such text begins with ``=``, ``+``, ``-``, ``@``, a tab or a line's end. Numbers, also as text and joined
    by ``|``, a hyphen alone, and all that is no text stay as they are. :func:`meant` undoes it.

    Args:
        field: What a column holds.
    """
    if not isinstance(field, str) or not _RUN.match(field) or field == "-" or _NUMBERS.fullmatch(field):
        return field
    return f"'{field}"


def meant(field: str) -> str:
    """Return the text of a field that :func:`shown` gave.

    Args:
        field: As it was read.
    """
    return field[1:] if _QUOTED.match(field) else field


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as the text of a CSV file, each field as :func:`shown` gives it.

    Args:
        rows: Fields of each; the first row is the header.
    """
    text = io.StringIO()
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(map(shown, row))  # which quotes both within fields
        text.write(line.getvalue().removesuffix("\r\n") + "\n")
    return text.getvalue()


class Bold(str):
    """A field that stands out, where that can be shown."""

    __slots__ = ()


def as_html(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    labels: int = 0,
    notes: Iterable[str] = (),
) -> str:
    """Return a table as HTML, and the notes below it; all that it is given is text.

    Args:
        title: The caption.
        columns: Names of the columns.
        rows: Fields of each.
        labels: How many of the first columns say what a row is.
        notes: A paragraph each.
    """
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in columns)
    lines = [f"<table>\n<caption>{_escaped(title)}</caption>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for row in rows:
        starts = [*['<th scope="row">'] * labels, *["<td>"] * (len(columns) - labels)]
        cells = (f"{start}{_marked(text)}</{start[1:3]}>" for start, text in zip(starts, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>", *(f"<p>{_escaped(note)}</p>" for note in notes), ""])


def _marked(text: str) -> str:
    return f"<strong>{_escaped(text)}</strong>" if isinstance(text, Bold) else _escaped(text)


def _escaped(text: str) -> str:
    """Return text in which a browser finds nothing to interpret."""
    return escape(printable(text))
