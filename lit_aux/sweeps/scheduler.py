"""Runs of a sweep carried out on this machine, while this process alone writes the table."""

import os
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from lit_aux.experiments.display import GridProgress
from lit_aux.experiments.pool import cores
from lit_aux.experiments.results import ResultsTable
from lit_aux.storage import storage_trouble, writable
from lit_aux.sweeps.child import LitAux
from lit_aux.sweeps.outcome import OUTPUT, Outcome, failed_row, forget, read_outcome, rows_of
from lit_aux.sweeps.process import RunProcess
from lit_aux.sweeps.run import SweepRun


class Scheduler:
    """Runs what has no row yet, several at a time, and writes the rows.

    A run that has ended without a row is taken as it is; one that was begun and has not ended is done again.
    A run that fails gets a row that says why, and costs nothing else.

    Args:
        runs: The runs of a sweep.
        table: The sweep's table, open.
        lit_aux: Carries out a command line in a process of its own.
        jobs: Most runs at a time; the cores are divided among them.
        progress: Shows how they get on.
    """

    def __init__(
        self,
        runs: Sequence[SweepRun],
        table: ResultsTable,
        lit_aux: LitAux,
        jobs: int,
        progress: GridProgress,
    ) -> None:
        self.runs, self.table, self.progress = list(runs), table, progress
        self.lit_aux, self.jobs = lit_aux, jobs
        self.busy: list[RunProcess] = []

    def run(self) -> None:
        """Carry out what is left.

        Raises:
            StorageError: If the disk is full or may not be written; no run fails for it.
            KeyboardInterrupt: After Ctrl-C, with all processes ended.
        """
        done = runs_of(self.table.done())
        waiting = deque(run for run in self.runs if run.name not in done)
        try:
            self._fill(waiting)
            while self.busy:
                by_sentinel = {process.sentinel: process for process in self.busy}
                ended = [by_sentinel[sentinel] for sentinel in wait(list(by_sentinel))]  # type: ignore[index]
                self.busy = [process for process in self.busy if process not in ended]
                for process in ended:
                    self.progress.over(process.place)
                self._fill(waiting)  # first, so that nobody waits for a row that is written
                for process in ended:
                    self._finish(process)
        finally:
            for process in self.busy:
                process.kill()

    def _fill(self, waiting: deque[SweepRun]) -> None:
        while waiting and len(self.busy) < self.jobs:
            self._begin(waiting.popleft())

    def _begin(self, run: SweepRun) -> None:
        before = read_outcome(run.folder)
        if before is not None:
            self.take(run, before)
            return
        place = min({*range(self.jobs)} - {process.place for process in self.busy})
        self.progress.begin(run.title, place)
        self.busy.append(RunProcess(self.lit_aux, run, threads_of(self.jobs), place))

    def _finish(self, process: RunProcess) -> None:
        folder = process.run.folder
        try:
            outcome = process.end()
        except OSError as error:
            trouble = storage_trouble(error, folder)
            if trouble is None:
                raise
            raise trouble from error
        check_disk(folder, outcome)
        self.take(process.run, outcome)

    def take(self, run: SweepRun, outcome: Outcome) -> None:
        """Write the row of a run that has ended.

        Args:
            run: The run.
            outcome: How it ended.
        """
        error, experiment = outcome.error, ""
        rows, measures = ([], []) if error else rows_of(run)
        if not rows:
            error = error or f"it ended and wrote no results.csv; see {run.folder / OUTPUT}"
            experiment = next((row["experiment"] for row in self.table.rows() if row["experiment"]), "")
            rows, measures = failed_row(run, error, experiment)
            self.progress.note(f"failed: {run.title}: {error} ({run.folder / OUTPUT})")
        self.table.append(rows, measures)
        run.lock.unlink(missing_ok=True)
        self.progress.end(all(str(row.get("converged")).lower() == "true" for row in rows))


def check_disk(folder: Path, outcome: Outcome) -> None:
    """Raise if a run failed because nothing can be written any more, and let it be done again.

    Args:
        folder: The run's folder.
        outcome: How it ended.

    Raises:
        StorageError: Which names the place.
    """
    if not outcome.error:
        return
    trouble = storage_trouble(outcome.error, folder) or writable(folder)
    if trouble is not None:
        with suppress(OSError):
            forget(folder)
        raise trouble


def threads_of(jobs: int) -> int:
    """Return how many threads each of so many processes may compute with."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // jobs)
    return min(share, int(given)) if given.isdigit() and int(given) else share


def runs_of(names: Collection[str]) -> set[str]:
    """Return the names of the runs that rows are of: several rows of one run bear numbers behind its name."""
    return {name.partition("-")[0] for name in names}
