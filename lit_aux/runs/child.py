"""What a child process does: carries out jobs, tells how they get on, and ends with its parent."""

import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

from lit_aux.errors import ConfigurationError, with_class
from lit_aux.locks import Lock
from lit_aux.runs.folder import OUTPUT, Outcome, cause, last_line, read_outcome, write_outcome
from lit_aux.runs.job import Job, Report, Row

_SECONDS = 0.5  # between two messages on how a job gets on
_STREAMS = (1, 2)  # of what is printed
_PATIENCE = 120.0  # seconds that processes of a runner that was killed may take to be gone


@dataclass(frozen=True)
class Task:
    """A job as it is sent to a child.

    Attributes:
        job: The job, pickled: what it needs may be missing, which is said in one line.
        place: Its number among those that are carried out at the same time.
        threads: How many threads it computes with.
        path: Where modules are found.
        here: The working folder.
    """

    job: bytes
    place: int
    threads: int
    path: tuple[str, ...]
    here: str


class _Pipe:
    """Reports to the parent."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection, self._last = connection, 0.0

    def step(self, active: int, steps: int) -> None:
        """Send how many runs are under way, and their steps."""
        if monotonic() - self._last >= _SECONDS:
            self._last = monotonic()
            self._connection.send(("step", (active, steps)))

    def rows(self, run: str, rows: Sequence[Row], measures: Sequence[Row]) -> None:
        """Send the rows of a run that has ended."""
        self._connection.send(("rows", (run, list(rows), list(measures))))

    def note(self, text: str) -> None:
        """Send a line that stays to be read."""
        self._connection.send(("note", text))


def serve(connection: "Connection[Any, Any]") -> int:
    """Carry out jobs until the parent wants no more: all that a child process does.

    The process leads a group of its own, so that all that it starts can be ended with it; it ends itself and
    them when the other end of the connection is gone. It sends its number, then ``("step", ...)`` and
    ``("rows", ...)``, and ``("over", error, whether it was refused)`` after each job.

    Returns:
        The exit code of the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(PermissionError):
        os.setsid()
    sys.argv = ["lit-aux"]
    connection.send(os.getpid())
    tasks: SimpleQueue[Task] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    while True:
        code, reuse = _carry_out(tasks.get(), connection)
        sys.stdout.flush()
        sys.stderr.flush()
        if not reuse:
            return code


def _listen(connection: "Connection[Any, Any]", tasks: "SimpleQueue[Task]") -> None:
    """Take what the parent sends; end with it, however that ends, and all that this process has started."""
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    os.killpg(0, signal.SIGKILL)


def _carry_out(task: Task, connection: "Connection[Any, Any]") -> tuple[int, bool]:
    """Carry out one job and tell how it ended; return an exit code and whether another may follow."""
    os.chdir(task.here)
    sys.path += [place for place in task.path if place not in sys.path]
    try:
        job: Job = pickle.loads(task.job)
    except Exception as lacking:  # a module of the user's that is not here, or not the same
        connection.send(("over", f"this machine ({socket.gethostname()}): {with_class(lacking)}", False))
        return 1, False
    os.environ.update(job.environment)
    share(task.threads, task.place)
    if job.folder is not None:
        code = 0
        with claimed(job, job.folder) as free:
            if free:
                _redirect(job.folder / OUTPUT)
                code = in_folder(job, job.folder, _Pipe(connection))
        connection.send(("over", "", False))  # the folder has a mark of its end
        return code, False
    error, refused = "", False
    try:
        job.work(_Pipe(connection), *job.arguments)
    except ConfigurationError as wrong:
        error, refused = str(wrong), True
    except Exception as failure:
        traceback.print_exc()
        error = with_class(failure)
    connection.send(("over", error, refused))
    return 0, job.reuse


@contextmanager
def claimed(job: Job, folder: Path) -> Iterator[bool]:
    """Hold the claim on a job's folder, and empty it where another process has begun and not ended it.

    Yields:
        Whether the job is to be carried out; another process may have ended it meanwhile.
    """
    lock = lock_of(folder)
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.wait(job.title, timeout=_PATIENCE)
    except TimeoutError as late:
        sys.exit(f"{late}, which carries out this run")
    try:
        free = read_outcome(folder) is None
        if free:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield free
    finally:
        lock.release()


def in_folder(job: Job, folder: Path, report: Report) -> int:
    """Do the work of a job whose output goes to its folder, and mark the end; return its exit code."""
    began = monotonic()
    code = _exit_code(job, report)
    seconds = monotonic() - began
    sys.stdout.flush()
    sys.stderr.flush()
    error = "" if code == 0 else cause(code, last_line(folder / OUTPUT))
    write_outcome(folder, Outcome(error, seconds))
    return code % 256


def lock_of(folder: Path) -> Lock:
    """Return the claim on a job's folder; its file is beside the folder."""
    return Lock(folder.with_name(f".{folder.name}.lock"))


def _exit_code(job: Job, report: Report) -> int:
    """Do a job's work; return its exit code, also where it ends the process or fails."""
    try:
        return job.work(report, *job.arguments) or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        if "wandb" in sys.modules:  # what it does at exit is not done in processes that are forked
            sys.modules["wandb"].finish()


def share(threads: int, place: int) -> None:
    """Take this process's share of the machine: so many threads, one GPU where there are several.

    Args:
        threads: How many threads it computes with.
        place: Its number among those that compute at the same time.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("COLUMNS", "120")
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(threads)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(cards) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]


class Output:
    """Sends what this process and its children print to a file, while it is entered; within others, too.

    Args:
        path: The file; what is printed is put behind what it holds.
    """

    def __init__(self, path: Path) -> None:
        self._file = _opened(path)
        self._before: list[list[int]] = []

    def __enter__(self) -> None:
        self._before.append([os.dup(stream) for stream in _STREAMS])
        _send([self._file] * len(_STREAMS))

    def __exit__(self, *_: object) -> None:
        before = self._before.pop()
        _send(before)
        for file in before:
            os.close(file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _redirect(path: Path) -> None:
    """Send what this process and its children print to a file, from now on."""
    file = _opened(path)
    _send([file] * len(_STREAMS))
    os.close(file)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _send(files: Sequence[int]) -> None:
    """Send standard output and error to files."""
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, file in zip(_STREAMS, files, strict=True):
        os.dup2(file, stream)


if __name__ == "__main__":
    sys.exit(serve(Connection(int(sys.argv[1]))))
