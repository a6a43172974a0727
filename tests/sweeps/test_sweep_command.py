"""``lit-aux sweep`` with real runs: what it says, the table that it leaves, and its SLURM array."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sweep_helpers import ROOT, rows_of, write_sweep

from lit_aux.cli import main
from lit_aux.experiments import ResultsTable
from lit_aux.runs.processes import _Server
from lit_aux.storage import storage_trouble, writable

TABLE = "out/results.csv"
PLACE = ["--out", "out"]
FULL = "no space is left on the disk; free some, or name another folder"


pytestmark = pytest.mark.usefixtures("one_server")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many threads each server had in the end from which runs were forked."""
    found: list[int] = []
    close = _Server.close

    def counted(self: _Server) -> None:
        found.append(len(os.listdir(f"/proc/{self._process.pid}/task")))
        close(self)

    monkeypatch.setattr(_Server, "close", counted)
    return found


def test_a_sweep_of_real_runs(capfd: pytest.CaptureFixture[str], threads: list[int]) -> None:
    write_sweep(
        Path("s.yaml"),
        {
            "model.rescale": [1.0, 1e-05],
            "data.n_main": [6, -1],
            "data.seed": 1,
            "model.finetune_settings.max_flow_time": [None],
            "model.finetune_settings.stop_on": [["main"]],
        },
        early_terminate={"type": "hyperband"},
    )
    assert main(["sweep", "s.yaml", *PLACE, "--jobs", "2", "--", "--seed_everything", "3"]) == 1
    rows = rows_of(TABLE)
    assert sorted((row["rescale"], row["n_main"], row["error"] != "") for row in rows) == [
        ("1.0", "-1", True),
        ("1.0", "6", False),
        ("1e-05", "-1", True),
        ("1e-05", "6", False),
    ]
    for row in rows:
        assert (row["setup"], row["experiment"], row["seed"]) == ("PT+FT", "diagonal", "1")
        if row["error"]:
            assert row["error"] == "--data.n_main -1: must be at least 1"
            continue
        assert float(row["loss_best"]) <= float(row["loss_final"])
        folder = Path("out/runs") / row["run"]
        saved = yaml.safe_load((folder / "version_0" / "config.yaml").read_text())
        model = saved["model"]["init_args"]
        assert (saved["seed_everything"], float(model["rescale"])) == (3, float(row["rescale"]))
        settings = model["finetune_settings"]
        assert (settings["max_flow_time"], settings["stop_on"]) == (None, ["main"])
        (fitted,) = rows_of(folder / "version_0" / "results.csv")
        assert {**fitted, "run": row["run"]} == row
    with ResultsTable(TABLE) as table:
        measures = table.measures()
    for row in rows:
        own = {m["measure"]: m["value"] for m in measures if m["run"] == row["run"] and not m["layer"]}
        assert own["model.finetune_settings.stop_on"] == '["main"]'
        assert own["data.in_features"] == "12"
        assert ("evaluations" in own) == (not row["error"])
    # the two runs that went well are of one pretraining, and of one logger that needs no account
    assert len(list(Path("out/phases").glob("*.ckpt"))) == 1
    assert not list(Path("out").rglob("*.wandb"))
    out = capfd.readouterr().out
    assert "note: early_terminate is for W&B agents" in out
    assert f"4 of 4 runs are in {TABLE}: 2 went well, 2 failed" in out
    # what runs are forked from computes nothing: it has one thread
    assert threads == [1]


def test_a_random_sweep_goes_on_where_it_was() -> None:
    spec = {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0}
    write_sweep(Path("s.yaml"), {"model.rescale": spec, "data.n_main": 6, "data.seed": 0}, method="bayes")
    words = ["sweep", "s.yaml", *PLACE, "--method", "random", "--seed", "5"]
    assert main([*words, "--count", "1"]) == 0
    assert main([*words, "--count", "2"]) == 0
    first, second = rows_of(TABLE)
    assert first["rescale"] != second["rescale"]
    assert all(0.01 <= float(row["rescale"]) <= 1 for row in (first, second))


def test_a_slurm_array(capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"model.rescale": 0.5, "data.n_main": [6, 7, -1], "data.seed": 0})
    extra = ["--", "--data.n_test", "21"]
    words = ["sweep", "s.yaml", *PLACE, "--seed=2"]
    sbatch = "--sbatch=--time 1:00:00 --gres gpu:1"
    assert main([*words, "--slurm", "deep/array.sh", "--jobs", "2", sbatch, *extra]) == 0
    script = Path("deep/array.sh")
    assert script.stat().st_mode & stat.S_IXUSR
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--array=0-2%2", "--job-name=s", "--time 1:00:00", "--gres gpu:1"} < {*directives}
    assert next(i for i, line in enumerate(lines) if line.startswith("cd ")) > max(
        i for i, line in enumerate(lines) if line.startswith("#SBATCH")
    ), "SLURM reads directives above the first command only"
    assert Path("out/slurm").is_dir()
    told = capsys.readouterr().out
    assert "sbatch deep/array.sh" in told
    assert "lit-aux sweep s.yaml --out out --seed=2 --collect -- --data.n_test 21" in told
    assert not Path(TABLE).exists()
    # tasks, in this process; the second is lost
    assert main([*words, "--task", "0", *extra]) == 0
    assert main([*words, "--task", "2", *extra]) == 1
    assert "failed: --data.n_main -1: must be at least 1" in capsys.readouterr().out
    assert not Path(TABLE).exists(), "one process writes the table, and it is none of the tasks"
    assert main([*words, "--collect", *extra]) == 1
    told = capsys.readouterr().out
    assert "1 runs are missing, 0 of them begun; to run them: sbatch --array=1 SCRIPT" in told
    assert [(row["n_main"], row["error"] == "") for row in rows_of(TABLE)] == [("6", True), ("-1", False)]
    assert main([*words, "--task", "1", *extra]) == 0
    assert main([*words, "--task", "1", *extra]) == 0
    assert "done before" in capsys.readouterr().out
    assert main([*words, "--collect", *extra]) == 1
    assert [row["n_main"] for row in rows_of(TABLE)] == ["6", "-1", "7"]
    assert len(list(Path("out/phases").glob("*.ckpt"))) == 1


def test_the_slurm_script_runs_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"model.rescale": [1.0, 0.5], "data.n_main": 6, "data.seed": 0})
    assert main(["sweep", "s.yaml", *PLACE, "--slurm", "array.sh"]) == 0
    done = subprocess.run(
        ["bash", str(Path("array.sh").resolve())],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"},
        cwd="/",  # SLURM need not start it where it was written
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 1 of 2: rescale 0.5" in done.stdout
    (mark,) = Path("out/runs").glob("*/ended.json")
    assert json.loads(mark.read_text())["error"] == ""
    assert main(["sweep", "s.yaml", *PLACE, "--collect"]) == 1  # the other task is missing
    (row,) = rows_of(TABLE)
    assert row["rescale"] == "0.5"


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that holds 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path, left: int) -> Path:
    """Leave so many bytes of a disk."""
    path = folder / "fill"
    free = os.statvfs(folder)
    path.write_bytes(b"\0" * (free.f_bavail * free.f_bsize - left))
    return path


FIT = ["fit", "--config", str(ROOT / "configs/diagonal/ptft.yaml"), "--trainer.accelerator=cpu"]
FIT += ["--data.in_features=12", "--model.backbone.in_features=12", "--data.k_main=2", "--data.k_aux=2"]
FIT += ["--data.overlap=1", "--data.n_aux=12", "--data.n_test=20", "--data.n_main=6", "--data.seed=0"]
FIT += ["--model.pretrain_settings.max_evaluations=20", "--model.finetune_settings.max_evaluations=20"]
FIT += ["--trainer.enable_progress_bar=false"]


@pytest.mark.parametrize("left", [0, 8192, 40960])
def test_a_fit_on_a_full_disk(
    left: int, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    fill(small_disk, left)
    assert main([*FIT, f"--trainer.default_root_dir={small_disk}/runs"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"lit-aux: error: {small_disk}/runs")
    assert message.endswith((FULL, "is the disk full?"))


def test_a_sweep_on_a_full_disk(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(Path("s.yaml"), {"model.rescale": 0.5, "data.n_main": [6, 7, 8, 9, 10], "data.seed": 0})
    filling = fill(small_disk, 150_000)
    words = ["sweep", "s.yaml", "--out", str(small_disk / "out")]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "lit-aux: error: " in out
    assert "no space" in out.lower()
    table = small_disk / "out" / "results.csv"
    filling.unlink()
    before = rows_of(table)
    assert 1 <= len(before) < 5
    assert all(row["error"] == "" for row in before)
    assert f"interrupted: {len(before)} of 5 runs are in {table}; the same command goes on" in out
    assert main(words) == 0
    after = rows_of(table)
    assert after[: len(before)] == before
    assert sorted(int(row["n_main"]) for row in after) == [6, 7, 8, 9, 10]


def test_a_folder_that_may_not_be_written(
    small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=20)
    assert main([*FIT, f"--trainer.default_root_dir={small_disk}/runs"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        f"lit-aux: error: {small_disk}/runs: the file system is read-only; name another folder"
    )
    write_sweep(Path("s.yaml"), {"model.rescale": 0.5, "data.n_main": 6, "data.seed": 0})
    assert main(["sweep", "s.yaml", "--out", f"{small_disk}/out"]) == 2
    assert f"--out {small_disk}/out/results.csv: cannot be written" in capsys.readouterr().err
    assert main(["sweep", "s.yaml", "--slurm", f"{small_disk}/array.sh"]) == 2
    assert f"--slurm {small_disk}/array.sh: " in capsys.readouterr().err


def test_checkpoints_that_torch_cannot_write_whole(small_disk: Path) -> None:
    import torch

    assert writable(small_disk) is None
    fill(small_disk, 4096)
    with pytest.raises((RuntimeError, OSError)) as error:
        torch.save({"x": torch.zeros(100_000)}, small_disk / "x.ckpt")
    trouble = storage_trouble(error.value, small_disk)
    assert str(trouble).startswith(f"{small_disk}: ")
    assert str(trouble).endswith((FULL, "is the disk full?"))


def test_errors_of_other_kinds_are_left_alone() -> None:
    assert storage_trouble(FileNotFoundError(2, "No such file or directory", "x"), ".") is None
    assert storage_trouble(RuntimeError("shapes do not match"), ".") is None
    assert storage_trouble("PermissionError: [Errno 13] Permission denied: 'data'", ".") is None
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = PermissionError(13, "Permission denied", "a/b")
    assert str(storage_trouble(wrapped, ".")).startswith("a/b: permission is denied")
    assert "runs: no space is left" in str(storage_trouble(OSError(28, "No space left on device"), "runs"))
