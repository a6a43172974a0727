"""The process of one run, forked from one that has imported what runs import."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, SpawnContext

from lit_aux.experiments.worker import bare
from lit_aux.locks import remove_dead
from lit_aux.sweeps.child import LitAux, carry_out
from lit_aux.sweeps.outcome import OUTPUT, Outcome, cause, last_line, read_outcome, write_outcome
from lit_aux.sweeps.run import SweepRun

_LATE = ("reporting", "experiments.fit_rows", "experiments.student_report", "sweeps.child")
_OF_PROGRAM = {
    "lit_aux.cli": (
        "lit_aux.cli.lightning_cli",
        "omegaconf",
        "rich.table",
        *(f"lit_aux.{name}" for name in _LATE),
    )
}
_OF_CONFIG = {
    "TimmBackbone": ("timm", "torchvision.transforms.v2", "matplotlib.figure"),
    "DigitsDataModule": ("sklearn.datasets",),
}


class RunProcess:
    """A process that trains one run.

    The first one takes the time of starting a server that imports; the others are forked from it at once.

    Attributes:
        run: The run.
        place: Its number among those that train at the same time.
        sentinel: Ready when the process has ended, for ``multiprocessing.connection.wait``.

    Args:
        lit_aux: Carries out a command line; a function of a module.
        run: The run.
        threads: How many threads it computes with.
        place: Its number among those that train at the same time.
    """

    def __init__(self, lit_aux: LitAux, run: SweepRun, threads: int, place: int) -> None:
        self.run, self.place = run, place
        context = _context(_modules(lit_aux.__module__, run))
        environment = {**os.environ, **run.environment}
        arguments = (lit_aux, run, environment, threads, place)
        self._process = context.Process(target=carry_out, args=arguments)
        with bare(), _threads(threads):
            self._process.start()
        self.sentinel = self._process.sentinel

    def end(self) -> Outcome:
        """Wait for the process to end, end what it has left behind, and return how the run ended.

        A run whose process could not mark its end itself, since it was killed, is marked here.

        Raises:
            OSError: If the mark cannot be written.
        """
        self._process.join()
        self._kill_group()
        outcome = read_outcome(self.run.folder)
        if outcome is None:
            remove_dead(self.run.lock.parent, self.run.lock.name)
            line = last_line(self.run.folder / OUTPUT)
            outcome = Outcome(cause(self._process.exitcode or 1, line))
            write_outcome(self.run.folder, outcome)
        return outcome

    def kill(self) -> None:
        """End the process and all that it started."""
        self._kill_group()
        self._process.kill()
        self._process.join()

    def _kill_group(self) -> None:
        pid = self._process.pid
        with suppress(ProcessLookupError, PermissionError):
            if pid is not None and pid != os.getpgrp():
                os.killpg(pid, signal.SIGKILL)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let the server that imports torch know how many threads those will use that are forked from it."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _context(modules: Sequence[str]) -> ForkServerContext | SpawnContext:
    """Return how processes start: forked from a server that has imported modules, where that is safe."""
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    # Lightning and torch are imported there, once; nobody computes there, so that there are no threads, and
    # nobody asks for a GPU.
    context.set_forkserver_preload(list(modules))
    return context


def _modules(program: str, run: SweepRun) -> list[str]:
    """Return what a run like this one imports, also what it would import late."""
    text = str(run.configs)
    late = [module for word, modules in _OF_CONFIG.items() if word in text for module in modules]
    return [program, *_OF_PROGRAM.get(program, ()), *late]
