"""Carries out jobs with an engine: the one place that knows which runs have their rows, and which failed."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from lit_aux.cores import tell_threads
from lit_aux.errors import ConfigurationError
from lit_aux.runs.engines import Engine
from lit_aux.runs.folder import OUTPUT
from lit_aux.runs.job import End, Event, Job, Row
from lit_aux.runs.progress import Progress
from lit_aux.runs.table import ResultsTable

Take = Callable[[Sequence[Row], Sequence[Row]], Any]


class Runner:
    """Carries out jobs, and hands on the rows of each run once, as they come.

    Args:
        engine: Where jobs are carried out.
        progress: Shows how they get on.
        take: Takes the rows of a run and its measures, in this thread.
        fail: Takes a job that failed and the reason, in place of the list of failures.

    Attributes:
        failures: One line for every job that left runs without rows.
    """

    def __init__(
        self, engine: Engine, progress: Progress, take: Take, fail: Callable[[Job, str], None] | None = None
    ) -> None:
        self.failures: list[str] = []
        self._engine, self._progress, self._take, self._fail = engine, progress, take, fail
        self._left: set[str] = set()
        self._events: SimpleQueue[Event] = SimpleQueue()

    def run(self, jobs: Sequence[Job]) -> None:
        """Carry out jobs until all have ended; they begin in the order given.

        Raises:
            ConfigurationError: What a job refused; all others are ended then.
            KeyboardInterrupt: After Ctrl-C, with all processes ended and every row that they had sent taken.
            RuntimeError: If a job in this process ended without all of its rows.
        """
        self._left = {run for job in jobs for run in job.runs}
        open_ = sum(len(job.parts) or 1 for job in jobs)
        if jobs:
            tell_threads()
        try:
            for job in jobs:
                self._engine.submit(job, self._hear if self._engine.immediate else self._events.put)
            while open_ and not self._engine.immediate:
                event = self._events.get()
                open_ -= event.kind == "end"
                self._hear(event)
        finally:
            self._engine.stop()
            while not self._events.empty():
                event = self._events.get()
                if event.kind == "rows":
                    self._hear(event)

    def _hear(self, event: Event) -> None:
        if event.kind == "begin":
            self._progress.begin(event.job.title, event.place)
        elif event.kind == "step":
            active, steps = event.content
            self._progress.step(active, steps, event.place)
        elif event.kind == "rows":
            self._take_rows(*event.content)
        elif event.kind == "note":
            self._progress.note(event.content)
        elif event.kind == "broken":
            raise event.content
        else:
            self._end(event.job, event.place, event.content)

    def _take_rows(self, run: str, rows: Sequence[Row], measures: Sequence[Row]) -> None:
        if run not in self._left:  # it came before, from a process that was lost afterwards
            return
        self._left.discard(run)
        self._take(rows, measures)
        self._progress.end(all(str(row.get("converged")).lower() == "true" for row in rows))

    def _end(self, job: Job, place: int, end: End) -> None:
        self._progress.over(place)
        if end.refused:
            raise ConfigurationError(end.error)
        left = [run for run in job.runs if run in self._left]
        if not left:
            return
        reason = end.error or "it ended without them"
        if self._fail is not None:
            self._left -= {*left}
            self._fail(job, reason)
            return
        if self._engine.immediate:
            raise RuntimeError(f"{len(left)} of {len(job.runs)} runs of a slice ended without a row")
        self.failures.append(f"{job.title}: {len(left)} of {len(job.runs)} runs have no row ({reason})")
        self._progress.note(self.failures[-1])


class FailedRows:
    """Gives runs that failed a row that says why.

    Args:
        table: Their table.
        progress: Is told.
    """

    def __init__(self, table: ResultsTable, progress: Progress) -> None:
        self._table, self._progress = table, progress

    def __call__(self, job: Job, error: str) -> None:
        """Write the row of each run of a job that failed.

        Args:
            job: The job.
            error: Why it failed, in one line.
        """
        place = "" if job.folder is None else f" ({job.folder / OUTPUT})"
        self._progress.note(f"failed: {job.title}: {error}{place}")
        rows: list[Row] = [
            {"experiment": self._table.experiment, **columns, "run": run, "converged": False, "error": error}
            for run, columns in job.runs.items()
        ]
        self._table.append(rows, job.measures)
        for _ in rows:
            self._progress.end(False)
