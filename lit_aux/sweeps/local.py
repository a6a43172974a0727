"""A sweep on this machine, from the first run to the last line on the screen."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.display import GridProgress
from lit_aux.experiments.results import ResultsTable
from lit_aux.storage import StorageError
from lit_aux.sweeps.child import LitAux
from lit_aux.sweeps.outcome import OUTPUT, forget
from lit_aux.sweeps.run import SweepRun
from lit_aux.sweeps.scheduler import Scheduler, runs_of


def run_here(runs: Sequence[SweepRun], out: Path, lit_aux: LitAux, jobs: int, retry: bool) -> int:
    """Carry out the runs that the table lacks, and say how they ended.

    Args:
        runs: The runs of a sweep.
        out: Its folder.
        lit_aux: Carries out a command line.
        jobs: Most runs at a time.
        retry: Whether runs that failed before are tried again.

    Returns:
        The exit code: 0, 1 where runs failed or nothing could be written, 130 after Ctrl-C.

    Raises:
        ConfigurationError: If the table cannot be written or has a writer.
    """
    with ResultsTable(out / "results.csv") as table:
        if retry:
            forget_failed(runs, table)
        rows = rows_by_run(runs, table)
        converged = sum(row["converged"] == "true" for found in rows.values() for row in found)
        code = None
        with GridProgress(len(runs), len(rows), converged, noun="runs") as progress:
            try:
                Scheduler(runs, table, lit_aux, jobs, progress).run()
            except KeyboardInterrupt:
                code = 130
            except (StorageError, ConfigurationError) as error:  # of the disk, or of the table
                code = 1
                progress.note(f"lit-aux: error: {error}")
        if code is None:
            return summarise(runs, table)
        done = len(rows_by_run(runs, table))
    print(f"interrupted: {done} of {len(runs)} runs are in {table.path}; the same command goes on from there")
    return code


def forget_failed(runs: Sequence[SweepRun], table: ResultsTable) -> None:
    """Let runs whose row says that they failed be done again."""
    failed = runs_of(table.failed())
    for run in runs:
        if run.name in failed:
            forget(run.folder)
    table.remove({run.name for run in runs} & failed)


def rows_by_run(runs: Sequence[SweepRun], table: ResultsTable) -> dict[str, list[dict[str, str]]]:
    """Return the rows of those runs that have any, by the run's name."""
    names = {run.name for run in runs}
    found: dict[str, list[dict[str, str]]] = {}
    for row in table.rows():
        name = row["run"].partition("-")[0]
        if name in names:
            found.setdefault(name, []).append(row)
    return found


def summarise(runs: Sequence[SweepRun], table: ResultsTable) -> int:
    """Print what is in the table and what failed; return the exit code."""
    rows = rows_by_run(runs, table)
    failed = [(run, rows[run.name][0]) for run in runs if _error(rows.get(run.name, []))]
    well = len(rows) - len(failed)
    print(f"{len(rows)} of {len(runs)} runs are in {table.path}: {well} went well, {len(failed)} failed")
    for run, row in failed[:10]:
        print(f"  {run.title}: {row['error']} ({run.folder / OUTPUT})")
    if len(failed) > 10:
        print(f"  ... and {len(failed) - 10} more")
    if failed:
        print("--retry tries what failed again")
    if well:
        print(f"means and winners: lit-aux table {table.path}")
    sys.stdout.flush()
    return 1 if failed or len(rows) < len(runs) else 0


def _error(rows: Sequence[Mapping[str, str]]) -> str:
    return next((row["error"] for row in rows if row["error"]), "")
