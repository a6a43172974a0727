"""What ``lit-aux sweep`` costs beside its runs, and what a process of its own would cost each run.

24 runs of diagonal students, two at a time, of some 15 seconds each. A run's time is what ``lit-aux fit``
takes in its process; all else is the scheduler's: its own start, the start of the server that imports for
all, forks, rows.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import yaml

Row = tuple[str, float, str]
CONFIG = Path(__file__).parents[2] / "configs" / "diagonal" / "ptft.yaml"
_JOBS = 2


def write_sweep(folder: Path, runs: int, evaluations: int) -> Path:
    """Write a sweep file of so many runs, each of so many gradients."""
    fixed = {
        "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": False,
        "data.n_main": 512,
        "data.overlap": 20,
        "model.pretrain_settings.max_evaluations": 50,
        "model.finetune_settings.integrator": "gradient_descent",
        "model.finetune_settings.integrator.lr": 0.1,
        "model.finetune_settings.max_flow_time": None,
        "model.finetune_settings.max_evaluations": evaluations,
        "model.finetune_settings.stop_at_training_loss": 1e-300,
    }
    parameters: dict[str, dict[str, object]] = {name: {"value": value} for name, value in fixed.items()}
    parameters["model.rescale"] = {"values": [1.0, 0.5]}
    parameters["data.seed"] = {"values": list(range((runs + 1) // 2))}
    command = ["lit-aux", "fit", "--config", str(CONFIG), "${args}"]
    sweep = {"method": "grid", "command": command, "parameters": parameters, "run_cap": runs}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def run_command(words: Sequence[str], folder: Path, **variables: str) -> float:
    """Carry out a command line, with variables of the environment; return how long it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody's imports compile everything anew
    command = [sys.executable, "-m", "lit_aux.cli", *words]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    return time.perf_counter() - start


def benchmark_sweep(quick: bool = False) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    runs, evaluations = (2, 20) if quick else (24, 16_000)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_sweep(folder, runs, evaluations)
        wall = run_command(["sweep", "sweep.yaml", "--jobs", str(_JOBS), "--out", "out"], folder)
        marks = [json.loads(path.read_text()) for path in folder.glob("out/runs/*/ended.json")]
        assert len(marks) == runs, marks
        assert not any(mark["error"] for mark in marks), marks
        total = sum(mark["seconds"] for mark in marks)
        (saved, *_) = folder.glob("out/runs/*/version_0/config.yaml")
        alone = run_command(["fit", "--config", str(saved), "--trainer.default_root_dir=alone"], folder)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import lit_aux.cli.lightning_cli"], check=True)
    imports = time.perf_counter() - start
    plain = alone - fmean(mark["seconds"] for mark in marks)
    return [
        ("mean seconds of a run", total / runs, ""),
        (
            f"{runs} runs, {_JOBS} at a time: all else, over the runs' time",
            (wall * _JOBS - total) / total,
            "<= 0.05",
        ),
        ("  seconds of that on the clock", wall - total / _JOBS, ""),
        ("  of which the import that all runs share", imports, ""),
        ("  the same with a process of its own for each run", max(0.0, plain) * runs / total, ""),
    ]
