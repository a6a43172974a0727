"""A sweep as a SLURM array: the script, one task of it, and the table of what the tasks left."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_write
from lit_aux.runs.batch import key_of, rows_by_run, summarize
from lit_aux.runs.engines import Folders
from lit_aux.runs.folder import OUTPUT, Outcome, forget, read_outcome
from lit_aux.runs.job import Job
from lit_aux.runs.processes import Children
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import FailedRows, Runner
from lit_aux.runs.table import ResultsTable
from lit_aux.storage import check_printable

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{most}
#SBATCH --output={logs}
{more}
# Task I of the array is run I of {count}: {command}
# In the end, the table of all: {command} --collect
cd {folder} || exit 1
exec {program} {arguments} --task "$SLURM_ARRAY_TASK_ID"{extra}
"""
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def write_script(
    script: Path,
    file: Path,
    out: Path,
    count: int,
    words: Sequence[str],
    extra: Sequence[str] = (),
    jobs: int | None = None,
    sbatch: str = "",
) -> None:
    """Write the batch script of a sweep, and print how to submit it and what to do in the end.

    Args:
        script: The script.
        file: The sweep file.
        out: Folder of the sweep.
        count: Number of its runs.
        words: Options of ``lit-aux sweep`` that choose the runs.
        extra: Options of ``lit-aux fit``.
        jobs: Most tasks at a time; None leaves it to SLURM.
        sbatch: More options of ``sbatch``, as in ``--time 1:00:00 --gres gpu:1``.

    Raises:
        ConfigurationError: If the script cannot be written, or a text that goes into it has a line break or
            another control character, or ``sbatch`` is not a list of options.
    """
    texts = {"FILE": [str(file)], "--out": [str(out)], "--sbatch": [sbatch], "--": extra}
    texts |= {"--slurm": [str(script)], "working folder": [str(Path.cwd())], "Python": [sys.executable]}
    for option, values in texts.items():
        for value in values:
            check_printable(option, value)
    behind = f" -- {shlex.join(extra)}" if extra else ""
    arguments = shlex.join(["sweep", str(file), "--out", str(out), *words])
    command = f"lit-aux {arguments}"
    logs = out / "slurm"
    text = _SCRIPT.format(
        name=_for_sbatch(file.stem),
        last=count - 1,
        most=f"%{jobs}" if jobs else "",
        logs=_for_sbatch(str(logs).replace("%", "%%") + "/%A_%a.txt"),
        more="".join(f"#SBATCH {line}\n" for line in _lines(sbatch)),
        count=count,
        command=command,
        folder=shlex.quote(str(Path.cwd())),
        program=f"{shlex.quote(sys.executable)} -m lit_aux.cli",
        arguments=arguments,
        extra=behind,
    )
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)  # sbatch makes no folder for what tasks print
        atomic_write(script, text)
        script.chmod(0o755)
    except OSError as error:
        place = Path(error.filename or script)
        inside = place.is_relative_to(out) or out.is_relative_to(place)
        option = f"--out {out}" if inside else f"--slurm {script}"
        raise ConfigurationError(f"{option}: {place} cannot be written ({error.strerror})") from None
    print(f"{count} runs: {script}\nsubmit it:  sbatch {shlex.quote(str(script))}")
    print(f"in the end: {command} --collect{behind}")


def run_task(jobs: Sequence[Job], number: int, retry: bool) -> int:
    """Carry out one job and leave its rows in its own folder.

    Args:
        jobs: All jobs, each with a folder.
        number: Which of them.
        retry: Whether it is done again if it failed before.

    Returns:
        The exit code: 0, or 1 where the run failed.

    Raises:
        ConfigurationError: If there is no job of this number.
        StorageError: If its folder cannot be written.
    """
    if not 0 <= number < len(jobs):
        raise ConfigurationError(f"--task {number}: the sweep has {len(jobs)} runs, 0 to {len(jobs) - 1}")
    job = jobs[number]
    assert job.folder is not None
    outcome = read_outcome(job.folder)
    if outcome is not None and outcome.error and retry:
        forget(job.folder)
        outcome = None
    if outcome is None:
        print(f"run {number} of {len(jobs)}: {job.title} ({job.folder / OUTPUT})", flush=True)
        children = Children(1)
        try:
            children.carry_out(job, 0, lambda event: None)
        finally:
            children.close()
        outcome = read_outcome(job.folder) or Outcome("it left no mark of its end")
    else:
        print(f"run {number} of {len(jobs)}: {job.title}: done before")
    print(f"failed: {outcome.error}" if outcome.error else f"done in {outcome.seconds:.0f} s", flush=True)
    return 1 if outcome.error else 0


def collect(jobs: Sequence[Job], path: Path) -> int:
    """Write the rows of all jobs that have ended into the table; carry out nothing.

    Args:
        jobs: All jobs, each with a folder.
        path: The table.

    Returns:
        The exit code: 0, or 1 where runs failed or are missing.

    Raises:
        ConfigurationError: If the table cannot be written or has a writer.
    """
    with ResultsTable(path) as table:
        ended = {key_of(job): o for job in jobs if job.folder and (o := read_outcome(job.folder)) is not None}
        table.remove({run for run in table.failed() if run in ended and not ended[run].error})
        known = rows_by_run(jobs, table)
        with Progress(len(jobs), len(known), noun="runs") as progress:
            wanted = [job for job in jobs if key_of(job) in ended and key_of(job) not in known]
            Runner(Folders(), progress, table.append, FailedRows(table, progress)).run(wanted)
        code = summarize(jobs, table)
        known = rows_by_run(jobs, table)
        missing = [number for number, job in enumerate(jobs) if key_of(job) not in known]
    if missing:
        begun = sum(folder.exists() for number in missing if (folder := jobs[number].folder))
        numbers = ",".join(map(str, missing))
        print(
            f"{len(missing)} runs are missing, {begun} of them begun; to run them: sbatch --array={numbers} "
            "SCRIPT"
        )
    return code


def _lines(options: str) -> list[str]:
    """Divide options of sbatch, so that each stands with its value on a line."""
    lines: list[str] = []
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ConfigurationError(
            f"--sbatch {options}: cannot be divided into words ({str(error).lower()})"
        ) from None
    for word in words:
        if word.startswith("-"):
            lines.append(_for_sbatch(word))
        elif lines:
            lines[-1] += f" {_for_sbatch(word)}"
        else:
            raise ConfigurationError(f"--sbatch {options}: {word!r} is no option; they begin with a hyphen")
    return lines


def _for_sbatch(word: str) -> str:
    """Quote a word of an ``#SBATCH`` line, where sbatch reads a backslash within any quotes as an escape."""
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
