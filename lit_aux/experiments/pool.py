"""Slices of a grid carried out by worker processes, while this process alone keeps what comes of them."""

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.display import GridProgress
from lit_aux.experiments.options import Options
from lit_aux.experiments.run import Emit, Progress, Run
from lit_aux.experiments.slices import title
from lit_aux.experiments.worker import Train, Worker


class SliceError(RuntimeError):
    """Slices ended without rows for all of their runs; the message is one line that names them."""


def train_students(runs: Sequence[Run], options: Options, progress: Progress, emit: Emit) -> None:
    """Train a slice of students, quietly; torch is imported when there is one."""
    from lit_aux.experiments.quiet import quiet
    from lit_aux.experiments.students import train_slice

    with quiet():
        train_slice(runs, options, progress, emit)


def carry_out(
    groups: Sequence[Sequence[Run]],
    options: Options,
    jobs: int,
    progress: GridProgress,
    emit: Emit,
    train: Train = train_students,
) -> list[str]:
    """Carry out slices in worker processes.

    A worker that is killed or fails costs its slice only; another takes its place.

    Args:
        groups: The slices, in the order in which they are begun.
        options: How they are carried out.
        jobs: Most workers at a time. The cores are divided among them.
        progress: Shows how they get on.
        emit: Takes each run that has ended, in this process.
        train: What workers do with a slice; a function that can be pickled.

    Returns:
        One line for every slice that left runs without a row.

    Raises:
        ConfigurationError: What a worker raised; all others are ended then.
        KeyboardInterrupt: After Ctrl-C, with all workers ended and every row that they had sent taken.
    """
    pool = _Pool(groups, options, min(jobs, len(groups)), train, progress, emit)
    try:
        return pool.run()
    finally:
        pool.close()


class _Pool:
    """The workers and what is left for them."""

    def __init__(
        self,
        groups: Sequence[Sequence[Run]],
        options: Options,
        jobs: int,
        train: Train,
        progress: GridProgress,
        emit: Emit,
    ) -> None:
        self.waiting = deque(groups)
        self.jobs, self.progress, self.emit = jobs, progress, emit
        self.options, self.train = options, train
        self.busy: list[Worker] = []
        self.idle: list[Worker] = []
        self.failures: list[str] = []

    def run(self) -> list[str]:
        while self.waiting or self.busy:
            while self.waiting and len(self.busy) < self.jobs:
                free = set(range(self.jobs)) - {worker.number for worker in self.busy}
                threads = max(1, cores() // self.jobs)
                self.busy.append(Worker(min(free), self.options, threads, self.train))
                self._give(self.busy[-1])
            pipes = {worker.pipe: worker for worker in self.busy}
            for pipe in wait(list(pipes)):
                self._hear(pipes[pipe])  # type: ignore[index]
        return self.failures

    def _give(self, worker: Worker) -> None:
        """Give a worker the next slice, or send it home."""
        if not self.waiting:
            self.busy.remove(worker)
            self.idle.append(worker)
            worker.send(None)
            return
        worker.begin(self.waiting.popleft())
        self.progress.begin(title(worker.group), worker.number)

    def _hear(self, worker: Worker) -> None:
        """Take one message of a worker, or see that it is gone."""
        try:
            kind, *content = worker.pipe.recv()
        except (EOFError, OSError):
            self._lose(worker, worker.cause_of_death())
            return
        if kind == "step":
            active, steps = content
            self.progress.step(active, steps, worker.number)
        elif kind == "row":
            self._take(worker, *content)
        elif kind == "refused":
            raise ConfigurationError(content[0])
        elif worker.left:
            worker.process.kill()  # its state is unknown
            worker.cause_of_death()
            self._lose(worker, content[0])
        else:
            self.progress.over(worker.number)
            self._give(worker)

    def _take(self, worker: Worker, run: str, row: dict[str, Any], measures: list[dict[str, Any]]) -> None:
        self.emit(worker.left.pop(run), row, measures)

    def _lose(self, worker: Worker, reason: str) -> None:
        """Do without a worker that is gone, and note which runs that cost."""
        self.busy.remove(worker)
        self.progress.over(worker.number)
        if worker.left:
            line = f"{title(worker.group)}: {len(worker.left)} of {len(worker.group)} runs have no row"
            self.failures.append(f"{line} ({reason})")
            self.progress.note(self.failures[-1])

    def close(self) -> None:
        """End the workers, and take the rows that those under way had sent."""
        for worker in self.busy:
            worker.process.kill()
        for worker in self.idle:  # these need a moment
            worker.process.join(2.0)
            worker.process.kill()
        for worker in [*self.busy, *self.idle]:
            worker.process.join()
        for worker in self.busy:
            with suppress(Exception):  # a message may be torn; what led here matters more
                while True:
                    kind, *content = worker.pipe.recv()
                    if kind == "row":
                        self._take(worker, *content)
        for worker in [*self.busy, *self.idle]:
            worker.pipe.close()


def cores() -> int:
    """Return how many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1
