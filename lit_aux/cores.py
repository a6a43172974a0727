"""How many cores this process may use, and how many of them others leave free."""

import os
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

_CHOSEN_BY_USERS = ("OMP_", "GOMP_", "KMP_", "MKL_")
_OF_RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
"""Of one of several processes that start together, each of which would count the others."""
_ALONE = 0.35  # cores: less than this is what any machine does beside its work
_SECONDS = 0.15
"""The kernel counts a core's time in hundredths of seconds: so many make a tenth of a core visible."""


def cores() -> int:
    """Return how many cores this process may use: those it may run on, and its container's share of them."""
    return max(1, int(min(len(_allowed()), _quota())))


def _allowed() -> set[int]:
    allowed = getattr(os, "sched_getaffinity", None)
    return set(allowed(0)) if allowed is not None else set(range(os.cpu_count() or 1))


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the cores that control groups grant: the least of this process's own and those above it."""
    least = float("inf")
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            number, controllers, place = line.split(":", 2)
            if number == "0":
                base, files = root, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                base, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            inside = base / place.lstrip("/")
            for folder in (inside, *inside.parents):
                least = min(least, _granted([folder / file for file in files]))
                if folder == base:
                    break
    return least


def _granted(files: list[Path]) -> float:
    """Return the cores that one control group grants; infinite where it sets no limit."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota != "max" and float(quota) > 0:
            return float(quota) / float(period)
    return float("inf")


@contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """Let torch compute with no more than so many threads; with as many as it has where that is None."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, threads or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ShortWork:
    """Says with how many threads to do what takes less time than threads need to wake: copies of batches.

    On a quiet machine all are worth while; where others compute, one of them is waited for far longer than
    the work takes.
    """

    def __init__(self) -> None:
        self._load = Load()
        self._threads: int | None = 1

    def threads(self) -> int | None:
        """Return 1, or None for all; looked at again every few tenths of a second."""
        if self._load.age > _SECONDS:
            others = self._load.others()
            self._threads = 1 if others is None or others > _ALONE else None
            self._load = Load()
        return self._threads


class Load:
    """Watches what other processes compute, from when it is made."""

    def __init__(self) -> None:
        self._start = time.monotonic(), time.process_time(), _busy(_allowed())

    def free(self) -> int:
        """Return how many cores others have left free since; what runs at a lower priority is left out.

        Waits until there is something to be seen. Where the system does not tell, all are free.
        """
        count = cores()
        if count == 1:
            return count
        time.sleep(max(0.0, _SECONDS - self.age))
        others = self.others()
        return count if others is None else max(1, min(count, round(len(_allowed()) - others)))

    @property
    def age(self) -> float:
        """Seconds since it is watched."""
        return time.monotonic() - self._start[0]

    def others(self) -> float | None:
        """Return how many of the cores others have taken since; None where the system does not tell."""
        start, own, busy = self._start
        now = _busy(_allowed())
        if busy is None or now is None:
            return None
        return max(0.0, now - busy - (time.process_time() - own)) / max(time.monotonic() - start, 1e-9)


def _busy(these: set[int], stat: Path = Path("/proc/stat")) -> float | None:
    """Return for how many seconds some cores have computed; None where that is not known."""
    try:
        rows = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
        fields = [
            list(map(int, row[1:])) for row in rows if row[0][3:].isdigit() and int(row[0][3:]) in these
        ]
        # user, nice, system, idle, iowait, irq, softirq, steal
        return sum(row[0] + row[2] + sum(row[5:8]) for row in fields) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


_to_tell: list[str] = []


def choose_threads(load: Load, environment: MutableMapping[str, str]) -> None:
    """Compute with no more threads than others leave cores: one that others keep from its core costs most.

    To be called before torch is imported, which reads the variable then.

    Args:
        load: Watched for a while.
        environment: Variables; where the user has set one of OpenMP's, all is left as it is.
    """
    if any(name.startswith(_CHOSEN_BY_USERS) or name in _OF_RANKS for name in environment):
        return
    count, free = len(_allowed()), load.free()
    if free < count:
        environment["OMP_NUM_THREADS"] = str(free)
        why = f"others leave {free} of {count} cores free; OMP_NUM_THREADS sets it"
        _to_tell[:] = [f"threads: {free}, as {why}"]


def tell_threads() -> None:
    """Say once, as work begins, how many threads were chosen where these are fewer than cores."""
    while _to_tell:
        print(_to_tell.pop(), file=sys.stderr, flush=True)
