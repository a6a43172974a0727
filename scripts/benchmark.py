"""Print every performance figure that the project claims, and its target.

    python scripts/benchmark.py [training loader dimensionality startup gpu students flow solver sweep
                                diagnostics checkpoints optimizer runs batched peers]
        [--subject SUBJECT] [--cpu-time] [--repetitions N] [--quick]

Ratios are medians over interleaved repetitions in one process. ``--cpu-time`` counts processor instead of
wall-clock seconds, for a machine that is busy with other things (use it with ``OMP_NUM_THREADS=1``).
``--quick`` makes ``students``, ``flow``, ``solver``, ``sweep``, ``diagnostics``, ``checkpoints``,
``optimizer``, ``runs``, ``batched`` and ``peers`` tiny: it shows that they run, and no figure means anything.

``peers`` compares with what people would use instead: Lightning by hand, other packages, plain loops.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterable

import torch
from benchmarks.batched import benchmark_batched
from benchmarks.checkpoints import benchmark_checkpoints
from benchmarks.diagnostics import benchmark_diagnostics
from benchmarks.dimensionality import benchmark_dimensionality
from benchmarks.flow import benchmark_flow
from benchmarks.loader import benchmark_loader
from benchmarks.optimizer import benchmark_optimizer
from benchmarks.runs import benchmark_runs
from benchmarks.solver import benchmark_solver
from benchmarks.startup import benchmark_startup
from benchmarks.students import benchmark_students
from benchmarks.sweep import benchmark_sweep
from benchmarks.training import benchmark_gpu, benchmark_training
from peers.table import SUBJECTS, benchmark_peers

Row = tuple[str, float, str]


def verdict(value: float, target: str) -> str:
    """Say whether a value meets a target such as ``>= 0.95``."""
    sign, _, bound = target.partition(" ")
    if sign not in ("<=", ">="):
        return ""
    return "ok" if (value >= float(bound) if sign == ">=" else value <= float(bound)) else "MISSED"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["training", "loader", "dimensionality", "startup", "gpu", "students", "flow", "solver", "sweep"]
    names += ["diagnostics", "checkpoints", "optimizer", "runs", "batched", "peers"]
    parser.add_argument("which", nargs="*", choices=[*names, []], help="default: all")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny students, to see that it runs")
    parser.add_argument("--subject", action="append", choices=list(SUBJECTS), help="of peers; default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    count = options.repetitions
    benchmarks: dict[str, Callable[[], Iterable[Row]]] = {
        "training": lambda: benchmark_training(count, clock),
        "loader": lambda: benchmark_loader(threads=torch.get_num_threads()),
        "dimensionality": lambda: benchmark_dimensionality(count),
        "startup": lambda: benchmark_startup(count, options.cpu_time),
        "gpu": lambda: benchmark_gpu(count),
        "students": lambda: benchmark_students(count, clock, options.quick),
        "flow": lambda: benchmark_flow(count, clock, options.quick),
        "solver": lambda: benchmark_solver(count, clock, options.quick),
        "sweep": lambda: benchmark_sweep(options.quick),
        "diagnostics": lambda: benchmark_diagnostics(count, clock, options.quick),
        "checkpoints": lambda: benchmark_checkpoints(count, clock, options.quick),
        "optimizer": lambda: benchmark_optimizer(count, clock, options.quick),
        "runs": lambda: benchmark_runs(options.quick),
        "batched": lambda: benchmark_batched(count, clock, options.quick),
        "peers": lambda: benchmark_peers(count, clock, options.quick, options.subject or list(SUBJECTS)),
    }
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    print(f"{'what':86s} {'measured':>10s}  {'target':14s}", flush=True)
    for name in options.which or names:
        for what, value, target in benchmarks[name]():
            number = "" if math.isnan(value) else f"{value:10.3g}"  # nothing was measured, the text says why
            line = f"{name + ': ' + what:86s} {number:10s}  {target:14s} {verdict(value, target)}"
            print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
