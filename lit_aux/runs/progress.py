"""What a person sees of many runs while they are carried out."""

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Counts runs done, converged and left: a bar on a terminal, else a line now and then.

    Args:
        total: Runs that were asked for.
        done: How many of them the table held already.
        converged: How many of those had converged.
        seconds: Least time between two lines where there is no terminal.
        noun: What workers carry out, for when many do.
    """

    def __init__(
        self, total: int, done: int = 0, converged: int = 0, *, seconds: float = 30.0, noun: str = "slices"
    ) -> None:
        self.total, self.done, self.converged, self._noun = total, done, converged, noun
        self._seconds, self._last = seconds, float("-inf")
        self._what: dict[int, str] = {}  # by worker, what it does
        self._now: dict[int, str] = {}  # and how far it is
        self._bar: Bar | None = _bar() if sys.stdout.isatty() else None
        self._task = self._bar.add_task("", total=total, completed=done, counts="") if self._bar else None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._line(now=True)

    def begin(self, what: str, worker: int = 0) -> None:
        """Say what a worker does now."""
        self._what[worker] = self._now[worker] = what
        self._show()

    def step(self, active: int, steps: int, worker: int = 0) -> None:
        """Say how many runs of its slice still train, and for how many steps they have."""
        self._now[worker] = f"{self._what[worker]}: {active} training, {steps:,} steps"
        self._show()

    def over(self, worker: int = 0) -> None:
        """Say that a worker is done with its slice."""
        self._now.pop(worker, None)
        self._show()

    def note(self, text: str) -> None:
        """Say something that stays to be read."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def end(self, converged: bool) -> None:
        """Count a run that has its row."""
        self.done += 1
        self.converged += converged
        self._show()

    def _counts(self) -> str:
        left = self.total - self.done
        return f"{self.done} of {self.total} runs done, {self.converged} converged, {left} left"

    def _show(self) -> None:
        parts = [self._now[worker] for worker in sorted(self._now)]
        text = " | ".join(parts) if len(parts) <= 2 else f"{len(parts)} {self._noun}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, description=text, counts=self._counts())
        else:
            self._line(text)

    def _line(self, what: str = "", now: bool = False) -> None:
        if self._bar is None and (now or monotonic() - self._last >= self._seconds):
            self._last = monotonic()
            print(f"{self._counts()}{f' ({what})' if what else ''}", flush=True)


def _bar() -> "Bar":
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
