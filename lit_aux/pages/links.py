"""Links from a page into the folders of runs: relative, so that page and folders can be moved together."""

import os
from pathlib import Path
from urllib.parse import quote

from lit_aux.errors import printable
from lit_aux.pages.grid import Cell
from lit_aux.pages.sources import Sources


class Links:
    """Makes links.

    Args:
        sources: What the page is made from.
        page: The page's file.
    """

    def __init__(self, sources: Sources, page: Path) -> None:
        self._folders = sources.folders
        self._home = page.resolve().parent

    def to(self, path: Path) -> str:
        """Return the relative address of a file or folder; nothing where there is none."""
        try:
            relative = os.path.relpath(path.resolve(), self._home)
        except (OSError, ValueError):  # on Windows: another drive
            return ""
        return quote(os.fsencode(Path(relative).as_posix())) + ("/" if path.is_dir() else "")

    def run(self, name: str | None) -> Cell:
        """Return the cell of a run: a link into its folder, grey where there is none."""
        if not name:
            return Cell("")
        folder = self._folders.get(name)
        href = "" if folder is None else self.to(folder)
        return Cell(printable(name), href=href, tone="" if href else "gone")
