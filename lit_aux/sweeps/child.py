"""What the process of one run does: claims the run's folder, trains, and marks the end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import parent_process
from pathlib import Path
from time import monotonic

from lit_aux.locks import Lock
from lit_aux.sweeps.outcome import OUTPUT, Outcome, cause, last_line, read_outcome, write_outcome
from lit_aux.sweeps.run import SweepRun

LitAux = Callable[[list[str]], int]
_PATIENCE = 120.0  # seconds that processes of a scheduler that was killed may take to be gone


def carry_out(lit_aux: LitAux, run: SweepRun, environment: dict[str, str], threads: int, place: int) -> None:
    """Train a run in this process, which is there for nothing else, and exit with its code.

    The process leads a group of its own, so that all that it starts can be ended with it; it ends itself and
    them when the process that started it is gone. What it prints goes to ``output.txt`` of the run's folder.
    A folder that another process has begun and not ended is emptied first.

    Args:
        lit_aux: Carries out a command line.
        run: The run.
        environment: Of the process that started this one.
        threads: How many threads to compute with.
        place: Number of the run among those that train at the same time, from 0.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(PermissionError):
        os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    run.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(run.lock)
    try:
        lock.wait(f"run {run.number}", timeout=_PATIENCE)
    except TimeoutError as late:
        sys.exit(f"{late}, which trains this run")
    with ExitStack() as held:
        held.callback(lock.release)
        if read_outcome(run.folder) is not None:  # another process has ended it meanwhile
            return
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        _redirect(run.folder / OUTPUT)
        began = monotonic()
        code = _fit(lit_aux, run, threads, place)
        seconds = monotonic() - began
        sys.stdout.flush()
        sys.stderr.flush()
        error = "" if code == 0 else cause(code, last_line(run.folder / OUTPUT))
        write_outcome(run.folder, Outcome(error, seconds))
    sys.exit(code % 256)


def asks_for_several(run: SweepRun) -> bool:
    """Return whether a run asks for more than one process or device."""
    devices, nodes = run.option("trainer.devices"), run.option("trainer.num_nodes")
    if isinstance(devices, str) and devices != "auto":
        several = "," in devices or devices.strip() == "-1"
    elif isinstance(devices, list):
        several = len(devices) > 1
    else:
        several = isinstance(devices, int) and devices not in (0, 1)
    if devices in (None, "auto"):
        strategy = str(run.option("trainer.strategy")).lower()
        several = any(word in strategy for word in ("ddp", "fsdp", "deepspeed", "parallel"))
    return several or (isinstance(nodes, int) and nodes > 1)


def _fit(lit_aux: LitAux, run: SweepRun, threads: int, place: int) -> int:
    """Carry out the command line; return its exit code."""
    words = ["fit", *run.arguments]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("COLUMNS", "120")
    if asks_for_several(run):  # Lightning starts the command line again for every further process
        command = [sys.executable, "-m", lit_aux.__module__, *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    sys.argv = ["lit-aux", *words]
    try:
        _divide(threads, place)
        return lit_aux(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        if "wandb" in sys.modules:  # what it does at exit is not done in processes that are forked
            sys.modules["wandb"].finish()


def _divide(threads: int, place: int) -> None:
    """Take this process's share of the machine: so many threads, one GPU where there are several."""
    if "torch" not in sys.modules:
        return
    import torch

    torch.set_num_threads(threads)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(cards) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]


def _redirect(output: Path) -> None:
    """Send what this process and its children print to a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _follow_parent() -> None:
    """End with the process that this one works for, however that ends, and all that this one started."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)
