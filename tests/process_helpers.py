"""Processes that tests start, and which are left of them."""

import multiprocessing
import multiprocessing.context
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import warnings
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


def prepared() -> multiprocessing.context.ForkServerContext:
    """Return what forks processes from one that has imported what fits need, in a tenth of the time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lit_aux.cli.lightning_cli", "lit_aux.callbacks", "wandb"])
    return context


def together(script: Path, folder: Path, *arguments: str, processes: int = 2) -> None:
    """Run a script as :func:`launch` does, in several processes that a cluster might have started.

    They are :func:`prepared`. Lightning finds them started; where its own launcher is what matters, use
    :func:`launch`.
    """
    context = prepared()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {k: v for k, v in os.environ.items() if not k.startswith("PL_")} | {"OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    ranks = [
        context.Process(target=_rank, args=(script, folder, arguments, common | {"LOCAL_RANK": str(rank)}))
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    end = time.monotonic() + 300
    while any(process.is_alive() for process in ranks) and not any(process.exitcode for process in ranks):
        if time.monotonic() > end:
            break
        ranks[0].join(0.05)
    codes = []
    for process in ranks:  # one that has failed leaves others that wait for it
        process.join(5 if any(one.exitcode for one in ranks) else max(0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        codes.append(process.exitcode)
    said = "".join((folder / f"errors-{rank}").read_text()[-3000:] for rank in range(processes))
    assert codes == [0] * processes, f"exit codes {codes}: {said}"


def _rank(script: Path, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    """Be one of the processes."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in ((1, os.devnull), (2, folder / f"errors-{environment['LOCAL_RANK']}")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = [str(script), str(folder), *arguments]
    sys.path.insert(0, str(script.parent))
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runpy.run_path(str(script), run_name="__main__")


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
