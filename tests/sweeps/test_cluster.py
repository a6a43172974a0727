"""Runs on a Dask cluster: rows come once, whoever dies; what is missing is told in one line."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_helpers import LocalCluster, cluster
from sweep_helpers import ROOT, rows_of, toy, well, write_sweep
from toys import until

from lit_aux.cli import main
from lit_aux.cli.sweep import run

pytest.importorskip("distributed", reason="needs the extra cluster")
TABLE = "runs/sweeps/s/results.csv"
SWEEPS = ROOT / "tests" / "sweeps"
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sweep_helpers import toy
from lit_aux.cli.sweep import run
sys.exit(run(sys.argv[1:], toy))
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), 2, SWEEPS) as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[LocalCluster]:
    with cluster(tmp_path / "cluster", 2, SWEEPS) as made:
        yield made


def events(folder: Path) -> list[list[str]]:
    """Return what runs have noted in the working folders of the workers."""
    return [line.split() for path in folder.rglob("trained.log") for line in path.read_text().splitlines()]


def grid(n_main: list[int], seeds: int, **more: object) -> int:
    write_sweep(Path("s.yaml"), {"data.n_main": n_main, "data.seed": [*range(seeds)], **more})
    return len(n_main) * seeds


def begun(arguments: list[str]) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(SWEEPS), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def check_once(count: int) -> None:
    rows = rows_of(TABLE)
    assert len(rows) == count == len(Counter(row["run"] for row in rows))
    assert all(row["error"] == "" for row in rows)


def test_rows_come_back(warm: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    count = grid([1], 6, text="a word")
    assert run(["s.yaml", "--cluster", warm.address], toy) == 0
    check_once(count)
    out = capsys.readouterr().out
    assert f"6 of 6 runs are in {Path(TABLE).resolve()}: 6 went well, 0 failed" in out
    before = events(warm.folder)
    assert {kind for kind, *_ in before} == {"begin", "end"}
    assert run(["s.yaml", "--cluster", str(warm.file)], toy) == 0
    assert events(warm.folder) == before, "runs with a row are not run again"


def test_failed_runs_have_rows(warm: LocalCluster) -> None:
    grid([1], 1, trouble=["killed", "refused", "none"])
    assert run(["s.yaml", "--cluster", warm.address], toy) == 1
    errors = sorted(row["error"] for row in rows_of(TABLE))
    assert errors == ["", "--trouble: refused; try none", "killed by SIGKILL (out of memory?)"]


def test_what_a_worker_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid([1], 1)
    with cluster(tmp_path / "strangers", 1) as made:
        assert run(["s.yaml", "--cluster", made.address], toy) == 1
    (row,) = rows_of(TABLE)
    assert "ModuleNotFoundError: No module named 'sweep_helpers'" in row["error"]
    assert row["error"].startswith("worker tcp://127.0.0.1:")


def test_failed_runs_are_tried_again_in_folders_that_are_not_seen_here(
    warm: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid([1], 2, trouble=["raises"])
    assert run(["s.yaml", "--cluster", warm.address], toy) == 1
    monkeypatch.setattr("lit_aux.runs.batch.forget", lambda folder: None)  # there is no such folder here
    assert run(["s.yaml", "--cluster", warm.address, "--retry"], well) == 0
    check_once(2)


def test_a_worker_that_dies_costs_nothing(fresh: LocalCluster) -> None:
    count = grid([20], 10)
    process = begun(["s.yaml", "--cluster", fresh.address])
    until(lambda: sum(kind == "begin" for kind, *_ in events(fresh.folder)) >= 3, seconds=60)
    fresh.workers[0].send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    check_once(count)


def test_a_scheduler_that_dies_ends_the_command(fresh: LocalCluster) -> None:
    count = grid([50], 8)
    process = begun(["s.yaml", "--cluster", fresh.address])
    until(lambda: Path(TABLE).exists() and len(Path(TABLE).read_text().splitlines()) >= 3, seconds=60)
    fresh.scheduler.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1, out
    lines = [line for line in out.splitlines() if line.startswith("lit-aux: error: ")]
    assert lines == [f"lit-aux: error: --cluster {fresh.address}: the connection to the scheduler was lost"]
    assert "Traceback" not in out
    before = rows_of(TABLE)
    assert 2 <= len(before) < count
    assert "the same command goes on from there" in out
    assert run(["s.yaml", "--jobs", "2"], toy) == 0  # or on this machine
    assert rows_of(TABLE)[: len(before)] == before
    check_once(count)


def test_ctrl_c_ends_what_workers_do(warm: LocalCluster) -> None:
    grid([1], 1, trouble=["waits"])
    known = len(events(warm.folder))
    process = begun(["s.yaml", "--cluster", warm.address])
    until(lambda: len(events(warm.folder)) == known + 2, seconds=60)
    pids = [int(pid) for *_, pid in events(warm.folder)[-2:]]
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "interrupted: 0 of 1 runs" in out
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=20)


def test_students_and_factors_on_a_cluster(warm: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "diagonal-overlap", "--setups=[STL, PT+FT]", "--seeds=[0, 1]", "--n-main=[16]"]
    words += ["--overlap=40", "--integrator=exact", "--out=table.csv"]
    assert main([*words, f"--cluster={warm.address}"]) == 0
    there = {row["run"]: row for row in rows_of("table.csv")}
    assert len(there) == 4
    before = len(capsys.readouterr().out)
    assert before
    assert main([*words[:-1], "--out=here.csv"]) == 0
    for row in rows_of("here.csv"):
        assert float(there[row["run"]]["loss_best"]) == pytest.approx(float(row["loss_best"]), rel=1e-6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cluster", "tcp://127.0.0.1:1"], "--cluster tcp://127.0.0.1:1: no scheduler answers"),
        (["--cluster", "nowhere.json"], "--cluster nowhere.json: there is no such scheduler file"),
        (["--cluster", "tcp://127.0.0.1:1", "--jobs", "2"], "--jobs 2: is of this machine"),
        (["--cluster", "x", "--slurm", "s.sh"], "--slurm: does not go with --cluster"),
    ],
)
def test_what_cannot_be(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_aux.runs.cluster._CONNECT", 1.0)
    grid([1], 1)
    assert main(["sweep", "s.yaml", *words]) == 2
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()
