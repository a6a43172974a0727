"""``lit-aux sweep --cluster`` whose worker or scheduler is killed, compared with one that nobody disturbs."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from cluster_helpers import LocalCluster
from killed_commands import sweep_words, tables_of, whole_rows
from killed_runs import Tally, differing, leftovers

OUT = Path("out/results.csv")
_MARK = "LIT_AUX_KILLS"  # in the environment of all that a trial starts, so that orphans are known
_GONE = 20.0  # seconds that processes may take to be gone whose worker was killed
_CLOSED = 90.0  # seconds in which workers close that have lost their scheduler
_END = 300.0  # seconds that a command may take
_LOST = "the connection to the scheduler was lost"


class _Sweep:
    """A sweep over two workers in a working folder of its own.

    Args:
        words: The command.
        home: The working folder, which is made.
    """

    def __init__(self, words: list[str], home: Path) -> None:
        self.home, self._words = home, words
        self.amiss: list[str] = []
        home.mkdir(exist_ok=True)

    def begin(self) -> "subprocess.Popen[bytes]":
        """Give the command, and wait until the workers have its runs."""
        with (self.home / "command.txt").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "lit_aux.cli", *self._words],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait(
            lambda: any((self.home / OUT.parent).glob(".results.csv.lock*")) or process.poll() is not None,
            _END,
        )
        return process

    def go_on(self, process: "subprocess.Popen[bytes]", rnd: random.Random) -> None:
        """Let the command go on until some of its runs have their rows, and a little longer."""
        count = len(whole_rows(self.home / OUT)) + rnd.randrange(7)
        _wait(lambda: len(whole_rows(self.home / OUT)) >= count or process.poll() is not None, _END)
        time.sleep(rnd.uniform(0.0, 1.0))

    def end(self, process: "subprocess.Popen[bytes]", wanted: int) -> None:
        """Wait for the end of the command and look at its code."""
        try:
            code = process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code != wanted:
            self.amiss.append(f"code {code}: {self.said()[-300:]}")

    def said(self) -> str:
        """Return what the command has printed."""
        return (self.home / "command.txt").read_text()


def kill_cluster(whom: str, folder: Path, count: int, seed: int, seconds: float = float("inf")) -> Tally:
    """Kill a worker, or the scheduler, in the middle of sweeps over two workers.

    A sweep whose worker dies goes on by itself. One whose scheduler dies ends with a line that says so; the
    same command goes on with another scheduler. In the end the table is that of a sweep on this machine, no
    row has changed, and no process is left of what was killed.

    Args:
        whom: ``worker`` or ``scheduler``.
        folder: An empty folder.
        count: How many kills.
        seed: Of the kills.
        seconds: When to stop all the same.
    """
    os.environ[_MARK] = uuid.uuid4().hex
    rnd, tally, end = random.Random(seed), Tally(), time.monotonic() + seconds
    words = sweep_words(folder / "sweep.yaml")
    here = _Sweep(words, folder / "here")
    here.end(here.begin(), 0)
    wanted = tables_of(here.home / OUT)
    (folder / "cluster").mkdir()
    cluster = LocalCluster(folder / "cluster")
    try:
        words[words.index("--jobs=2")] = f"--cluster={cluster.file}"
        whole = _Sweep(words, folder / "whole")
        _complete(cluster)
        whole.end(whole.begin(), 0)
        whole.amiss += here.amiss + differing(wanted, tables_of(whole.home / OUT))
        if whole.amiss:
            raise RuntimeError(f"undisturbed: {', '.join(whole.amiss)}")
        trial = 0
        while tally.killed.total() < count and time.monotonic() < end:
            trial += 1
            one = _Sweep(words, folder / f"trial{trial}")
            before = tally.killed.total()
            if whom == "worker":
                _with_killed_worker(one, cluster, rnd, tally)
            else:
                cluster = _with_killed_scheduler(one, cluster, rnd, tally)
            tally.resumed += tally.killed.total() > before
            one.amiss += differing(wanted, tables_of(one.home / OUT)) + leftovers(one.home)
            if one.amiss:
                tally.bad.append(f"{trial}: {', '.join(one.amiss)}")
            shutil.rmtree(one.home)
    finally:
        cluster.kill()
    if left := _strays((), _GONE):
        tally.bad.append(f"when all had ended: {left}")
    return tally


def _with_killed_worker(one: _Sweep, cluster: LocalCluster, rnd: random.Random, tally: Tally) -> None:
    """Kill a worker; all that it started must be gone soon, and the sweep goes on without it."""
    _complete(cluster)
    process = one.begin()
    one.go_on(process, rnd)
    if process.poll() is None:
        tally.killed["worker"] += 1
        victim = cluster.workers.pop(rnd.randrange(len(cluster.workers)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        live = [process, cluster.scheduler, *cluster.workers]
        if left := _strays([each.pid for each in live], _GONE):
            one.amiss.append(f"orphans of a worker: {left}")
    else:
        tally.ended += 1
    one.end(process, 0)


def _with_killed_scheduler(
    one: _Sweep, cluster: LocalCluster, rnd: random.Random, tally: Tally
) -> LocalCluster:
    """Kill the scheduler once or twice, and give the command again; return the cluster that it ended with.

    The command must say what happened, workers must close, and nothing of them may stay.
    """
    kept: dict[str, dict[str, str]] = {}
    for _ in range(rnd.choice((1, 1, 2))):
        _complete(cluster)
        process = one.begin()
        one.go_on(process, rnd)
        if process.poll() is not None:
            tally.ended += 1
            break
        tally.killed["scheduler"] += 1
        cluster.scheduler.send_signal(signal.SIGKILL)
        cluster.scheduler.wait()
        one.end(process, 1)
        if _LOST not in one.said() or "Traceback" in one.said():
            one.amiss.append(f"said {one.said()[-300:]}")
        if not cluster.closed(_CLOSED):
            one.amiss.append("a worker stays that has no scheduler")
            cluster.kill()
        if left := _strays((), _GONE):
            one.amiss.append(f"orphans of workers without a scheduler: {left}")
        kept |= whole_rows(one.home / OUT)
        cluster = LocalCluster(cluster.folder)
    _complete(cluster)
    one.end(one.begin(), 0)
    now = whole_rows(one.home / OUT)
    one.amiss += [f"row {run} changed" for run, row in kept.items() if now.get(run) != row]
    return cluster


def _complete(cluster: LocalCluster) -> None:
    """Bring a cluster to two workers.

    Raises:
        RuntimeError: If its scheduler has ended, which nobody here has killed.
    """
    if (code := cluster.scheduler.poll()) is not None:
        raise RuntimeError(f"the scheduler has ended with code {code}: {cluster.folder / 'output.txt'}")
    cluster.workers = [worker for worker in cluster.workers if worker.poll() is None]
    while len(cluster.workers) < 2:
        cluster.add_worker()


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for something; return whether it came about."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _strays(live: Iterable[int], seconds: float) -> list[str]:
    """Return what trials have started and no live process has, and is still there after a while."""
    roots = {*live}
    _wait(lambda: not _orphans(roots), seconds)
    return _orphans(roots)


def _orphans(live: set[int]) -> list[str]:
    """Return the processes of trials that are not those given, nor started by them."""
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    parents: dict[int, int] = {}
    marked: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if mark in (path / "environ").read_bytes().split(b"\0"):
                marked[pid] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]

    def known(pid: int) -> bool:
        return pid in live or (pid in parents and known(parents[pid]))

    return [f"{pid} {command}" for pid, command in marked.items() if not known(pid)]
