"""A run's folder as a notebook shows it: its tables and its picture."""

import sys
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_aux.results.sheet import Sheet


class RunFolder(Path):
    """The path of a run's folder, which shows what came out of the run where it is a notebook's value.

    Attributes:
        tables: What is shown, in this order.
        files: What was written, by what it is; ``picture`` is shown.
    """

    if sys.version_info < (3, 12):  # where a path knows its system by its class
        _flavour = type(Path())._flavour  # type: ignore[attr-defined]

    tables: "list[Sheet]" = []
    files: Mapping[str, str] = {}

    def with_segments(self, *segments: Any) -> Path:
        """Return a path that comes from this one, which is no run's folder (Python 3.12 and later)."""
        return Path(*segments)

    def _repr_html_(self) -> str | None:
        """Return the tables, the picture and where everything lies; None where there is nothing to show."""
        if not self.tables:
            return None
        parts = [table.to_html() for table in self.tables]
        picture = Path(self.files.get("picture", ""))
        if picture.is_file():
            data, name = b64encode(picture.read_bytes()).decode(), escape(picture.name)
            parts.append(f'<img style="max-width:100%" alt="{name}" src="data:image/png;base64,{data}">')
        lines = (f"<li>{escape(what)}: <code>{escape(file)}</code></li>" for what, file in self.files.items())
        return "\n".join([*parts, f"<ul>{''.join(lines)}</ul>"])


def in_notebook() -> bool:
    """Whether what is asked for is shown by a notebook, which has no terminal."""
    from rich.console import Console

    return Console().is_jupyter
