"""24 short runs: one ``lit-aux sweep``, a stand-in of ``wandb agent``, a shell loop of ``lit-aux fit``.

The runs are those of ``benchmarks/sweep.py`` with fewer gradients, some seconds each, one after another on
one thread. ``wandb agent`` needs W&B's server; what it does with each run is done here: a process for it,
with W&B's logger and ``WANDB_MODE=offline``. The loop is the same with the log that ``lit-aux fit`` keeps
anyway. Counted is everything on the clock, from the command to its end, whatever ``--cpu-time`` says: most of
it is in other processes. There is one turn, whose runs are the repetitions. Means of the test losses are
compared.
"""

import csv
import json
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from benchmarks.sweep import CONFIG, run_command, write_sweep

from .comparison import OURS, Clock, Outcome, Row, Way, compare


def ours(folder: Path, runs: int, evaluations: int) -> Outcome:
    """Run one command."""
    write_sweep(folder, runs, evaluations)
    seconds = run_command(["sweep", "sweep.yaml", "--jobs", "1", "--out", "out"], folder)
    return Outcome(seconds, _mean_loss([folder / "out" / "results.csv"], runs))


def process_each(folder: Path, runs: int, evaluations: int, wandb: bool) -> Outcome:
    """Run ``lit-aux fit`` so many times.

    Args:
        folder: Where runs go.
        runs: How many.
        evaluations: Gradients of a run.
        wandb: Whether they log to W&B, offline.
    """
    parameters = yaml.safe_load(write_sweep(folder, runs, evaluations).read_text())["parameters"]
    values = [given.get("values", [given.get("value")]) for given in parameters.values()]
    logger = ["--trainer.logger=wandb"] if wandb else []
    seconds = 0.0
    for number, point in enumerate([*product(*values)][:runs]):
        words = [_option(name, value) for name, value in zip(parameters, point, strict=True)]
        words += [*logger, f"--trainer.default_root_dir=run{number}"]
        command = ["fit", "--config", str(CONFIG), *words]
        seconds += run_command(command, folder, WANDB_MODE="offline", WANDB_DIR=str(folder))
    return Outcome(seconds, _mean_loss([*folder.glob("run*/**/results.csv")], runs))


def _option(name: str, value: Any) -> str:
    return f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def _mean_loss(tables: list[Path], runs: int) -> float:
    """Return the mean test loss of all runs."""
    losses = []
    for table in tables:
        with table.open(newline="") as file:
            losses += [float(row["loss_final"]) for row in csv.DictReader(file)]
    assert len(losses) == runs, f"{len(losses)} of {runs} runs"
    return fmean(losses)


def short_runs(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return seconds for all runs, and ratios."""
    how: Any = {"runs": 2, "evaluations": 20} if quick else {"runs": 24, "evaluations": 2000}
    ways: dict[str, Way] = {
        OURS: partial(ours, **how),
        "a stand-in of wandb agent": partial(process_each, wandb=True, **how),
        "a loop of lit-aux fit": partial(process_each, wandb=False, **how),
    }
    what = f"{how['runs']} short runs"
    return compare(what, "s", ways, {}, min(repetitions, 1), agreement=("mean test losses", "<= 1.001"))
