"""The page on teachers of one's own, on the command line: what it shows, and what is refused."""

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_aux.cli import AuxiliaryCLI, main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "own-teacher.md"
SHORT = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.phase_store=false",
    "--data.n_main=4",
    "--data.n_aux=16",
    "--data.n_test=20",
    "--model.backbone.hidden=12",
    "--model.pretrain_settings.max_evaluations=30",
    "--model.finetune_settings.max_evaluations=30",
]


@pytest.fixture(autouse=True)
def _page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save what the page says is to be saved, and build the parser of ``fit`` alone."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    code = next(text for language, text in blocks if language == "python")
    Path("my_teacher.py").write_text(code)
    Path("rotated.yaml").write_text(next(text for language, text in blocks if language == "yaml"))
    Path("configs").symlink_to(ROOT / "configs")
    monkeypatch.delitem(sys.modules, "my_teacher", raising=False)
    monkeypatch.syspath_prepend(".")
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])


def fit(*words: str, config: str = "configs/relu/ptft.yaml") -> int:
    return main(["fit", "--config", config, "--config", "rotated.yaml", *SHORT, *words])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    (folder,) = Path("runs").glob("version_*")
    rows, measures = read(folder / "results.csv"), read(folder / "measures.csv")
    assert len({row["run"] for row in rows}) == len(rows) == 6
    assert {row["experiment"] for row in rows} == {"relu-rotated"}
    named = {m["run"]: float(m["value"]) for m in measures if m["measure"] == "rotation"}
    assert [named[row["run"]] for row in rows] == [0.0, 0.5, 1.0] * 2
    assert {m["value"] for m in measures if m["measure"] == "noise"} == {"0.1"}
    capsys.readouterr()
    assert main(["table", str(folder), "--by", "rotation"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[1:] == ["PT+FT"]] == [[r, "PT+FT"] for r in ("0", "0.5", "1")]
    assert main(["table", str(folder)]) == 0
    assert "--by OPTION tells them apart" in capsys.readouterr().out
    assert main(["regime", str(folder), "--trust", "--out", "regime"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "n_main" in line)
    assert header.split()[0] == "rotation"
    # the same run in another grid has the same name
    assert fit("--data.rotation=0.5", "--data.seed=1") == 0
    (other,) = read(Path("runs/version_1/results.csv"))
    assert [other["run"]] == [row["run"] for row in rows if row["seed"] == "1" and named[row["run"]] == 0.5]


def test_figures_know_options_that_are_called_like_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code = Path("my_teacher.py").read_text().replace("rotation", "correlation")
    Path("my_teacher.py").write_text(code)
    Path("rotated.yaml").write_text(Path("rotated.yaml").read_text().replace("rotation", "correlation"))
    assert fit("--data.n_main=[4,8]") == 0
    assert main(["figures", "overlap", "--results", "runs", "--out", "overlap.png"]) == 0
    assert Path("overlap.png").is_file()


CASES: list[tuple[list[str], list[str]]] = [
    (["--data.rotation=[0, far]"], ["--data.rotation", "far"]),
    (["--data.noise=[0, 1]"], ["--data.noise", "[0, 1]"]),
    (["--data.rotation=[1, 1]"], ["--data.rotation", "given twice"]),
    (["--data.cells=[{turn: 1}]"], ["--data.cells", "turn"]),
]


@pytest.mark.parametrize(("words", "parts"), CASES, ids=[words[0] for words, _ in CASES])
def test_one_line_says_what_does_not_fit(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in Path().iterdir()}
    assert fit(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("lit-aux: error: "), line
    assert all(part in line for part in parts), line
    assert {path.name for path in Path().iterdir()} - {"__pycache__"} == before


SHAPES: list[tuple[str, list[str]]] = [
    ("return ReLUTeacher(shared, readout)", ["return lambda x: x", "the teacher of aux gives (3, 15)"]),
    ("units=units, noise=noise, **kwargs", ["noise=noise, **kwargs", "does not hand on", "units=units"]),
]


@pytest.mark.parametrize(("written", "case"), SHAPES, ids=[case[0] for _, case in SHAPES])
def test_one_line_says_what_is_wrong_with_a_class(
    written: str, case: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    instead, *parts = case
    code = Path("my_teacher.py").read_text()
    assert written in code
    Path("my_teacher.py").write_text(code.replace(written, instead))
    assert fit() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert all(part in line for part in ["lit-aux: error: ", "RotatedTeacher", *parts]), line
    assert not Path("runs").exists()
