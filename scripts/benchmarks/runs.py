"""What carrying out many runs costs beside the runs themselves: on this machine, and on Dask's workers.

The runs sleep, so that their time is known; all else is what carrying them out costs. Here that includes the
start of the command and of the server that imports for all. On Dask's workers only runs are counted: a sweep
before has started their servers.
"""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

Row = tuple[str, float, str]
_SCRIPTS = Path(__file__).parents[1]
_JOBS = 2


def _write(folder: Path, name: str, runs: int, seconds: float) -> Path:
    """Write the sweep file of so many runs."""
    parameters = {"seconds": {"value": seconds}, "seed_everything": {"values": list(range(runs))}}
    sweep = {"method": "grid", "command": ["lit-aux", "fit", "${args}"], "parameters": parameters}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def _check(table: Path, runs: int) -> None:
    from lit_aux.experiments import ResultsTable

    with ResultsTable(table) as found:
        rows = found.rows()
    assert len(rows) == runs, f"{len(rows)} of {runs} rows"
    assert not any(row["error"] for row in rows), rows


def _environment() -> dict[str, str]:
    """Return the environment of all processes; none compiles again what was imported before."""
    path = [str(_SCRIPTS), os.environ.get("PYTHONPATH", "")]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}


def _here(folder: Path, runs: int, seconds: float) -> float:
    """Carry out a sweep on this machine; return how long its command took."""
    sweep, out = _write(folder, f"here{runs}", runs, seconds), folder / f"here{runs}"
    words = [str(sweep), "--jobs", str(_JOBS), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.sleeping", *words],
        check=True,
        capture_output=True,
        env=_environment(),
    )
    wall = time.perf_counter() - start
    _check(out / "results.csv", runs)
    return wall


@contextmanager
def _workers(folder: Path) -> Iterator[Path]:
    """Start a scheduler and two workers of one thread; give the scheduler file."""
    file = folder / "scheduler.json"
    place = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    commands = [
        ["scheduler", *place, "--port", "0"],
        ["worker", *place, "--nworkers", "2", "--nthreads", "1"],
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            env=_environment(),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in commands
    ]
    try:
        yield file
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _over_dask(folder: Path, runs: int, seconds: float) -> float:
    """Carry out two sweeps over Dask's workers; return how long the second took."""
    from benchmarks.sleeping import sleep
    from lit_aux.cli.sweep import run

    with _workers(folder) as file:
        end = time.monotonic() + 60
        while not file.is_file() and time.monotonic() < end:
            time.sleep(0.1)
        for name, count in (("warm", 4), ("dask", runs)):
            sweep, out = _write(folder, name, count, seconds), folder / name
            start = time.perf_counter()
            with redirect_stdout(io.StringIO()):
                code = run([str(sweep), "--cluster", str(file), "--out", str(out)], sleep)
            wall = time.perf_counter() - start
            assert code == 0, f"{name} ended with {code}"
            _check(out / "results.csv", count)
    return wall


def benchmark_runs(quick: bool = False) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    runs, seconds = (2, 0.5) if quick else (24, 15.0)
    many, short = (10, 0.1) if quick else (500, 0.1)
    with TemporaryDirectory() as name:
        _here(Path(name), 1, 0.0)  # what it imports is compiled then
        wall, asleep = _here(Path(name), runs, seconds), runs * seconds / _JOBS
        rows: list[Row] = [
            (
                f"{runs} runs of {seconds:g} s, {_JOBS} at a time: all else, over the runs' time",
                wall / asleep - 1,
                "<= 0.05",
            ),
            ("  seconds of that on the clock", wall - asleep, ""),
        ]
        if find_spec("distributed") is not None:
            what = f"{many} runs of {short:g} s over two Dask workers whose servers are warm, seconds"
            rows.append((what, _over_dask(Path(name), many, short), "<= 50"))
    return rows
