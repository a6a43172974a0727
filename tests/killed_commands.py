"""Commands that are killed again and again and go on, compared with those that nobody disturbed."""

import csv
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from killed_runs import OPERATIONS, Tally, arm, differing, leftovers, preload, rows_of

REPRODUCE = [
    *("reproduce", "diagonal-overlap", "--setups=[STL, PT+FT]", "--seeds=[0, 1]", "--n-main=[8, 16]"),
    *("--overlap=[4]", "--max-evaluations=20", "--stride=10", "--replicas-per-slice=1"),
    *("--out=out/results.csv", "--device=cpu"),
]


def sweep_words(file: Path) -> list[str]:
    """Write the file of a small sweep of students, and return the command that runs it."""
    from sweep_helpers import write_sweep

    write_sweep(file, {"model.rescale": [1.0, 1e-2], "data.n_main": [4, 6], "data.seed": [0, 1]})
    return ["sweep", str(file), "--out=out", "--jobs=2", "--", "--seed_everything=3"]


def kill_command(
    words: list[str], out: str, folder: Path, count: int, seed: int, seconds: float = float("inf")
) -> Tally:
    """Kill a ``lit-aux`` command, or processes that it started, and give the command again.

    Args:
        words: The command; it writes the table ``out`` into the working folder.
        out: The table.
        folder: An empty folder.
        count: How many kills.
        seed: Of the kills.
        seconds: When to stop all the same.
    """
    rnd, tally, end = random.Random(seed), Tally(), time.monotonic() + seconds
    whole = folder / "whole"
    code = _command(words, whole, None)
    if code:
        raise RuntimeError((whole / "command.txt").read_text()[-2000:])
    preload((whole / "modules.txt").read_text().split())
    wanted = tables_of(whole / out)
    began = time.monotonic()
    _command(words, folder / "again", None)
    duration = time.monotonic() - began
    trial = 0
    while tally.killed.total() < count and time.monotonic() < end:
        trial += 1
        home = folder / f"trial{trial}"
        whom = rnd.choice(("parent", "group", "child", "by operation"))
        at = rnd.uniform(0.05, 1.0) * duration
        kept: dict[str, dict[str, str]] = {}
        died = 0
        for _ in range(rnd.choice((1, 1, 2))):
            done = _command(words, home, (whom, at), rnd)
            if done is None:
                died += 1
                tally.killed[whom] += 1
                kept.update(whole_rows(home / out))
        if not died:
            tally.ended += 1
            shutil.rmtree(home)
            continue
        before = dict(kept)
        code = _command(words, home, None)
        if code and whom == "child":  # a row says that the run was killed, which is so; or none is there
            code = _command([*words[:2], "--retry", *words[2:]] if words[0] == "sweep" else words, home, None)
        tally.resumed += 1
        amiss = [] if code == 0 else [f"code {code}: {(home / 'command.txt').read_text()[-300:]}"]
        amiss += differing(wanted, tables_of(home / out)) + leftovers(home)
        now = whole_rows(home / out)
        amiss += [
            f"row {run} changed" for run, row in before.items() if now.get(run) != row and not row["error"]
        ]
        if amiss:
            tally.bad.append(f"{trial} {whom} at {at:.2f}: {', '.join(amiss)}")
        shutil.rmtree(home)
    return tally


def tables_of(path: Path) -> dict[str, Any]:
    """Return the rows of a table and its measures, apart from times."""
    return {name: rows_of(path.with_name(name)) for name in ("results.csv", "measures.csv")}


def whole_rows(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows by run that are whole, times included."""
    if not path.exists():
        return {}
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return {row["run"]: row for row in csv.DictReader(lines)}


def _command(
    words: list[str], home: Path, kill: tuple[str, float] | None, rnd: random.Random | None = None
) -> int | None:
    """Give a command in a process of its own; return its code, or None where something of it was killed."""
    from lit_aux.cli import main

    home.mkdir(exist_ok=True)
    operation = (rnd or random.Random()).choice(OPERATIONS[:10]), (rnd or random.Random()).randint(1, 24)
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(home)
            said = os.open("command.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.argv = ["lit-aux", *words]
            if kill is not None and kill[0] == "by operation":
                arm(*operation)
            code = main(words)
            sys.stdout.flush()
            if kill is None:
                Path("modules.txt").write_text("\n".join(sorted(sys.modules)))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    hit = False
    if kill is not None and kill[0] != "by operation":
        end = time.monotonic() + kill[1]
        while (
            time.monotonic() < end and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.005)
        hit = _kill(pid, kill[0], rnd or random.Random(0))
    _, status = os.waitpid(pid, 0)
    hit |= os.WIFSIGNALED(status)
    if hit:
        return None
    return os.waitstatus_to_exitcode(status)


def _kill(pid: int, whom: str, rnd: random.Random) -> bool:
    """Kill a process that is there, its group, or one of those that it started; return whether one was."""
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return False
    if whom == "child":
        found = descendants(pid)
        if not found:
            return False
        os.kill(rnd.choice(found), signal.SIGKILL)
    elif whom == "group":
        for one in [*descendants(pid), pid]:
            os.kill(one, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
    return True


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those have."""
    found: list[int] = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        for word in path.read_text().split():
            found += [int(word), *descendants(int(word))]
    return found
