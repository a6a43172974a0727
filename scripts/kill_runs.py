"""Kill fits, sweeps and ``reproduce`` again and again, let them go on, and print what was lost or changed.

    python scripts/kill_runs.py [--fits N] [--sweeps N] [--reproduce N [--jobs J]] [--workers N]
        [--schedulers N] [--seed S] [--seconds LIMIT] [--folder DIR] [--elsewhere DIR]

N is a number of kills; those of Dask's workers and schedulers need the extra ``cluster``. DIR are folders on
different file systems, by default one in ``$TMPDIR`` and one in ``/dev/shm``: checkpoints lie on one and
``$TMPDIR`` on the other. Weights must be equal bit for bit; tables and summaries apart from times; nothing
may be left of what was started. Use it with ``OMP_NUM_THREADS=1``.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = map(str, (TESTS, TESTS / "phases", TESTS / "sweeps"))
from killed_clusters import kill_cluster  # type: ignore[import-not-found]  # noqa: E402
from killed_commands import (  # type: ignore[import-not-found]  # noqa: E402
    REPRODUCE,
    kill_command,
    sweep_words,
)
from killed_runs import kill_fits  # type: ignore[import-not-found]  # noqa: E402


def main() -> int:
    """Kill; return 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("fits", "sweeps", "reproduce", "workers", "schedulers"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="of reproduce")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop all the same")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--elsewhere", default="/dev/shm")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    here = Path(tempfile.mkdtemp(prefix="kills-", dir=given.folder))
    there = Path(tempfile.mkdtemp(prefix="kills-", dir=given.elsewhere))
    end, bad = time.monotonic() + given.seconds, 0
    try:
        if given.fits:
            tally, apart = kill_fits((here, there), given.fits, given.seed, end - time.monotonic())
            where = "on two file systems" if apart else "on ONE file system"
            print(f"fits, {where}: {tally}", *tally.bad, sep="\n  ", flush=True)
            bad += len(tally.bad)
        commands = {
            "sweeps": (sweep_words(here / "sweep.yaml"), "out/results.csv"),
            "reproduce": ([*REPRODUCE, f"--jobs={given.jobs}"], "out/results.csv"),
        }
        for name, (words, out) in commands.items():
            if count := getattr(given, name):
                (here / name).mkdir()
                tally = kill_command(words, out, here / name, count, given.seed, end - time.monotonic())
                print(f"{name}: {tally}", *tally.bad, sep="\n  ", flush=True)
                bad += len(tally.bad)
        for name in ("workers", "schedulers"):
            if count := getattr(given, name):
                (here / name).mkdir()
                whom = name.removesuffix("s")
                tally = kill_cluster(whom, here / name, count, given.seed, end - time.monotonic())
                print(f"{name}: {tally}", *tally.bad, sep="\n  ", flush=True)
                bad += len(tally.bad)
    finally:
        shutil.rmtree(here)
        shutil.rmtree(there)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
