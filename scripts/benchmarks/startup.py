"""Seconds that importing and asking for help take, each in a process of its own."""

import compileall
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

Row = tuple[str, float, str]

_LIT_AUX = ["-c", "import sys; from lit_aux.cli import main; sys.exit(main())"]
COMMANDS = {
    "torch": ["-c", "import torch"],
    "lit_aux": ["-c", "import lit_aux"],
    "bare": ["-c", "from lightning.pytorch.cli import LightningCLI; LightningCLI()", "fit", "--help"],
    "fit": [*_LIT_AUX, "fit", "--help"],
    "regime": [*_LIT_AUX, "regime", "--help"],
}


def _byte_compile() -> None:
    """Compile this package, as installing it does; its dependencies were compiled by earlier imports."""
    for name in ("lit_aux", "lit_aux.callbacks"):
        spec = find_spec(name)
        for folder in spec.submodule_search_locations or [] if spec else []:
            compileall.compile_dir(folder, quiet=1)


def _seconds(command: list[str], cpu_time: bool, folder: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, env=environment, cwd=Path(folder)
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if cpu_time else wall


def _measure(repetitions: int, cpu_time: bool) -> Iterator[dict[str, float]]:
    _byte_compile()
    with TemporaryDirectory() as folder:
        for number in range(repetitions + 1):
            times = {name: _seconds(command, cpu_time, folder) for name, command in COMMANDS.items()}
            if number:  # the first round fills the caches
                yield times


def benchmark_startup(repetitions: int = 7, cpu_time: bool = False) -> list[Row]:
    """Return rows of medians over alternating repetitions."""
    rounds = list(_measure(repetitions, cpu_time))
    middle = {name: median(times[name] for times in rounds) for name in COMMANDS}
    return [
        ("import torch, seconds", middle["torch"], ""),
        (
            "import lit_aux, seconds more than that (it waits with torch until needed)",
            median(t["lit_aux"] - t["torch"] for t in rounds),
            "<= 0.5",
        ),
        ("bare LightningCLI fit --help, seconds", middle["bare"], ""),
        ("lit-aux fit --help, times that", median(t["fit"] / t["bare"] for t in rounds), "<= 1.2"),
        ("lit-aux regime --help, seconds", middle["regime"], "<= 1"),
    ]
