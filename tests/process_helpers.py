"""Processes that tests start, and which are left of them."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def launch(script: Path, folder: Path, *arguments: str) -> None:
    """Run a script in a folder, which is also its first argument; fail with what it says if it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PL_")}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(folder), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the other processes too
            raise
    assert process.returncode == 0, errors[-3000:]


def processes_of_here() -> set[int]:
    """Return the processes that this one has started to carry out jobs, and those that are theirs."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "stat").read_text().rpartition(")")[2].split()
            if words[0] != "Z":
                parents[int(place.name)] = int(words[1])
            if int(words[1]) == os.getpid() and b"lit_aux.runs" in (place / "cmdline").read_bytes():
                found.add(int(place.name))
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found
