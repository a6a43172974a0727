"""A process of several that dies ends the run, and one line names it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.multiprocessing.spawn import ProcessExitedException
from toys import until

from lit_aux.errors import RankError
from lit_aux.phases.places import remove_leftovers
from lit_aux.phases.ranks import watched

FORK = multiprocessing.get_context("fork")


def trainer(rank: int = 0, *processes: Any) -> Any:
    """Return what the watch looks at of a Trainer with two processes."""
    environment = LightningEnvironment()
    environment.local_rank = lambda: rank  # type: ignore[method-assign]
    launcher = _SubprocessScriptLauncher(environment, 2, 1)
    launcher.procs = list(processes)
    strategy = SimpleNamespace(launcher=launcher)
    return SimpleNamespace(world_size=2, strategy=strategy, num_nodes=1, global_rank=rank)


def apart(function: Callable[[], Any], folder: Path) -> tuple[int | None, list[str], float]:
    """Return exit code, lines and seconds of a function in a process of its own."""

    def work() -> None:
        file = os.open(folder / "err", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        function()

    process = FORK.Process(target=work)
    start = time.monotonic()
    process.start()
    process.join(60)
    assert not process.is_alive()
    return process.exitcode, (folder / "err").read_text().splitlines(), time.monotonic() - start


@pytest.mark.parametrize("lost", [False, True], ids=["hanging", "connection lost"])
def test_a_killed_rank_is_named_and_the_others_end(lost: bool, tmp_path: Path) -> None:
    def work() -> None:
        dead, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
        (tmp_path / "processes").write_text(f"{dead.pid} {other.pid}")
        with watched(trainer(0, dead, other)):
            os.kill(dead.pid, signal.SIGKILL)
            if lost:
                raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1")
            time.sleep(60)

    code, lines, seconds = apart(work, tmp_path)
    dead, other = map(int, (tmp_path / "processes").read_text().split())
    assert code == 1
    assert lines == [f"lit-aux: error: process {dead} (rank 1) was killed by SIGKILL; the run ends"]
    assert seconds < 10
    until(lambda: is_gone(other), 10)


def is_gone(process: int) -> bool:
    """Whether a process has ended, whoever has looked at it since."""
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_killed_first_rank_ends_those_that_it_started(tmp_path: Path) -> None:
    """The middle process stands for rank 0; it is killed, and what it started says so."""

    def second() -> None:
        with watched(trainer(1)):
            (tmp_path / "started").write_text(f"{os.getppid()}")
            while os.getppid() == int((tmp_path / "started").read_text()):
                time.sleep(0.01)
            raise RuntimeError("Connection reset by peer")

    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            file = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            try:
                second()
            finally:
                os._exit(9)
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        time.sleep(0.01)
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    end = time.monotonic() + 20
    line = f"lit-aux: error: process {middle} (rank 0) was killed; rank 1 ends\n"
    while (tmp_path / "err").read_text() != line:
        assert time.monotonic() < end, (tmp_path / "err").read_text()
        time.sleep(0.02)


def test_what_goes_well_or_fails_by_itself_is_left_alone() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    with watched(trainer(0, done)):
        time.sleep(0.6)
    with pytest.raises(ValueError, match="mine"), watched(trainer(0, done)):
        raise ValueError("mine")
    failed = subprocess.Popen(["false"])  # found the same mistake, and says so itself
    failed.wait()
    with pytest.raises(ValueError, match="mine"), watched(trainer(0, failed)):
        raise ValueError("mine")


def test_spawned_processes_are_named() -> None:
    some = trainer()
    some.strategy.launcher = None
    error = ProcessExitedException("died", 1, 4711, -9, "SIGKILL")
    with pytest.raises(RankError, match=r"^process 4711 \(rank 1\) was killed by SIGKILL"), watched(some):
        raise error
    with pytest.raises(RankError, match="another process of this run has ended"), watched(some):
        raise RuntimeError("Connection closed by peer [10.0.0.1]:7")
    with pytest.raises(RuntimeError, match="shapes"), watched(some):
        raise RuntimeError("shapes cannot be multiplied")


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    part = f".last.ckpt.{'a' * 32}.part"
    left = [
        *(part, f"checkpoints/{part}", f"version_0/{part}", f"version_0/checkpoints/pretrain/{part}"),
        "version_0/.results.csv.lock",
    ]
    kept = ["version_0/results.csv", "version_0/deep/er/.x.part", "checkpoints/last.ckpt", "a.lock"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, tmp_path / name)
    remove_leftovers(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*kept}
    remove_leftovers(tmp_path / "nowhere")
