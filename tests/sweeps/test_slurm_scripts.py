"""Batch scripts: every text arrives as it is, and none becomes a line of its own."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from sweep_helpers import write_sweep

from lit_aux.cli import main
from lit_aux.runs.slurm import write_script

ODD = "a b'c\"d\\e$(touch ran)`touch ran`;#%j"
"""A name in which everything that shells and sbatch read has its place."""


def words_of_sbatch(line: str) -> list[str]:
    """Divide a line as sbatch does (get_argument of its opt.c): backslashes escape within any quotes."""
    words: list[str] = []
    word, quote, escaped, begun = "", "", False, False
    for sign in line.removeprefix("#SBATCH"):
        if escaped:
            word, escaped = word + sign, False
        elif sign == "\\":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if sign == quote else (quote, word + sign)
        elif sign in "'\"":
            quote, begun = sign, True
        elif sign == "#":
            break
        elif sign.isspace():
            words, word, begun = words + [word] * begun, "", False
        else:
            word, begun = word + sign, True
    assert not quote
    return words + [word] * begun


def script_of(tmp_path: Path, file: str = "s.yaml", out: str = "out", **options: str) -> list[str]:
    write_script(Path("job.sh"), Path(file), Path(out), 3, [], **options)  # type: ignore[arg-type]
    return Path("job.sh").read_text().splitlines()


def directives(lines: list[str]) -> list[str]:
    return [word for line in lines if line.startswith("#SBATCH") for word in words_of_sbatch(line)]


def test_odd_names_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my folder" / ODD.replace("/", "")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    lines = script_of(folder, f"{ODD}.yaml", f"out {ODD}", sbatch='--comment="a b" --time 1:00:00 --x="#y"')
    plain = script_of(folder)
    assert len(lines) == len(plain) + 3, "the options of --sbatch, and no other line"
    logs = f"out {ODD}".replace("%", "%%")
    assert directives(lines) == [
        f"--job-name={ODD}",
        "--array=0-2",
        f"--output={logs}/slurm/%A_%a.txt",
        "--comment=a b",
        "--time",
        "1:00:00",
        "--x=#y",
    ]
    # bash itself tells what the script does: the program is one that prints its words
    shown = tmp_path / "shown"
    shown.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    (line,) = [line for line in lines if line.startswith("exec ")]
    program = shlex.split(line)[1]
    Path("job.sh").write_text("\n".join(lines).replace(f"exec {program}", f"exec '{shown}'"))
    told = subprocess.run(
        ["bash", "job.sh"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"},
    ).stdout.splitlines()
    assert told == [
        str(folder),
        *("-m", "lit_aux.cli", "sweep", f"{ODD}.yaml", "--out", f"out {ODD}", "--task", "1"),
    ]
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("sign", ["\n", "\r", "\x00", "\x1b", "\x85", "\u2028", "\x7f"])
@pytest.mark.parametrize("option", ["--out", "--sbatch", "FILE", "--", "--slurm"])
def test_control_characters_are_refused(option: str, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    if sign == "\x00" and option in ("FILE", "--slurm", "--out"):
        pytest.skip("no file has such a name")
    bad = f"a{sign}#SBATCH --wrap='touch ran'{sign}touch ran"
    name = f"{bad.replace('/', '')}.yaml" if option == "FILE" else "s.yaml"
    write_sweep(Path(name), {"model.rescale": [1.0, 0.5]})
    words = ["sweep", name, "--slurm", bad if option == "--slurm" else "job.sh"]
    words += [f"--out={bad if option == '--out' else 'out'}"]
    words += [f"--sbatch=--comment='{bad}'"] if option == "--sbatch" else []
    words += ["--", f"--model.pretrained={bad}"] if option == "--" else []
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith((f"lit-aux: error: {option} ", f"lit-aux: error: {option}: "))
    assert repr(sign)[1:-1] in line
    assert not Path("job.sh").exists()
    assert not Path("out").exists()


@pytest.mark.parametrize("given", ["--comment 'x", '--comment="x', "time 1:00:00", "x\\"])
def test_what_is_no_option_of_sbatch(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"model.rescale": [1.0, 0.5]})
    assert main(["sweep", "s.yaml", "--slurm", "job.sh", f"--sbatch={given}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-aux: error: --sbatch {given}: ")
    assert not Path("job.sh").exists()
