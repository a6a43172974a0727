"""Who holds what: said, waited for visibly, taken over from the dead."""

import errno
import fcntl
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_aux import locks
from lit_aux.locks import Lock, remove_dead
from lit_aux.phases.store import PhaseStore
from lit_aux.runs.table import ResultsTable

FORK = multiprocessing.get_context("fork")


def refusing(number: int) -> Callable[..., None]:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def hold(path: Path, ready: Any, without: int) -> None:
    if without:
        fcntl.flock = refusing(without)
    lock = Lock(path)  # given up with the object
    assert lock.acquire()
    ready.set()
    time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Return what starts a process that holds a lock and does nothing else."""
    started: list[Any] = []

    def start(without: int = 0) -> Any:
        ready = FORK.Event()
        started.append(FORK.Process(target=hold, args=(tmp_path / "a.lock", ready, without)))
        started[0].start()
        assert ready.wait(20)
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.join(20)


@pytest.mark.parametrize("without", [0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_who_holds_it_is_said(
    without: int, holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where files cannot be locked."""
    process = holder(without)
    if without:
        monkeypatch.setattr(fcntl, "flock", refusing(without))
    lock = Lock(tmp_path / "a.lock")
    assert not lock.acquire()
    found = re.fullmatch(r"process (\d+) on (\S+) since (.*)", lock.holder())
    assert found is not None
    assert (int(found[1]), found[2]) == (process.pid, socket.gethostname())
    assert abs(time.mktime(time.strptime(found[3], "%Y-%m-%d %H:%M:%S")) - time.time()) < 30


def test_waiting_goes_on_visibly_until_the_other_is_dead(
    holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_AGAIN", 0.2)
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)  # it is stuck
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            os.kill(process.pid, signal.SIGKILL)

    lock = Lock(tmp_path / "a.lock")
    lock.wait("the phase", say=say, poll=0.02, timeout=20)
    assert lock.held
    assert len(lines) >= 3
    assert all(f"waiting for the phase: process {process.pid} on" in line for line in lines[:3])
    lock.release()
    assert not list(tmp_path.iterdir())


def test_waiting_has_an_end_where_one_is_given(holder: Any, tmp_path: Path) -> None:
    process = holder()
    with pytest.raises(TimeoutError, match=f"process {process.pid}"):
        Lock(tmp_path / "a.lock").wait("it", say=lambda line: None, poll=0.01, timeout=0.05)


@pytest.mark.parametrize("without", [errno.ENOLCK, errno.ENOSYS])
def test_where_files_cannot_be_locked(without: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(without))
    one, other = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()
    assert not list(tmp_path.iterdir())


def test_another_machines_claim_is_taken_over_when_it_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of who waits, whatever the other's: its file says the year 2100."""
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(locks, "_LEASE", 0.6)
    first, second = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert first.acquire()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:  # the other renews it
        assert not second.acquire()
        time.sleep(0.05)
    lease = tmp_path / "a.lock.lease"
    text = lease.read_bytes()
    first.release()
    lease.write_bytes(text.replace(socket.gethostname().encode(), b"another-machine"))
    os.utime(lease, (4.1e9, 4.1e9))
    (tmp_path / "a.lock").write_text("process 7 on another-machine since 2100-01-01 00:00:00\n")
    late = Lock(tmp_path / "a.lock")
    assert not late.acquire()
    assert late.holder().startswith("process 7 on another-machine since 2100")
    late.wait("it", say=lambda line: None, poll=0.05, timeout=20)
    assert late.held
    late.release()


def test_errors_of_other_kinds_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        Lock(tmp_path / "a.lock").acquire()


@pytest.mark.parametrize("text", ["", "\x1b[2Jprocess 1 on a since 2020\n", "process 1 on a b since now"])
def test_what_else_is_in_the_file_is_not_repeated(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text(text)
    assert Lock(tmp_path / "a.lock").holder() == "another process"


def test_what_the_dead_have_left_is_removed(holder: Any, tmp_path: Path) -> None:
    (tmp_path / "b.lock").write_text("process 1 on a since 2020-01-01 00:00:00\n")
    holder()
    remove_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


# Who uses them


def test_a_table_leaves_no_lock_and_names_its_writer(tmp_path: Path) -> None:
    with ResultsTable(tmp_path / "results.csv") as table:
        table.append([{"run": "a"}])
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is writing it"):
            ResultsTable(tmp_path / "results.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["measures.csv", "results.csv"]


def test_a_stored_phase_is_waited_for(tmp_path: Path) -> None:
    one, other = PhaseStore(tmp_path / "store"), PhaseStore(tmp_path / "store")
    assert one.claim("k") == "claimed"
    assert other.claim("k") == "busy"
    lines: list[str] = []
    other.tell("k", "phase pretrain", lines.append)
    other.tell("k", "phase pretrain", lines.append)  # not again at once
    (line,) = lines
    held = f"process {os.getpid()} on {socket.gethostname()} since "
    assert line.startswith(f"waiting for phase pretrain: {held}")
    one.release()
    assert other.claim("k") == "claimed"
    other.release()
    assert not (tmp_path / "store").exists()
