"""The gallery in the docs: its commands are right, and its pictures are there and small."""

import re
import shlex
from pathlib import Path

import pytest

from lit_aux.cli.figures import ALL, PICTURES
from lit_aux.cli.figures import parser as figures
from lit_aux.cli.reproduce import parser as reproduce
from lit_aux.cli.sweep import parser as sweep
from lit_aux.figures.results import FIGURES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "gallery.md").read_text()
COMMANDS = re.findall(r"^uv run lit-aux (.+?)(?: +#.*)?$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    kind, *words = shlex.split(command)
    given = {"figures": figures, "reproduce": reproduce, "sweep": sweep}[kind]().parse_args(words)
    if kind == "figures":
        assert given.name in {*PICTURES, *FIGURES, ALL}


def test_every_picture_has_its_command_and_is_small():
    shown = re.findall(r"!\[[^]]+\]\((figures/\S+\.png)\)", TEXT)
    assert len(shown) == len({*shown}) > 10
    for path in shown:
        assert f"--out docs/{path}" in TEXT
        assert 5_000 < (DOCS / path).stat().st_size < 200_000
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in (DOCS / "figures").glob("*.png"))
