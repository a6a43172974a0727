"""``lit-aux sweep``: its options, and which of its ways of running a sweep they ask for."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from lit_aux.cli import main
from lit_aux.cli.parser import Option, Options, command_parser, parse, split_at_dashes
from lit_aux.cli.report import LIVE, named
from lit_aux.errors import ConfigurationError
from lit_aux.outputs import check_folder, check_output
from lit_aux.ranges import MOST_JOBS, whole
from lit_aux.runs.batch import run_batch
from lit_aux.runs.engines import Processes, check_for_cluster, workers_of
from lit_aux.runs.job import CLUSTER, Job
from lit_aux.sweeps.batches import MOST_TOGETHER, batches, why_not
from lit_aux.sweeps.file import SweepFile, read_sweep
from lit_aux.sweeps.jobs import LitAux, jobs_of
from lit_aux.sweeps.points import MOST_RUNS, points
from lit_aux.sweeps.run import SweepRun, sweep_runs

Check = Callable[[list[str]], None]

_OPTIONS: Options = {
    "jobs": Option("runs at a time, among which cores and GPUs are divided; 1 by default", int | None),
    "out": Option("folder of the table, of the runs and of shared first phases; runs/sweeps/NAME"),
    "count": Option("most runs; how many to draw in a random sweep", int | None),
    "seed": Option("of the draws of a random sweep", int, 0),
    "method": Option("in place of the file's, as for one that says bayes", Literal["grid", "random"] | None),
    "batch_runs": Option(
        "most runs that finetune in one batch, on a GPU: such as differ in factor, seed or optimizer",
        int,
        1,
    ),
    "logger": Option(
        "of the runs; csv where the file has wandb", Literal["csv", "tensorboard", "wandb"] | None
    ),
    "slurm": Option("write this batch script, which runs the sweep as a SLURM array, and stop"),
    "sbatch": Option('more #SBATCH lines of that script: --sbatch="--time 2:00:00 --gres gpu:1"', str, ""),
    "cluster": Option(CLUSTER),
    "task": Option("run one run alone, by its number, and leave the table to --collect", int | None),
    "retry": Option("try runs again that failed", bool),
    "live": Option(LIVE, bool),
    "collect": Option("write the rows of runs that tasks have ended into the table; train nothing", bool),
}
_WAYS = ("slurm", "task", "collect", "cluster")
_OF_FIT = ("--model", "--data", "--trainer", "--config", "--seed_everything")
_TEXT = """\
Run what a W&B sweep file says, without W&B: a grid or a random sweep, on this machine or on a cluster.

Every run is one lit-aux fit in a process of its own and becomes a row of OUT/results.csv; runs that fail have
a row too, with the reason. Runs share pretraining. Interrupted or killed, the same command goes on.

  lit-aux sweep configs/sweeps/digits.yaml --jobs 2
  lit-aux sweep configs/sweeps/digits_bayes.yaml --method random --count 20
  lit-aux sweep configs/sweeps/digits.yaml --slurm sweep.sh --sbatch="--time 1:00:00"
  wandb sweep configs/sweeps/digits.yaml   (the same with W&B; then: wandb agent SWEEP)

Options of lit-aux fit go behind '--': -- --data.root DIR --trainer.accelerator cpu"""


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux sweep``."""
    made = command_parser("sweep", _TEXT, _OPTIONS)
    made.add_argument("file", type=str, help="a sweep file, such as those in configs/sweeps")
    return made


def run(arguments: Sequence[str], lit_aux: LitAux | None = None, check: Check | None = None) -> int:
    """Carry out ``lit-aux sweep``.

    Args:
        arguments: What follows ``sweep``.
        lit_aux: Carries out a ``lit-aux`` command line; processes of their own call it. By default
            :func:`lit_aux.cli.main`, with ``check`` of its own.
        check: Parses the options of a ``lit-aux fit`` and does no more; None leaves it to the runs.

    Returns:
        The exit code: 0, 1 where runs failed or are missing, 130 after Ctrl-C.

    Raises:
        ConfigurationError: For what is unknown or impossible, before anything is written.
    """
    if lit_aux is None:
        lit_aux, check = main, _check_fit
    own, extra = split_at_dashes(arguments)
    if not hasattr(os, "setsid"):
        raise ConfigurationError(
            "sweep: needs Linux or macOS, where a run ends with all that it started; on Windows use WSL"
        )
    given = _parse(own)
    _check(given)
    sweep = read_sweep(given.file)
    out = Path(f"runs/sweeps/{sweep.name}") if given.out is None else check_folder("--out", given.out)
    if given.cluster is not None:  # whose workers have working folders of their own
        out = out.resolve()
    script: Path | None = None
    if given.slurm is not None:
        script = check_output("--slurm", given.slurm, inputs=[given.file], kind="batch script of a sweep")
    found = points(sweep, given.method, given.count, given.seed)
    runs = sweep_runs(sweep, found, out, extra, given.logger)
    jobs = jobs_of(runs, lit_aux)
    table = out / "results.csv"
    with _processes(given, jobs[0]) as engine:
        if check is not None and given.task is None and not given.collect and not table.exists():
            _check_options(sweep, runs[0], check)
        if given.task is None:
            for note in sweep.notes:
                print(f"note: {note}")
            if len(runs) < len(found):
                print(
                    f"note: {len(found) - len(runs)} of {len(found)} points are the same as others: run once"
                )
        if script is not None:
            from lit_aux.runs.slurm import write_script

            chosen = [f"--{n}={v}" for n in ("count", "seed", "method", "logger") if (v := given[n])]
            chosen += ["--retry"] if given.retry else []
            write_script(script, Path(given.file), out, len(runs), chosen, extra, given.jobs, given.sbatch)
            return 0
        if given.task is not None:
            from lit_aux.runs.slurm import run_task

            return run_task(jobs, given.task, given.retry)
        if given.collect:
            from lit_aux.runs.slurm import collect

            with named(table, live=False):
                return collect(jobs, table)
        with named(table, given.live) as page:
            arrange = _arrangement(given.batch_runs, runs)
            return run_batch(jobs, table, engine or workers_of(given.cluster), given.retry, page, arrange)


@contextmanager
def _processes(given: Any, first: Job) -> Iterator[Processes | None]:
    """Give the processes of this machine, which import what runs need meanwhile; None for the other ways."""
    if any(given[name] not in (None, False) for name in _WAYS):
        yield None
        return
    engine = Processes(given.jobs or 1)
    try:
        engine.prepare(first)
        yield engine
    finally:
        engine.stop()


def _arrangement(size: int, runs: Sequence[SweepRun]) -> Callable[[Sequence[Job]], Sequence[Job]] | None:
    """Return what makes batches of runs; None where each is carried out by itself, with the reason said."""
    if size == 1:
        return None
    if reason := why_not(runs):
        print(f"note: --batch-runs {size}: {reason}; a batch is slower on a CPU, so runs go one by one")
        return None
    return partial(batches, size=size)


def _check_fit(options: list[str]) -> None:
    from lit_aux.cli.lightning_cli import check_fit

    check_fit(options)


def _check_options(sweep: SweepFile, first: SweepRun, check: Check) -> None:
    """Raise for options that ``lit-aux fit`` does not have, or cannot have: every run would fail by them."""
    before = dict(os.environ)
    os.environ.update(first.environment)
    try:
        check(list(first.arguments))
    except ConfigurationError as error:
        raise ConfigurationError(f"{sweep.path}: {error}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check(given: Any) -> None:
    """Raise for options that do not go together, and numbers that are too small."""
    given_ways = {name: given[name] for name in _WAYS}
    asked = [f"--{name}" for name, value in given_ways.items() if value is not None and value is not False]
    if len(asked) > 1:
        raise ConfigurationError(f"{asked[0]}: does not go with {asked[1]}; they are steps of one sweep")
    if given.live and asked and asked[0] != "--cluster":
        raise ConfigurationError(f"--live: does not go with {asked[0]}; lit-aux report OUT --live follows it")
    if given.sbatch and not given.sbatch.strip():
        raise ConfigurationError(f"--sbatch {given.sbatch!r}: is blank; leave it out")
    if given.sbatch and given.slurm is None:
        raise ConfigurationError(f"--sbatch {given.sbatch}: goes with --slurm SCRIPT, which is not given")
    if given.cluster is not None:
        check_for_cluster(given.jobs)
    if given.batch_runs != 1 and asked:
        raise ConfigurationError(
            f"--batch-runs {given.batch_runs}: does not go with {asked[0]}; batches are made on this machine"
        )
    whole("--batch-runs", given.batch_runs, 1, MOST_TOGETHER)
    for name, least, most in (("jobs", 1, MOST_JOBS), ("count", 1, MOST_RUNS), ("seed", 0, inf)):
        if given[name] is not None:
            whole(f"--{name}", given[name], least, most)


def _parse(arguments: list[str]) -> Any:
    """Parse; who gives options of ``lit-aux fit`` is told where they go."""
    for word in arguments:
        name = word.partition("=")[0]
        if name.startswith(_OF_FIT):
            raise ConfigurationError(f"{name}: options of lit-aux fit go behind '--': -- {name} ...")
    return parse(
        parser(),
        arguments,
        nothing="FILE: nothing is given; name a sweep file (configs/sweeps/*.yaml)",
        stray="run one sweep file at a time",
        missing={"": 'write {option}="..."'},
    )
