"""24 short runs: one ``lit-aux sweep``, a stand-in of ``wandb agent``, a shell loop of ``lit-aux fit``.

The runs are those of ``benchmarks/sweep.py`` with fewer gradients, some seconds each, one after another on
one thread. ``wandb agent`` needs W&B's server; what it does with each run is done here: a process for it,
with W&B's logger and ``WANDB_MODE=offline``. The loop is the same with the log that ``lit-aux fit`` keeps
anyway. Counted is everything on the clock, from the command to its end, whatever ``--cpu-time`` says: most of
it is in other processes. Of those with a process for each run, every fourth run is carried out and stands for
four; all are alike. There is one turn, whose runs are the repetitions. Mean test losses of the runs that all
carry out are compared.
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


def ours(folder: Path, runs: int, evaluations: int, every: int) -> Outcome:
    """Run one command; ``every`` as in `process_each`."""
    write_sweep(folder, runs, evaluations)
    seconds = run_command(["sweep", "sweep.yaml", "--jobs", "1", "--out", "out"], folder)
    losses = _losses([folder / "out" / "results.csv"])
    assert len(losses) == runs, f"{len(losses)} of {runs} runs"
    return Outcome(seconds, fmean(losses[point] for point in _points(folder)[::every]))


def process_each(folder: Path, runs: int, evaluations: int, every: int, wandb: bool) -> Outcome:
    """Run ``lit-aux fit`` for every so many runs.

    Args:
        folder: Where runs go.
        runs: How many there are.
        evaluations: Gradients of a run.
        every: For how many a run stands.
        wandb: Whether they log to W&B, offline.
    """
    parameters = yaml.safe_load(write_sweep(folder, runs, evaluations).read_text())["parameters"]
    fixed = [_option(name, given["value"]) for name, given in parameters.items() if "value" in given]
    logger = ["--trainer.logger=wandb"] if wandb else []
    seconds = []
    for number, (rescale, seed) in enumerate(_points(folder)[::every]):
        words = ["fit", "--config", str(CONFIG), *fixed, *logger]
        words += [_option("model.rescale", rescale), _option("data.seed", seed)]
        words += [_option("trainer.default_root_dir", f"run{number}")]
        seconds.append(run_command(words, folder, WANDB_MODE="offline", WANDB_DIR=str(folder)))
    losses = _losses([*folder.glob("run*/**/results.csv")])
    assert len(losses) == len(seconds), f"{len(losses)} of {len(seconds)} runs"
    return Outcome(fmean(seconds) * runs, fmean(losses.values()))


def _points(folder: Path) -> list[tuple[float, int]]:
    """Return factor and seed of each run of a sweep file."""
    parameters = yaml.safe_load((folder / "sweep.yaml").read_text())["parameters"]
    return [*product(parameters["model.rescale"]["values"], parameters["data.seed"]["values"])]


def _option(name: str, value: Any) -> str:
    return f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def _losses(tables: list[Path]) -> dict[tuple[float, int], float]:
    """Return each run's test loss, by factor and seed."""
    losses = {}
    for table in tables:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                losses[float(row["rescale"]), int(row["seed"])] = float(row["loss_final"])
    return losses


def short_runs(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return seconds for all runs, and ratios."""
    how: Any = {"runs": 2, "evaluations": 20, "every": 1}
    if not quick:
        how = {"runs": 24, "evaluations": 2000, "every": 4}
    ways: dict[str, Way] = {
        OURS: partial(ours, **how),
        "a stand-in of wandb agent": partial(process_each, wandb=True, **how),
        "a loop of lit-aux fit": partial(process_each, wandb=False, **how),
    }
    what = f"{how['runs']} short runs"
    return compare(what, "s", ways, {}, min(repetitions, 1), agreement=("mean test losses", "<= 1.001"))
