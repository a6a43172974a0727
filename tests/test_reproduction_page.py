"""Every number in the tables of the page on reproduction is one of the results that are kept beside it."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts/reproduction_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = script()
TEXT = PAGE.PAGE.read_text()
BLOCKS = [(block[1], block[2]) for block in PAGE.BLOCK.finditer(TEXT)]


def cells(table: str) -> dict[str, str]:
    """Return the first number of every cell of a table by row and column."""
    lines = [[cell.strip() for cell in line.strip("|\n").split(" |")] for line in table.splitlines()]
    head, rows = lines[0], lines[2:]
    axes = [name for name in head if not name.startswith("n ") and name not in ("seeds", "converged")]
    found = {}
    for row in rows:
        told = dict(zip(head, row, strict=True))
        place = ", ".join(f"{name} {told[name]}" for name in sorted(axes))
        found |= {f"{place}, {name}": told[name].split()[0] for name in head if name.startswith("n ")}
    return found


def test_there_are_tables() -> None:
    assert len(BLOCKS) >= 5
    assert all(re.search(r"docs/results/\S+", words) for words, _ in BLOCKS)


@pytest.mark.parametrize(("words", "table"), BLOCKS, ids=[words for words, _ in BLOCKS])
def test_a_table_says_what_its_file_says(words: str, table: str) -> None:
    given = shlex.split(words)
    if "--reference" not in given:
        assert PAGE.printed([*given, "--format", "markdown"]) == table
        return
    place = given.index("--reference")
    own = PAGE.printed([*given[:place], *given[place + 2 :], "--pairs", "false", "--format", "markdown"])
    ours, told = cells(own), cells(table)
    shared = [name for name in told if told[name] != "-"]
    assert shared
    assert {name: told[name] for name in shared} == {name: ours[name] for name in shared}
