"""Child processes: started, fed with jobs, and ended, by the threads of whoever carries jobs out."""

import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from lit_aux.cores import cores
from lit_aux.errors import ConfigurationError, RankError, signal_name
from lit_aux.locks import remove_dead
from lit_aux.runs.child import Task, lock_of
from lit_aux.runs.folder import OUTPUT, Outcome, cause, forget, last_line, read_outcome, write_outcome
from lit_aux.runs.job import End, Event, Job, Tell
from lit_aux.storage import storage_trouble, writable

_FORKS = platform.system() == "Linux"
_WAIT = 10.0  # seconds for the exit code of a process that has closed its connection


class Child:
    """A child process, and the end of its connection that is here.

    Attributes:
        connection: What it is sent, and what it sends.
        pid: Its number, and that of its group.
    """

    def __init__(self, connection: "Connection[Any, Any]", server: "_Server | None" = None) -> None:
        self.connection, self._server = connection, server
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def kill(self) -> None:
        """End it and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            if self.pid:
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end, end what it has left behind, and return its exit code."""
        code = self._code()
        self.kill()
        with suppress(OSError):
            self.connection.close()
        return code

    def _code(self) -> int:
        if self._process is not None:
            try:
                return self._process.wait(_WAIT)
            except subprocess.TimeoutExpired:
                self.kill()
                return self._process.wait()
        return -signal.SIGKILL if self._server is None else self._server.exit_code(self)


class _Server:
    """The process that imports and forks.

    Args:
        modules: What it imports.
        threads: How many threads its children compute with.
    """

    def __init__(self, modules: Iterable[str], threads: int) -> None:
        self._control, theirs = socket.socketpair()
        self._codes: dict[int, int] = {}
        self._changed = threading.Condition()
        self._gone = False
        with theirs:
            self._process = _start("lit_aux.runs.server", theirs, threads)
        asked = {"modules": [*modules], "path": sys.path}
        self._control.sendall(json.dumps(asked).encode() + b"\n")
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(self) -> Child:
        """Ask for a child, and wait until it is there."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        return Child(Connection(ours.detach()), self)

    def exit_code(self, child: Child) -> int:
        """Return the exit code of a child that is at its end."""
        with self._changed:
            known = self._changed.wait_for(lambda: child.pid in self._codes or self._gone, _WAIT)
            if not known:
                child.kill()
                self._changed.wait_for(lambda: child.pid in self._codes or self._gone, _WAIT)
            return self._codes.pop(child.pid, -signal.SIGKILL)

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        with suppress(OSError), self._control.makefile("rb") as lines:
            for line in lines:
                pid, code = map(int, line.split())
                with self._changed:
                    self._codes[pid] = code
                    self._changed.notify_all()
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._control.close()


def _start(module: str, theirs: socket.socket, threads: int) -> "subprocess.Popen[bytes]":
    """Start a process that runs a module, which gets the number of its end of a connection."""
    return subprocess.Popen(
        [sys.executable, "-m", module, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )


class Children:
    """The child processes of one process, which several of its threads make use of.

    On Linux they are forked from a server that has imported what jobs need; elsewhere each begins anew, as
    forking is not safe there.

    Args:
        places: How many jobs are carried out at the same time; the cores are divided among them.
    """

    def __init__(self, places: int) -> None:
        if not hasattr(os, "setsid"):
            raise ConfigurationError(
                "--jobs: several processes need Linux or macOS, where a run ends with all that it has "
                "started; leave it out, or use WSL"
            )
        self.threads = threads_of(places)
        self._server: _Server | None = None
        self._idle: dict[int, Child] = {}
        self._busy: dict[int, tuple[Job, Child]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._unwanted: set[int] = set()

    def prepare(self, modules: Iterable[str]) -> None:
        """Let what jobs need be imported meanwhile, so that the first begins the sooner."""
        if _FORKS:
            with self._lock:
                self._server = self._server or _Server(modules, self.threads)

    def carry_out(self, job: Job, place: int, tell: Tell) -> End:
        """Carry out a job in a child process; tell what it tells, and wait for its end.

        A job in a folder that has ended before is not done again: its rows are told.

        Raises:
            StorageError: If nothing can be written any more.
            RankError: If no process can be started.
            OSError: If the mark of an end cannot be written.
        """
        if job.folder is not None and (before := read_outcome(job.folder)) is not None:
            if not (job.retry and before.error):
                return collected(job, before, place, tell)
            forget(job.folder)
        if self._stopped.is_set():
            return End("stopped")
        try:
            child = self._child(job, place)
        except (EOFError, OSError):
            if self._stopped.is_set():
                return End("stopped")
            raise RankError("processes cannot be started any more; is memory short?") from None
        over = _hear(child, job, place, tell)
        with self._lock:
            self._busy.pop(place, None)
        if self._stopped.is_set() or place in self._unwanted:
            self._unwanted.discard(place)
            child.kill()
            child.end()
            return End("stopped")
        if job.folder is not None and (over is None or not over.error):
            return collected(job, _outcome(job, child.end()), place, tell)
        if over is None:
            return End(_death(child.end()))
        if job.reuse and not over.error:
            self._idle[place] = child
        else:
            child.kill()  # its state is unknown
            child.end()
        return over

    def kill(self, wanted: Job | None = None) -> None:
        """End the process of a job, or those of all, with all that they have started.

        Args:
            wanted: The job; None for all, and no other begins.
        """
        with self._lock:
            if wanted is None:
                self._stopped.set()
            for place, (job, child) in self._busy.items():
                if wanted is None or job is wanted:
                    self._unwanted.add(place)
                    child.kill()

    def close(self) -> None:
        """End all processes."""
        self.kill()
        for child in self._idle.values():
            child.kill()
            child.end()
        self._idle.clear()
        if self._server is not None:
            self._server.close()
            self._server = None

    def _child(self, job: Job, place: int) -> Child:
        """Send a job to a child, an idle one where there is one that may take it."""
        child = self._idle.pop(place, None)
        if child is not None and not job.reuse:  # with the memory that it holds, a GPU's too
            child.kill()
            child.end()
            child = None
        if child is None:
            try:
                child = self._new(job)
            except (EOFError, OSError):  # the server was killed: another takes its place
                if self._stopped.is_set():
                    raise
                with self._lock:
                    self._server = None
                child = self._new(job)
        with self._lock:
            if self._stopped.is_set():
                child.kill()
                raise EOFError
            self._busy[place] = job, child
        with suppress(BrokenPipeError, ConnectionResetError):  # that it is gone is seen when it is heard
            task = Task(pickle.dumps(job), place, self.threads, tuple(sys.path), os.getcwd())
            child.connection.send(task)
        return child

    def _new(self, job: Job) -> Child:
        if _FORKS:
            with self._lock:
                if self._server is None:
                    self._server = _Server(job.imports, self.threads)
                server = self._server
            child = server.fork()
            child.pid = child.connection.recv()
            return child
        ours, theirs = socket.socketpair()
        child = Child(Connection(ours.detach()))
        with theirs:
            child._process = _start("lit_aux.runs.child", theirs, self.threads)
        child.pid = child.connection.recv()
        return child


def _hear(child: Child, job: Job, place: int, tell: Tell) -> End | None:
    """Pass on what a child tells of a job; return how it ended, None where the process just ended."""
    with suppress(EOFError, OSError):
        while True:
            kind, *content = child.connection.recv()
            if kind == "over":
                return End(*content)
            tell(Event(kind, job, place, content[0]))
    return None


def _outcome(job: Job, code: int) -> Outcome:
    """Return how the job of a folder ended; mark the end where its process could not, since it was killed."""
    assert job.folder is not None
    outcome = read_outcome(job.folder)
    if outcome is None:
        lock = lock_of(job.folder)
        remove_dead(lock.path.parent, lock.path.name)
        outcome = Outcome(cause(code or 1, last_line(job.folder / OUTPUT)))
        try:
            write_outcome(job.folder, outcome)
        except OSError as error:
            raise storage_trouble(error, job.folder) or error from error
    return outcome


def collected(job: Job, outcome: Outcome, place: int, tell: Tell) -> End:
    """Tell the rows of a folder whose job has ended, and return how.

    Args:
        job: The job.
        outcome: What its folder says.
        place: Its number among those that are carried out at the same time.
        tell: Is told the rows.

    Raises:
        StorageError: If it failed because nothing can be written any more; it is to be done again then.
    """
    assert job.folder is not None
    lock_of(job.folder).path.unlink(missing_ok=True)
    if outcome.error:
        trouble = storage_trouble(outcome.error, job.folder) or writable(job.folder)
        if trouble is not None:
            with suppress(OSError):
                forget(job.folder)
            raise trouble
        return End(outcome.error)
    rows, measures = ([], []) if job.collect is None else job.collect(*job.arguments)
    if rows:
        tell(Event("rows", job, place, (next(iter(job.runs)), rows, measures)))
    return End("" if rows else f"it ended and wrote no results.csv; see {job.folder / OUTPUT}")


def _death(code: int) -> str:
    """Say how a process ended that said nothing."""
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal_name(-code)
    hint = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def threads_of(places: int) -> int:
    """Return how many threads each of so many processes may compute with."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, cores() // places)
    return min(threads, int(given)) if given.isdigit() and int(given) else threads
