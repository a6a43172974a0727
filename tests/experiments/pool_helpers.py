"""What child processes do in tests in place of training; they can be found by name in another process."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

from lit_aux.errors import ConfigurationError
from lit_aux.experiments import Options, Run, reproduce
from lit_aux.runs.job import Report

Train = Callable[[Report, Sequence[Run], Options], None]
CHOICE = {"setups": ["STL"], "seeds": [0, 1, 2, 3], "n_main": [16, 32], "correlation": [0, 1]}
"""Sixteen runs; with ``replicas_per_slice=2`` eight slices of a seed and n_main each."""


def quick(report: Report, runs: Sequence[Run], options: Options) -> None:
    """End every run at once; the row tells which process it was, and its threads."""
    for run in runs:
        report.step(len(runs), 10)
        row = {"solver": "gradient_flow", "loss_best": float(run.axes["n_main"]), "converged": True}
        row |= {"seconds": os.getpid(), "steps": int(os.environ.get("OMP_NUM_THREADS", "0"))}
        measures = [{"run": run.run_hash, "phase": "main", "measure": "l1", "value": run.axes["seed"]}]
        report.rows(run.run_hash, [{**run.identity, **row}], measures)


def _after_one(trouble: str, report: Report, runs: Sequence[Run], options: Options) -> None:
    """Be quick, but for the slice of seed 1 and n_main 16, which comes into trouble after its first run."""
    if (runs[0].axes["seed"], runs[0].axes["n_main"]) != (1, 16):
        quick(report, runs, options)
        return
    quick(report, runs[:1], options)
    if trouble == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trouble == "exits":
        os._exit(3)
    elif trouble == "raises":
        raise RuntimeError("no\nluck")
    elif trouble == "refuses":
        raise ConfigurationError("--model: no")


killed, exits, raises, refuses, returns = (
    partial(_after_one, trouble) for trouble in ("killed", "exits", "raises", "refuses", "returns")
)


def sleeps(report: Report, runs: Sequence[Run], options: Options) -> None:
    """End one run and take a minute for the others."""
    quick(report, runs[:1], options)
    time.sleep(60)


def with_workers(train: Train, jobs: int = 2) -> bool:
    """Carry out ``CHOICE`` by real processes that do this in place of training; a single slice needs none."""
    home = "lit_aux.experiments.reproduction"
    with patch(f"{home}.train_students", train), patch(f"{home}._IMPORTS", ()):
        options = Options(device="cpu", jobs=jobs, replicas_per_slice=2)
        return reproduce("relu-overlap", out="results.csv", options=options, **CHOICE)
