"""Jobs of one run each, from the first to the last line on the screen."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lit_aux.errors import ClusterError, ConfigurationError, RankError
from lit_aux.runs.engines import Engine
from lit_aux.runs.folder import OUTPUT, forget
from lit_aux.runs.job import Job
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import FailedRows, Runner
from lit_aux.runs.table import ResultsTable
from lit_aux.storage import StorageError

_ENDS = (StorageError, ConfigurationError, ClusterError, RankError)
"""Of the disk, the table, the cluster and this machine: no run fails for them."""


def run_batch(
    jobs: Sequence[Job],
    path: Path,
    engine: Engine,
    retry: bool,
    appended: Callable[[], object] | None = None,
    arrange: Callable[[Sequence[Job]], Sequence[Job]] | None = None,
) -> int:
    """Carry out the jobs whose run the table lacks, and say how they ended.

    A run that has ended without a row is taken as it is; one that was begun and has not ended is done again.
    A run that fails gets a row that says why, and costs nothing else.

    Args:
        jobs: Of one run each.
        path: The table.
        engine: Where they are carried out.
        retry: Whether runs that failed before are tried again.
        appended: Called whenever a run has got its row.
        arrange: Makes of the jobs that are left those that are carried out, some as parts of others.

    Returns:
        The exit code: 0, 1 where runs failed or nothing could be written, 130 after Ctrl-C.

    Raises:
        ConfigurationError: If the table cannot be written or has a writer.
    """
    with ResultsTable(path, appended) as table:
        if retry:
            jobs = _again(jobs, table)
        rows = rows_by_run(jobs, table)
        left: Sequence[Job] = [job for job in jobs if key_of(job) not in rows]
        if arrange is not None:
            left = arrange(left)
        converged = sum(row["converged"] == "true" for found in rows.values() for row in found)
        code = None
        with Progress(len(jobs), len(rows), converged, noun="runs") as progress:
            try:
                runner = Runner(engine, progress, table.append, FailedRows(table, progress))
                runner.run(left)
            except KeyboardInterrupt:
                code = 130
            except _ENDS as error:
                code = 1
                progress.note(f"lit-aux: error: {error}")
        if code is None:
            return summarize(jobs, table)
        done = len(rows_by_run(jobs, table))
    print(f"interrupted: {done} of {len(jobs)} runs are in {path}; the same command goes on from there")
    return code


def key_of(job: Job) -> str:
    """Return the key of a job's only run."""
    return next(iter(job.runs))


def rows_by_run(jobs: Sequence[Job], table: ResultsTable) -> dict[str, list[dict[str, str]]]:
    """Return the rows of those runs that have any, by the run's key: several rows bear numbers behind it."""
    keys = {key_of(job) for job in jobs}
    found: dict[str, list[dict[str, str]]] = {}
    for row in table.rows():
        key = row["run"].partition("-")[0]
        if key in keys:
            found.setdefault(key, []).append(row)
    return found


def summarize(jobs: Sequence[Job], table: ResultsTable) -> int:
    """Print what is in the table and what failed; return the exit code."""
    rows = rows_by_run(jobs, table)
    failed = [(job, rows[key_of(job)][0]) for job in jobs if _error(rows.get(key_of(job), []))]
    well = len(rows) - len(failed)
    print(f"{len(rows)} of {len(jobs)} runs are in {table.path}: {well} went well, {len(failed)} failed")
    for job, row in failed[:10]:
        print(f"  {job.title}: {row['error']}" + (f" ({job.folder / OUTPUT})" if job.folder else ""))
    if len(failed) > 10:
        print(f"  ... and {len(failed) - 10} more")
    if failed:
        print("--retry tries what failed again")
    if well:
        print(f"means and winners: lit-aux table {table.path}")
    sys.stdout.flush()
    return 1 if failed or len(rows) < len(jobs) else 0


def _again(jobs: Sequence[Job], table: ResultsTable) -> list[Job]:
    """Let runs whose row says that they failed be done again; return all jobs."""
    failed = {run.partition("-")[0] for run in table.failed()} & {key_of(job) for job in jobs}
    for job in jobs:
        if key_of(job) in failed and job.folder is not None:
            forget(job.folder)  # here; on other machines, whoever gets the job does so
    table.remove({run for run in table.failed() if run.partition("-")[0] in failed})
    return [replace(job, retry=key_of(job) in failed) for job in jobs]


def _error(rows: Sequence[Mapping[str, str]]) -> str:
    return next((row["error"] for row in rows if row["error"]), "")
