"""The table of commands: what the help lists, what is dispatched, and what help costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.cli.commands import COMMANDS, LIGHTNING

OWN = [name for name, command in COMMANDS.items() if command.module != LIGHTNING]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([option], capsys)
    assert re.findall(r"^  (\w+)  +\S", text, re.MULTILINE) == list(COMMANDS)
    assert max(map(len, text.splitlines())) <= 110


def test_alone_it_says_the_same_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    alone, error = capsys.readouterr()
    text = printed(["--help"], capsys)
    assert alone.strip() == text.strip()
    assert error == f"lit-aux: error: no command is given; choose {', '.join(COMMANDS)}\n"
    for file in re.findall(r"(?:docs|configs)/[\w/.-]+\w", text):
        assert (Path(__file__).parents[2] / file).is_file(), file


def test_a_person_at_a_terminal_reads_something_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert main(["fit", "--nothing"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[:-1] == (["lit-aux: loading PyTorch and Lightning ..."] if terminal else [])
    monkeypatch.setenv("LOCAL_RANK", "1")  # of a process that another one started
    main(["fit", "--nothing"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_table_has_the_commands_of_lightning() -> None:
    assert {name for name in COMMANDS if name not in OWN} == {*AuxiliaryCLI.subcommands()}


@pytest.mark.parametrize("name", OWN)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([name, "--help"], capsys)
    assert text.startswith(f"usage: lit-aux {name}")
    assert "--out" in text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("tabel", "table"), ("trajectory", "trajectories"), ("figure", "figures"), ("fitt", "fit"), ("s", None)],
)
def test_a_mistyped_command(typed: str, meant: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-aux: error: {typed!r} is no command; ")
    assert (f"did you mean {meant!r}?" in line) == (meant is not None)
    assert f"choose {', '.join(COMMANDS)}" in line


@pytest.mark.parametrize("name", OWN)
def test_a_mistyped_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--otu", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-aux: error: {name}: '--otu' is unknown; did you mean '--out'")


@pytest.mark.parametrize("words", [["regime", "--trust=yes"], ["sweep", "s.yaml", "--retry=yes"]])
def test_a_flag_takes_no_value(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    option = words[-1].partition("=")[0]
    assert f"error: {words[-1]}: 'yes' is given, and {option} takes no value" in capsys.readouterr().err


def test_help_of_own_commands_needs_neither_torch_nor_lightning() -> None:
    code = f"""
import sys
from lit_aux.cli import main
for words in [[], *([name] for name in {OWN}), ["figures", "nothing"]]:
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert not ended.code
    heavy = [name for name in ("torch", "lightning", "matplotlib") if name in sys.modules]
    assert not heavy, (words, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, stdout=subprocess.DEVNULL)


def test_the_module_is_a_program() -> None:
    words = [sys.executable, "-m", "lit_aux.cli", "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lit-aux: error: 'nothing' is no command; choose fit, validate")
