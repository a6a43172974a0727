"""``lit-aux trajectories``: what it prints, writes and refuses."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trajectory_helpers import small_study, write_run

from lit_aux.cli import main

VALUES = {"train_loss": [2.0, 1.0, 0.5], "test_accuracy": [0.1, 0.5, 0.6]}


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take the most time."""
    monkeypatch.setattr("lit_aux.figures.trajectories.figures_of_study", lambda *_: iter(()))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command; return its one line of complaint, having written nothing."""

    def run(*words: Any) -> str:
        before = sorted(Path.cwd().rglob("*"))
        assert main(["trajectories", *map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert sorted(Path.cwd().rglob("*")) == before
        return err

    return run


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def printed(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main(["trajectories", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("_no_pictures")
def test_tables_in_the_terminal_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factors = {"sharpness": (1.0, 2.0), "conflict": (0.9, 0.5)}
    small_study(tmp_path / "runs", {"up": 0.1, "down": -0.1}, factors=factors)
    text = printed(capsys, "runs", "--out", "here")
    lines = [line.split() for line in text.splitlines()]
    assert ["up", "1.0", "100%", "0%"] not in lines
    assert any(words[:1] == ["up"] and "+0.1*" in words and "100%" in words for words in lines)
    assert any(words[:1] == ["down"] and "-0.1*" in words and words[-2:] == ["0%", "100%"] for words in lines)
    assert ["up", "better", "contradicts", "contradicts"] in lines
    assert ["down", "worse", "explains", "explains"] in lines
    assert ["sharpness", "1", "1", "0"] in lines
    assert "diagnostic, not predictive" in text
    here = Path("here")
    (up, _) = records(here / "transfer.csv")
    assert float(up["change"]) == pytest.approx(0.1)
    assert float(up["change_2sd"]) == pytest.approx(0, abs=1e-12)  # every seed gained the same
    assert (up["task"], up["significant"], up["select"]) == ("up", "true", "val_accuracy")
    (_, down) = records(here / "gap.csv")
    assert float(down["change"]) == pytest.approx(-0.1)
    assert (float(down["loss_high"]), float(down["loss_low"])) == pytest.approx((2 * 0.01 ** (1 / 12), 0.02))
    assert (down["share_higher"], down["share_lower"]) == ("0.0", "1.0")
    curves = [row for row in records(here / "gap_curves.csv") if row["task"] == "up"]
    assert {round(float(row["change"]), 9) for row in curves} == {0.1}
    factor = {(row["task"], row["factor"]): row for row in records(here / "factors.csv")}
    assert float(factor["up", "sharpness"]["change"]) == pytest.approx(1)
    verdicts = {(row["task"], row["factor"]): row["verdict"] for row in records(here / "verdict.csv")}
    assert verdicts["down", "conflict"] == "explains"
    runs = records(here / "runs.csv")
    assert len(runs) == 2 * 2 * 3 * 3  # tasks, kinds, seeds, quantities
    assert {row["method"] for row in runs} == {"STL", "MTL"}


@pytest.mark.usefixtures("_no_pictures")
def test_every_method_against_the_same_single_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.0}, methods=("MTL", "PCGrad"))
    text = printed(capsys, "runs")
    assert text.count("PCGrad") == 2 * 2  # transfer and gap, two tasks
    rows = records(Path("trajectories/transfer.csv"))
    assert [(row["method"], row["task"]) for row in rows] == [(m, t) for m in ("MTL", "PCGrad") for t in "ab"]
    assert rows[0]["single"] == rows[2]["single"]


@pytest.mark.usefixtures("_no_pictures")
def test_a_loss_as_the_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where less is better, a positive change is worse."""
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1}, factors={"sharpness": (1.0, 2.0)})
    for file in (tmp_path / "runs").glob("*/trajectory.csv"):
        text = file.read_text().replace("test_accuracy", "test_loss").replace("val_accuracy", "val_loss")
        file.write_text(text)
    lines = [line.split() for line in printed(capsys, "runs", "--metric", "loss").splitlines()]
    assert ["a", "worse", "explains"] in lines


@pytest.mark.usefixtures("_no_pictures")
def test_runs_cut_short_are_compared_over_common_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    file = tmp_path / "runs" / "stl-a-0" / "trajectory.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(row for row in rows[1:] if int(row.split(",")[4]) <= 6)]) + "\n")
    text = printed(capsys, "runs")
    assert "note: 1 of 9 runs took fewer than 120 steps" in text
    assert "up to step 60" in text
    (row, _) = records(Path("trajectories/gap.csv"))
    assert float(row["loss_low"]) == pytest.approx(0.2)  # half the way from 2 to .02


def test_wrong_words(tmp_path: Path, refused: Callable[..., str]) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    assert "RUN: nothing is given" in refused()
    assert "RUN none: there is no such file" in refused("none")
    (tmp_path / "empty").mkdir()
    assert "RUN empty: there is no trajectory.csv" in refused("empty")
    assert "--metric: 'acuracy' is unknown; did you mean 'accuracy'?" in refused(
        "runs", "--metric", "acuracy"
    )
    assert "--select: 'val_acc' is unknown" in refused("runs", "--select", "val_acc")
    assert "--select test_accuracy" in refused("runs", "--select", "test_accuracy")
    assert "--phase: 'main' is unknown" in refused("runs", "--phase", "main")
    assert "--tasks: 'c' is unknown" in refused("runs", "--tasks", "c")
    assert "--tasks: nothing is given" in refused("runs", "--tasks")
    assert "runs before --tasks" in refused("--tasks", "a", "runs")
    assert "--ot" in refused("runs", "--ot", "x")
    assert "--format" in refused("runs", "--format", "gif")
    Path("file").write_text("")
    assert "--out file: is a file" in refused("runs", "--out", "file")


def test_runs_of_one_kind(tmp_path: Path, refused: Callable[..., str]) -> None:
    write_run(tmp_path / "runs" / "s", {"a": VALUES})
    assert "none is multi-task (their tasks: a)" in refused("runs")
    write_run(tmp_path / "runs" / "s", {"a": VALUES, "b": VALUES}, method="MTL")
    assert "none is single-task (their tasks: a|b)" in refused("runs")


def test_runs_with_different_tasks(tmp_path: Path, refused: Callable[..., str]) -> None:
    write_run(tmp_path / "runs" / "a", {"a": VALUES})
    write_run(tmp_path / "runs" / "m", {"a": VALUES, "b": VALUES}, method="MTL")
    message = refused("runs")
    assert "runs with different tasks: no single-task run has b" in message
    assert "--tasks a" in message
    write_run(tmp_path / "runs" / "b", {"b": VALUES})
    write_run(tmp_path / "runs" / "c", {"c": VALUES})
    message = refused("runs")
    assert "MTL (runs/m/trajectory.csv) has no c" in message
    assert "--tasks c: MTL" in refused("runs", "--tasks", "c")


def test_a_run_that_is_there_twice(tmp_path: Path, refused: Callable[..., str]) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    write_run(tmp_path / "runs" / "z", {"a": VALUES}, seed=1)
    message = refused("runs")
    assert "runs/z/trajectory.csv: seed 1 is among the single-task runs of 'a' twice" in message
    assert "runs/stl-a-1/trajectory.csv" in message


def test_no_common_loss_in_any_task(tmp_path: Path, refused: Callable[..., str]) -> None:
    low = VALUES | {"train_loss": [0.1, 0.05, 0.01]}
    for task in "ab":
        write_run(tmp_path / "runs" / task, {task: VALUES})
    write_run(tmp_path / "runs" / "m", {"a": low, "b": low}, method="MTL")
    message = refused("runs")
    assert "no training loss that single-task and multi-task runs all pass through, in any task" in message
    assert "a single 1 to 0.5, a multi 0.05 to 0.01" in message


@pytest.mark.parametrize("measure", ["train_loss", "test_accuracy"])
def test_a_run_that_lacks_what_is_compared(measure: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    file = tmp_path / "runs" / "MTL-1" / "trajectory.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join(row for row in rows if f",b,{measure}," not in row) + "\n")
    message = refused("runs")
    assert f"RUN {file.relative_to(tmp_path)}: has no {measure} of 'b'" in message
    assert "TrajectoryLog" in message


HEADER = "method,seed,trained,phase,epoch,step,task,measure,value\n"
ROW = "STL,0,a,train,1,10,a,train_loss,0.5\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no column method"),
        ("name,score\nours,1\n", "no column method"),
        (HEADER.replace(",step", ""), "no column step"),
        (HEADER, "holds no measurement"),
        (HEADER + ROW + "STL,0,a,tra", "line 3 has 4 fields of 9; the file is torn"),
        (HEADER + ROW.replace("0.5", "high"), "line 2: value cannot be 'high'"),
        (HEADER + ROW.replace("0.5", ""), "line 2: value cannot be ''"),
        (HEADER + ROW.replace(",1,10,", ",1.5,10,"), "line 2: epoch cannot be '1.5'"),
        (HEADER + ROW.replace(",1,10,", ",1,-3,"), "line 2: step cannot be '-3'"),
        (HEADER + ROW.replace(",0,", ",one,"), "seed cannot be 'one'"),
        (HEADER + ROW.replace(",0,a,", ",0,,"), "trained is empty"),
        (HEADER + ROW + ROW.replace("STL", "MTL"), "line 3 is of 'MTL 0 a', the lines above of 'STL 0 a'"),
        (b"\xff\xfe\x00", "it is not text"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[-30:],
)
def test_broken_files(
    content: str | bytes, expected: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    file = tmp_path / "trajectory.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("trajectory.csv")
    assert "RUN trajectory.csv" in message
    assert expected in message


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    Path("file").write_text("")
    assert main(["trajectories", "runs", "--out", "file/inside"]) == 2
    assert "--out file/inside: cannot be written" in capsys.readouterr().err


def test_it_starts_without_what_it_does_not_need() -> None:
    code = """
import sys, lit_aux.cli.trajectories
print([name for name in ("torch", "lightning", "matplotlib", "scipy", "wandb") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
