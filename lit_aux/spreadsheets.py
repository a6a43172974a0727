"""Fields of CSV files that a spreadsheet shows and does not carry out."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

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
