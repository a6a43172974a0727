"""A process that carries out slices, and the end of its pipe that the parent holds.

Each worker has a pipe of its own. A queue that all write to would have a lock, and a worker that is killed
while it holds the lock would silence the others.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from time import monotonic
from types import ModuleType
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.options import Options
from lit_aux.experiments.run import Emit, Progress, Run

Train = Callable[[Sequence[Run], Options, Progress, Emit], None]
_SECONDS = 0.5  # between two messages on how a slice gets on


class Worker:
    """A process and the slice that it has.

    It sends ``("step", active, steps)``, ``("row", hash, columns, measures)`` and, in the end, ``("over",
    why there may be runs without a row)`` or ``("refused", message)`` for a ConfigurationError.

    Attributes:
        pipe: What it sends.
        process: The process.
        group: Its slice.
        left: By hash, the runs of which no row was taken yet.

    Args:
        number: Tells it from the others.
        options: How runs are carried out.
        threads: How many threads it computes with.
        train: What it does with a slice; a function that can be pickled.
    """

    def __init__(self, number: int, options: Options, threads: int, train: Train) -> None:
        self.number = number
        self.group: Sequence[Run] = ()
        self.left: dict[str, Run] = {}
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, options, threads, train), daemon=True)
        with bare():
            self.process.start()
        theirs.close()

    def begin(self, group: Sequence[Run]) -> None:
        """Give it a slice."""
        self.group, self.left = group, {run.run_hash: run for run in group}
        self.send(group)

    def send(self, message: object) -> None:
        """Tell it something; that it is gone is seen when it is heard next."""
        with suppress(OSError):
            self.pipe.send(message)

    def cause_of_death(self) -> str:
        """Wait for its end and say what it was."""
        self.process.join()
        self.pipe.close()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"its process ended with code {code}"
        name = signal.Signals(-code).name
        hint = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"


@contextmanager
def bare() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from their first instant, and do not run the user's script again."""
    own = sys.modules["__main__"]
    before = signal.getsignal(signal.SIGINT)
    change = before is not None and threading.current_thread() is threading.main_thread()
    if change:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = own
        if change:
            signal.signal(signal.SIGINT, before)


def _work(pipe: "Connection[Any, Any]", options: Options, threads: int, train: Train) -> None:
    """Carry out slices until there is none; what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(given)) if given.isdigit() else threads
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads))  # before torch is there to read it
    with suppress(EOFError):
        while (runs := pipe.recv()) is not None:
            pipe.send(_answer(pipe, runs, options, train))


def _answer(
    pipe: "Connection[Any, Any]", runs: Sequence[Run], options: Options, train: Train
) -> tuple[str, str]:
    """Carry out one slice and tell how it ended."""
    last = 0.0

    def progress(active: int, steps: int) -> None:
        nonlocal last
        if monotonic() - last >= _SECONDS:
            last = monotonic()
            pipe.send(("step", active, steps))

    def emit(run: Run, row: dict[str, Any], measures: list[dict[str, Any]]) -> None:
        pipe.send(("row", run.run_hash, row, measures))

    try:
        train(runs, options, progress, emit)
    except ConfigurationError as error:
        return "refused", str(error)
    except Exception as error:
        traceback.print_exc()
        return "over", " ".join(f"{type(error).__name__}: {error}".split())
    return "over", "it ended without them"


def _follow_parent() -> None:
    """End with the process that this one works for, however that ends."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
