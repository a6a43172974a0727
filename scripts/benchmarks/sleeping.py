"""A stand-in for ``lit-aux fit`` that sleeps: a run whose time is known, all else as for a real one."""

import sys
import time
from pathlib import Path

from lit_aux.cli.sweep import run
from lit_aux.experiments import ResultsTable


def sleep(arguments: list[str]) -> int:
    """Take so many seconds as the option says, and write a row as a fit does."""
    given = dict(word[2:].split("=", 1) for word in arguments if "=" in word)
    time.sleep(float(given["seconds"]))
    with ResultsTable(Path(given["trainer.default_root_dir"]) / "version_0" / "results.csv") as table:
        table.append([{"run": "sleep", "setup": "STL", "seed": given["seed_everything"], "converged": True}])
    return 0


def look(options: list[str]) -> None:
    """Import what looking at the options of a real run does."""
    from lit_aux.cli import lightning_cli

    assert lightning_cli


if __name__ == "__main__":
    from benchmarks.sleeping import sleep as importable  # by the name that other processes know
    from lit_aux.sweeps import jobs

    jobs._OF_PROGRAM["benchmarks.sleeping"] = ("lit_aux.cli", *jobs._OF_PROGRAM["lit_aux.cli"])
    sys.exit(run(sys.argv[1:], importable, look))
