"""Fits that are killed again and again and go on, compared with those that nobody disturbed."""

import csv
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from process_helpers import prepared

LEFTOVERS = (".part", ".lock", ".lease", ".probe", ".tmp")
PLACES = ("before the phases", "pretrain", "finetune", "after the phases")
TIMES = ("seconds", "checkpoint")
Kill = tuple[str, float]
OPERATIONS = (
    *(
        f"{when} os.{name}"
        for name in ("replace", "fsync", "unlink", "write", "rmdir")
        for when in ("before", "after")
    ),
    *("before torch.save", "amid torch.save", "after torch.save", "before opening", "before making"),
)


@dataclass
class Tally:
    """What came of kills.

    Attributes:
        killed: How many runs died, by where they were.
        resumed: How many were resumed, to the end.
        ended: How many ended before they would have been killed.
        bad: What was lost or changed or left behind, by trial.
    """

    killed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    ended: int = 0
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        places = ", ".join(f"{count} {place}" for place, count in sorted(self.killed.items()))
        return (
            f"{self.killed.total()} kills ({places}), {self.ended} ended before; {self.resumed} resumed to "
            f"the end, {len(self.bad)} of them lost, changed or left something"
        )


def afresh(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function in a new process, and return what it returns.

    Where anything has run backward on another device, children that are forked cannot train any more.
    """
    with ProcessPoolExecutor(1, mp_context=prepared()) as pool:
        return pool.submit(function, *arguments, **options).result()


def in_child(work: Callable[[], Any], kill: Kill | None = None, *, out: Path | None = None) -> int:
    """Do something in a process of its own, a group's leader, and wait for it.

    Args:
        work: What to do; what it returns is saved.
        kill: When to kill it: ``("time", seconds)``, or an operation and at which time it is done.
        out: Where to save what it returned; what it raised instead goes to ``out`` with ``.err`` behind.

    Returns:
        The number of the signal that ended it; 0 where it ended by itself.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            quiet = os.open(os.devnull if out is None else f"{out}.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            if kill is not None:
                arm(*kill)
            found = work()
            signal.setitimer(signal.ITIMER_REAL, 0)
            _ARMED.clear()
            if out is not None:
                torch.save(found, out)
            code = 0
        except BaseException:
            if out is not None:
                Path(f"{out}.err").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


_ARMED: list[str] = []


def arm(kind: str, at: float) -> None:
    """Kill this process and what it started at an instant, or when it does something for a given time."""
    if kind == "time":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system ends it, wherever it is
        signal.setitimer(signal.ITIMER_REAL, at)
        return
    when, _, name = kind.partition(" ")
    _ARMED.append(kind)
    left = [int(at)]

    def due() -> bool:
        left[0] -= bool(_ARMED)
        return left[0] == 0 and bool(_ARMED)

    if name in ("opening", "making"):
        sys.addaudithook(lambda event, args: _hear(event, args, name, due))
        return
    module = torch if name == "torch.save" else os
    real = getattr(module, name.partition(".")[2])

    def dying(*args: Any, **kwargs: Any) -> Any:
        now = due()
        if now and when == "before":
            die()
        found = real(*args, **kwargs)
        if now:
            if when == "amid":  # half of it was written
                args[1].flush()
                os.truncate(args[1].name, os.path.getsize(args[1].name) // 2)
            die()
        return found

    setattr(module, name.partition(".")[2], dying)


def _hear(event: str, args: tuple[Any, ...], name: str, due: Callable[[], bool]) -> None:
    if name == "opening":
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and not str(args[0]).startswith(("/dev/null", "/proc")) and due():
            die()
    elif event == "os.mkdir" and due():
        die()


def die() -> None:
    """Kill this process, as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def draw_kill(rnd: random.Random, seconds: float, most: int = 24) -> Kill:
    """Draw an instant of a run that takes so many seconds, or an operation."""
    if rnd.random() < 0.5:
        return "time", rnd.uniform(0.1, 1.0) * seconds
    return rnd.choice(OPERATIONS), rnd.randint(1, most)


def leftovers(*folders: Path) -> list[str]:
    """Return what no run leaves that has ended."""
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(str(path) for path in found if path.name.endswith(LEFTOVERS))


def rows_of(path: Path) -> list[dict[str, str]] | None:
    """Return the rows of a table apart from times, in an order of their own; None where there is none."""
    if not path.exists():
        return None
    with path.open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    rows = [row for row in rows if row.get("measure") not in TIMES]
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


# Fits


def run_fit(root: Path, ckpt_path: str | None, store: bool, place: Any) -> dict[str, Any]:
    """Pretrain and finetune, and return all that is to be the same, kill or no kill."""
    from resume_helpers import fit, outcome

    import lit_aux.phases.trainer as of_trainer
    from lit_aux import report

    real = of_trainer.PhaseTrainer._run_phase

    def told(self: Any, index: int, *args: Any) -> None:
        place[0] = index + 1
        real(self, index, *args)
        place[0] = 3 if index == 1 else place[0]

    of_trainer.PhaseTrainer._run_phase = told  # type: ignore[method-assign]
    trainer, module = fit(root, ckpt_path=ckpt_path, phase_store=store)
    folder = report(trainer)
    summary = json.loads((folder / "summary.json").read_text())
    for phase in summary["phases"]:
        for name in (*TIMES, "reused"):
            phase.pop(name)
    summary.pop("continued")
    results, measures, stopped = outcome(trainer)
    rows = rows_of(folder / "measures.csv")
    if store:  # layers of a phase that is taken from the store are not measured
        summary["layers"] = [layer for layer in summary["layers"] if layer["phase"] == "finetune"]
        measures = [[row for row in one if row.phase == "finetune"] for one in measures]
        rows = [row for row in rows or [] if row["phase"] == "finetune" or not row["layer"]]
    found = [{k: v for k, v in result.items() if k != "reused"} for result in results]
    written = torch.load(str(trainer.phase_results[-1].checkpoint), weights_only=True)["state_dict"]
    return {
        "weights": module.state_dict(),
        "written weights": written,
        "outcome": repr((found, measures, stopped)),
        "summary": summary,
        "results.csv": rows_of(folder / "results.csv"),
        "measures.csv": rows,
        "pictures": sorted(path.name for path in folder.glob("*.png")),
        "modules": sorted(sys.modules),
    }


_NOT_PRELOADED = ("__main__", "__mp_main__", "multiprocessing", "lightning_fabric", "wandb")


def preload(names: Iterable[str]) -> None:
    """Import what children would import, so that those that are forked find it there."""
    for name in names:
        if name not in sys.modules and name.partition(".")[0] not in _NOT_PRELOADED:
            with suppress(Exception):
                import_module(name)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the parts in which two runs differ; tensors must be equal bit for bit."""
    return [name for name in {**one, **other} if not _same(one.get(name), other.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and [*one] == [*other] and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def kill_fits(
    folders: tuple[Path, Path], count: int, seed: int, seconds: float = float("inf")
) -> tuple[Tally, bool]:
    """Kill fits of two phases, resume them, and compare with one that nobody killed.

    Each is killed once or twice. Checkpoints and ``$TMPDIR`` are each in another of the two folders. Every
    third fit has a store of first phases; every other of those is not resumed but begun again.

    Args:
        folders: Two empty folders.
        count: How many kills.
        seed: Of the kills.
        seconds: When to stop all the same.

    Returns:
        What came of it, and whether the two folders were on different file systems.
    """
    rnd, tally, end = random.Random(seed), Tally(), time.monotonic() + seconds
    place = mmap.mmap(-1, 1)
    wanted: dict[bool, Any] = {}
    for store in (False, True):
        file = folders[0] / "whole.pt"
        preload(["resume_helpers"])

        began = time.monotonic()
        root = folders[0] / "whole"
        in_child(lambda s=store, r=root: run_fit(r, None, s, place), out=file)
        duration = time.monotonic() - began
        wanted[store] = torch.load(file, weights_only=False)
        preload(wanted[store].pop("modules"))
        shutil.rmtree(root)
    trial = 0
    while tally.killed.total() < count and time.monotonic() < end:
        trial += 1
        home = folders[trial % 2] / f"trial{trial}"
        temporary = folders[1 - trial % 2] / f"temporary{trial}"
        home.mkdir()
        temporary.mkdir()
        kills = [draw_kill(rnd, duration) for _ in range(rnd.choice((1, 1, 2)))]
        store, anew = trial % 3 == 0, trial % 6 == 0
        try:
            _kill_fit(home, temporary, kills, store, anew, place, wanted[store], tally, f"{trial} {kills}")
        finally:
            shutil.rmtree(home)
            shutil.rmtree(temporary)
    return tally, folders[0].stat().st_dev != folders[1].stat().st_dev


def _kill_fit(
    home: Path,
    temporary: Path,
    kills: list[Kill],
    store: bool,
    anew: bool,
    place: Any,
    wanted: Mapping[str, Any],
    tally: Tally,
    name: str,
) -> None:
    root, file = home / "run", home / "found.pt"

    def work(ckpt_path: str | None) -> dict[str, Any]:
        os.environ["TMPDIR"] = str(temporary)
        tempfile.tempdir = None
        return run_fit(root, ckpt_path, store, place)

    died = 0
    for kill in [*kills, None]:
        place[0] = 0
        again = died and not anew
        number = in_child(lambda a=again: work("last" if a else None), kill, out=file)
        if number:
            died += 1
            tally.killed[PLACES[place[0]]] += 1
        else:
            break
    if not died:
        tally.ended += 1
        return
    tally.resumed += 1
    error = Path(f"{file}.err")
    if error.exists():
        tally.bad.append(f"{name}: {error.read_text()[-400:]}")
        return
    found = torch.load(file, weights_only=False)
    found.pop("modules")
    amiss = differing(wanted, found)
    amiss += leftovers(root, temporary)
    if amiss:
        tally.bad.append(f"{name} (store {store}, anew {anew}): {', '.join(amiss)}")
