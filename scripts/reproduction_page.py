"""Bring the tables of docs/reproduction.md up to date with the results in docs/results.

A table stands below a comment that holds the command that prints it.
"""

import contextlib
import io
import os
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

from lit_aux.cli import main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reproduction.md"
BLOCK = re.compile(r"<!-- lit-aux (table .*) -->\n\n((?:\|.*\n)*)\n?")


def printed(words: list[str]) -> str:
    """Return the first table that a command prints, its lines that begin with ``|``."""
    out = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out):
        if main(words):
            raise SystemExit(f"lit-aux {shlex.join(words)} failed")
    found = re.search(r"(?:^\|.*\n)+", out.getvalue(), re.MULTILINE)
    return "" if found is None else found[0]


def refreshed(page: str, published: Path | None = None) -> str:
    """Return the page with every table printed anew.

    Args:
        page: Its text.
        published: The folder of published tables.
    """

    def table(block: re.Match[str]) -> str:
        words = shlex.split(block[1])
        if "--reference" in words:
            if published is None:
                return block[0]
            place = words.index("--reference") + 1
            words[place] = os.fspath(published.resolve() / words[place])
        lines = printed([*words, "--format", "markdown"]).splitlines(keepends=True)
        kept = [line for line in lines if " / " not in line or re.search(r"\| [^-|][^|]* / ", line)]
        return (
            f"<!-- lit-aux {block[1]} -->\n\n{''.join(kept)}\n"  # without rows that have only published runs
        )

    return BLOCK.sub(table, page)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    shown = "the folder of published tables; without it those that name one stay as they are"
    parser.add_argument("published", nargs="?", type=Path, metavar="DIR", help=shown)
    PAGE.write_text(refreshed(PAGE.read_text(), parser.parse_args().published))
