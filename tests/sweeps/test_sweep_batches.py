"""``lit-aux sweep --batch-runs``: runs that finetune in one batch leave what they would have left alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from sweep_helpers import ROOT, rows_of, toy, write_sweep

from lit_aux.cli import main
from lit_aux.cli import sweep as command
from lit_aux.cli.sweep import run
from lit_aux.experiments import ResultsTable
from lit_aux.runs.folder import OUTPUT, read_outcome
from lit_aux.runs.job import Job
from lit_aux.sweeps.batches import batches, fit_batch, why_not
from lit_aux.sweeps.file import read_sweep
from lit_aux.sweeps.jobs import jobs_of
from lit_aux.sweeps.points import points
from lit_aux.sweeps.run import sweep_runs

pytestmark = pytest.mark.usefixtures("one_server")

OPTIONS = {
    "trainer.precision": "64-true",
    "trainer.accelerator": "auto",
    "trainer.check_val_every_n_epoch": 3,
    "model.backbone.name": "test_resnet",
    "model.pretrain_settings.max_epochs": 1,
    "model.finetune_settings.max_epochs": 12,
    "data.n_aux": 40,
    "data.size": 32,
    "data.n_main": 10,
}


def write(parameters: dict[str, Any], **more: Any) -> None:
    """Write a sweep of finetunings of a small residual network on digits."""
    spelled = {}
    for name, value in {**OPTIONS, **parameters}.items():
        spelled[name] = {"values": value} if isinstance(value, list) else {"value": value}
    config = str(ROOT / "configs" / "digits" / "ptft.yaml")
    content = {"method": "grid", "parameters": spelled, **more}
    content["command"] = ["lit-aux", "fit", "--config", config, "${args}"]
    Path("s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep take this machine for one with a GPU; its runs do not."""
    monkeypatch.setattr(command, "why_not", lambda runs: "")


def measures(table: str) -> dict[tuple[str, str, str], str]:
    with ResultsTable(table) as opened:
        return {(row["run"], row["layer"], row["measure"]): row["value"] for row in opened.measures()}


def assert_alike(table: str, expected: str, rtol: float) -> None:
    """Compare rows and measures of two tables, but for the time that they took."""
    found, rows = ({row["run"]: row for row in rows_of(path)} for path in (table, expected))
    assert found.keys() == rows.keys()
    for name, row in rows.items():
        for column, text in row.items():
            if column != "seconds":
                assert_alike_text(found[name][column], text, rtol)
    own, others = measures(table), measures(expected)
    assert own.keys() == others.keys()
    for key, text in others.items():
        assert_alike_text(own[key], text, rtol)


def assert_alike_text(found: str, expected: str, rtol: float) -> None:
    try:
        number = float(expected)
    except ValueError:
        assert found == expected
    else:
        assert float(found) == pytest.approx(number, rel=rtol, abs=rtol)


@pytest.mark.usefixtures("gpu")
def test_rows_are_those_of_runs_by_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    write(
        {
            "model.rescale": [0.5, -1.0],
            "seed_everything": [0, 1],
            "model.finetune_settings.stop_at_training_loss": 0.4,
        }
    )
    assert main(["sweep", "s.yaml", "--out", "alone"]) == 1
    capfd.readouterr()
    assert main(["sweep", "s.yaml", "--out", "batch", "--batch-runs", "8"]) == 1
    said = capfd.readouterr().out
    assert "4 of 4 runs are in batch/results.csv: 2 went well, 2 failed" in said
    assert "trained by itself" not in said
    assert_alike("batch/results.csv", "alone/results.csv", 1e-8)
    rows = rows_of("batch/results.csv")
    assert len({row["steps"] for row in rows if not row["error"]}) > 1, "all stopped at the same step"
    for row in rows:
        folder = Path("batch/runs") / row["run"]
        output = (folder / OUTPUT).read_text()
        if row["error"]:
            assert "rescale" in row["error"]
            continue
        # each has printed into its own folder, and left there what a run by itself leaves
        assert f"results: {folder}/version_0/results.csv" in output
        assert output.count("results: ") == 1
        files = {path.name for path in folder.rglob("*")}
        assert files == {path.name for path in Path("alone/runs", row["run"]).rglob("*")}
    # nothing is left to do
    assert main(["sweep", "s.yaml", "--out", "batch", "--batch-runs", "8"]) == 1
    assert len(rows_of("batch/results.csv")) == 4


@pytest.mark.usefixtures("gpu")
def test_what_cannot_be_batched_has_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    own = {"data.n_main": 6, "data.seed": 0, "trainer.accelerator": "auto"}
    write_sweep(Path("s.yaml"), {"model.rescale": [1.0, 0.1], **own})
    assert main(["sweep", "s.yaml", "--out", "out", "--batch-runs", "2"]) == 0
    assert len(rows_of("out/results.csv")) == 2
    said = capfd.readouterr().out
    assert said.count("trained by itself: PretrainFinetuneModule of this network is not trained in a") == 2


def test_without_a_gpu_runs_go_one_by_one(capfd: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"data.n_main": 1, "data.seed": [0, 1]})
    assert run(["s.yaml", "--batch-runs", "2"], toy) == 0
    said = capfd.readouterr().out
    assert "note: --batch-runs 2: runs ask for --trainer.accelerator cpu; a batch is slower on a CPU" in said
    assert len(rows_of("runs/sweeps/s/results.csv")) == 2


def test_this_machine_is_asked_for_a_gpu() -> None:
    write({"model.rescale": [1.0, 0.5]})
    found = planned()
    with patch("torch.cuda.is_available", lambda: False):
        assert why_not([job.arguments[1] for job in found]) == "there is no GPU"
    with patch("torch.cuda.is_available", lambda: True):
        assert why_not([job.arguments[1] for job in found]) == ""


@pytest.mark.parametrize("way", [["--slurm", "a.sh"], ["--task", "0"], ["--collect"], ["--cluster", "x:1"]])
def test_batches_are_of_this_machine(way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"data.n_main": 1, "data.seed": [0, 1]})
    assert main(["sweep", "s.yaml", "--batch-runs", "4", *way]) == 2
    assert f"--batch-runs 4: does not go with {way[0]}" in capsys.readouterr().err
    assert not Path("a.sh").exists()


@pytest.mark.parametrize("size", ["0", "65", "x"])
def test_sizes_of_a_batch(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"data.n_main": 1, "data.seed": [0, 1]})
    assert main(["sweep", "s.yaml", "--batch-runs", size]) == 2
    assert "--batch-runs" in capsys.readouterr().err


def planned(*extra: str) -> list[Job]:
    sweep = read_sweep("s.yaml")
    return jobs_of(sweep_runs(sweep, points(sweep), Path("out").resolve(), extra), toy)


def sizes(jobs: Sequence[Job]) -> list[int]:
    return [len(job.parts) or 1 for job in jobs]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"model.rescale": [1.0, 0.5, 0.25], "seed_everything": [0, 1, 2]}, [4, 4, 1]),
        ({"model.init_args.rescale": [1.0, 0.5], "data.seed": [0, 1]}, [4]),
        ({"model.finetune_settings.optimizer.init_args.lr": [0.1, 0.2, 0.3]}, [3]),
        ({"model.rescale": [1.0, 0.5], "data.n_main": [5, 10, 20]}, [2, 2, 2]),
        ({"model.finetune_settings.batch_size": [5, 10]}, [1, 1]),
        ({"model.rescale": [1.0, 0.5], "trainer.accelerator": ["cpu", "gpu"]}, [1, 1, 2]),
        ({"model.rescale": [1.0, 0.5], "trainer.devices": 2}, [1, 1]),
        ({"model.rescale": [1.0, 0.5], "trainer.strategy": "ddp"}, [1, 1]),
    ],
)
def test_what_goes_into_one_batch(parameters: dict[str, Any], expected: list[int]) -> None:
    write(parameters)
    jobs = planned()
    made = batches(jobs, 4)
    assert sizes(made) == expected
    parts = [part for job in made for part in job.parts or (job,)]
    assert sorted(key for part in parts for key in part.runs) == sorted(
        key for job in jobs for key in job.runs
    )
    assert all(
        job.runs.keys() == {key for part in job.parts for key in part.runs} for job in made if job.parts
    )


def test_runs_that_log_to_wandb_are_alone() -> None:
    write({"model.rescale": [1.0, 0.5]})
    sweep = read_sweep("s.yaml")
    runs = sweep_runs(sweep, points(sweep), Path("out"), (), "wandb")
    assert sizes(batches(jobs_of(runs, toy), 4)) == [1, 1]


@pytest.mark.parametrize("word", ["--trainer.logger+=WandbLogger", "--trainer.logger.class_path=WandbLogger"])
def test_other_words_for_wandb(word: str) -> None:
    write({"model.rescale": [1.0, 0.5]})
    assert sizes(batches(planned(word), 4)) == [1, 1]


class Notes:
    """Keeps what a job's work reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def step(self, active: int, steps: int) -> None:
        self.steps.append((active, steps))

    def rows(self, run: str, rows: Any, measures: Any) -> None:
        raise AssertionError("rows are in the folders")

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_batch_that_lacks_memory_leaves_its_runs_undone() -> None:
    write({"model.rescale": [1.0, 0.5], "trainer.enable_progress_bar": False})
    jobs = jobs_of_fits("--trainer.accelerator=cpu")
    report = Notes()
    lacking = patch(
        "lit_aux.batched.stack.NetworkStack.gradients", side_effect=torch.OutOfMemoryError("no memory")
    )
    with lacking:
        fit_batch(report, jobs)
    assert [read_outcome(job.folder) for job in jobs if job.folder] == [None, None]
    assert len(report.notes) == 2
    assert all("trained by itself: " in note for note in report.notes)


def jobs_of_fits(*extra: str) -> list[Job]:
    sweep = read_sweep("s.yaml")
    return jobs_of(sweep_runs(sweep, points(sweep), Path("out").resolve(), extra), main)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("trouble", ["killed", "raises"])
def test_one_that_takes_the_process_along_costs_the_others_nothing(
    trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sweep(Path("s.yaml"), {"data.n_main": 1, "data.seed": [0, 1, 2], "trainer.accelerator": "auto"})
    assert run(["s.yaml", "--batch-runs", "3", "--", "--of_seed_1", trouble], troubled) == 1
    rows = {row["seed"]: row["error"] for row in rows_of("runs/sweeps/s/results.csv")}
    assert rows.keys() == {"0", "1", "2"}
    assert not rows["0"]
    assert rows["1"]
    assert not rows["2"]
    said = capfd.readouterr().out
    assert ("each is tried by itself" in said) == (trouble != "raises")


def troubled(arguments: list[str]) -> int:
    """Do what ``toy`` does; seed 1 has the trouble that the option ``of_seed_1`` names."""
    own = [f"--trouble={arguments[arguments.index('--of_seed_1') + 1]}"]
    return toy([*arguments, *(own if "--data.seed=1" in arguments else [])])
