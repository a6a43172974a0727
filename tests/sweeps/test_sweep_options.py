"""Sweeps over what does not exist or is no value are refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_bad_input import base

from lit_aux.cli import main
from lit_aux.sweeps.file import EXAMPLE

COMMAND = ["${env}", "lit-aux", "fit", "--config", "c.yaml", "${args}"]


def write(parameters: dict[str, Any], **more: Any) -> None:
    Path("c.yaml").write_text(yaml.safe_dump(base()))
    content = {"method": "grid", "parameters": parameters, "command": COMMAND, **more}
    Path("s.yaml").write_text(yaml.safe_dump(content))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    before = sorted(Path.cwd().rglob("*"))
    assert main(["sweep", "s.yaml", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-aux: error: ")]
    assert len(lines) == 1
    assert sorted(Path.cwd().rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"model.rescal": {"values": [1, 2]}}, ["s.yaml", "--model.rescal", "'rescale'"]),
        ({"trainer.max_epoks": {"value": 1}}, ["s.yaml", "--trainer.max_epoks", "'max_epochs'"]),
        ({"modle.rescale": {"values": [1, 2]}}, ["s.yaml", "--modle.rescale"]),
        ({"data.n_main": {"values": ["many"]}}, ["s.yaml", "--data.n_main", "many"]),
        ({"model.rescale": {"values": [1.0, float("nan")]}}, ["s.yaml", "model.rescale.values", "nan"]),
        ({"model.rescale": {"value": float("inf")}}, ["s.yaml", "model.rescale.value", "inf"]),
        ({"data.n": {"values": [{"main": float("nan")}]}}, ["s.yaml", "data.n.values", "nan"]),
        ({"model.rescale": {"min": 0.1, "max": float("nan")}}, ["s.yaml", "model.rescale.max", "nan"]),
    ],
    ids=str,
)
def test_what_cannot_be_swept(
    parameters: dict[str, Any], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(parameters)
    line = told(capsys)
    assert all(part in line for part in parts), line


def test_options_that_exist_are_written_into_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    write({"model.rescale": {"values": [0.5, 1.0]}, "trainer.callbacks": {"value": None}})
    assert main(["sweep", "s.yaml", "--slurm", "a.sh"]) == 0, capsys.readouterr().err
    assert Path("a.sh").exists()


def test_a_key_that_is_there_twice(capsys: pytest.CaptureFixture[str]) -> None:
    write({"model.rescale": {"values": [0.5, 1.0]}})
    Path("s.yaml").write_text(Path("s.yaml").read_text() + "method: random\n")
    line = told(capsys)
    assert "'method'" in line
    assert "s.yaml" in line
    write({"model.rescale": {"values": [0.5, 1.0]}})
    Path("c.yaml").write_text(Path("c.yaml").read_text() + "data: {class_path: a.B}\n")
    assert "'data'" in told(capsys)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--count=0"], ["--count", "0"]),
        (["--count=99999999999999999999"], ["--count", "99999999999999999999"]),
        (["--jobs=99999999999"], ["--jobs", "99999999999"]),
        (["--seed=-1"], ["--seed", "-1"]),
        (["--out="], ["--out", "''"]),
        (["--out=/"], ["--out", "/"]),
        (["--slurm=/proc/a.sh"], ["--slurm", "/proc/a.sh"]),
        (["--slurm="], ["--slurm", "''"]),
    ],
    ids=str,
)
def test_options_of_sweep(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write({"model.rescale": {"values": [0.5, 1.0]}})
    line = told(capsys, *words)
    assert all(part in line for part in parts), line


def test_the_command_that_is_advised_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml.safe_load(EXAMPLE) == ["${env}", "lit-aux", "fit", "--config", "FILE", "${args}"]
    write({"model.rescale": {"value": 1}}, command="lit-aux fit")
    assert EXAMPLE in told(capsys)
    write({"model.rescale": {"value": 1}}, command=["python", "train.py"])
    assert EXAMPLE in told(capsys)
