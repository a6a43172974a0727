"""Whatever happens to worker processes, rows stay whole and nobody is left behind."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pool_helpers
import pytest
from process_helpers import processes_of_here
from toys import until

from lit_aux.cli import main
from lit_aux.cores import cores
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable, SliceError, cells
from lit_aux.runs.engines import Here
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import Runner

PROGRAM = """
import pool_helpers, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
print("begins", flush=True)
sys.exit(0 if pool_helpers.with_workers(pool_helpers.sleeps) else 130)
"""


def rows() -> list[dict[str, str]]:
    with ResultsTable("results.csv") as table:
        assert Counter(row["run"] for row in table.measures()) == Counter(table.done())
        return table.rows()


def finish(already: int) -> None:
    """Start again: every run has its row once in the end."""
    before = rows()
    assert len(before) == already
    assert pool_helpers.with_workers(pool_helpers.quick)
    expected = {run.run_hash for run in cells("relu-overlap", **pool_helpers.CHOICE)}
    found = rows()
    assert Counter(row["run"] for row in found) == Counter(expected)
    assert found[:already] == before
    assert not processes_of_here()


def test_workers_carry_out_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lit_aux.runs.processes.cores", lambda: 7)
    finish(0)
    processes = {row["seconds"] for row in rows()}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert {row["steps"] for row in rows()} == {"3"}  # threads


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("killed", "its process was ended by SIGKILL, as when memory runs out"),
        ("exits", "its process ended with code 3"),
        ("raises", "RuntimeError: no luck"),
        ("returns", "it ended without them"),
    ],
)
def test_a_lost_worker_costs_its_slice_only(
    trouble: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SliceError) as error:
        pool_helpers.with_workers(getattr(pool_helpers, trouble))
    expected = f"STL, n 16: 1 of 2 runs have no row ({reason})"
    assert expected in str(error.value)
    assert "15 of 16 runs are in results.csv" in str(error.value)
    streams = capfd.readouterr()
    assert expected in streams.out.splitlines()
    assert ("RuntimeError: no" in streams.err) == (trouble == "raises")
    assert not processes_of_here()
    finish(15)


def test_the_command_fails_where_a_slice_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(self: Runner, jobs: object) -> None:
        self.failures = ["STL, n 16: 2 of 3 runs have no row (its process ended with code 3)"]

    monkeypatch.setattr(Runner, "run", lose)
    assert main(["reproduce", "relu-overlap", "--setups=STL", "--jobs=2", "--out=results.csv"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-aux: error: 0 of 288 runs are in results.csv; STL, n 16: 2 of 3 runs")


def test_what_a_worker_refuses_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        pool_helpers.with_workers(pool_helpers.refuses)
    assert str(error.value) == "--model: no"
    assert not processes_of_here()
    assert rows()


@pytest.fixture
def listening() -> Iterator[None]:
    """Hear Ctrl-C even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_workers(capsys: pytest.CaptureFixture[str], listening: None) -> None:
    ended = Progress.end

    def interrupt(self: Progress, converged: bool) -> None:
        ended(self, converged)
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    with patch.object(Progress, "end", interrupt):
        assert not pool_helpers.with_workers(pool_helpers.sleeps)
    assert time.monotonic() - began < 20
    assert not processes_of_here()
    assert "interrupted: 2 of 16 runs" in capsys.readouterr().out
    finish(2)


def is_running(process: int) -> bool:
    """Return whether there is such a process; one that nobody waited for does not run."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("kill", ["ctrl-c", "parent"])
def test_nobody_survives_the_command(kill: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: Path("results.csv").exists() and len(Path("results.csv").read_text().splitlines()) == 3)
        lines = Path("results.csv").read_text().splitlines()
        workers = [int(row["seconds"]) for row in csv.DictReader(lines)]
        assert all(map(is_running, workers))
        if kill == "ctrl-c":  # a terminal tells the whole group
            os.killpg(command.pid, signal.SIGINT)
        else:
            command.kill()
        out, err = command.communicate(timeout=20)
        assert command.returncode == (130 if kill == "ctrl-c" else -signal.SIGKILL)
        assert "Traceback" not in err
        assert ("interrupted: 2 of 16" in out) == (kill == "ctrl-c")
        until(lambda: not any(map(is_running, workers)))
        assert len(rows()) == 2
    finally:
        command.kill()


@pytest.mark.parametrize(("runs", "expected"), [(16, 2), (15, 1)])
def test_default_jobs(runs: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_aux.experiments import Options, reproduce

    used: list[int] = []

    def count(jobs: int = 1) -> Here:
        used.append(jobs)
        return Here()

    monkeypatch.setattr("lit_aux.experiments.reproduction.cores", lambda: 5)
    monkeypatch.setattr("lit_aux.experiments.reproduction.Processes", count)
    monkeypatch.setattr("lit_aux.experiments.reproduction.Here", count)
    monkeypatch.setattr(Runner, "run", lambda self, jobs: None)
    choice = {"setups": "STL", "seeds": list(range(runs)), "n_main": 16, "correlation": 0}
    reproduce("relu-overlap", options=Options(device="cpu"), **choice)
    assert used[-1] == expected
    assert cores() >= 1
