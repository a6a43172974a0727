"""What is carried out at a time: one run, or several that train together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]
Rows = tuple[list[Row], list[Row]]
"""Rows of ``results.csv`` and of ``measures.csv``."""


class Report(Protocol):
    """What work tells while it is done, in whichever process that is."""

    def step(self, active: int, steps: int) -> None:
        """Say how many runs are under way, and how many steps they have taken."""
        ...

    def rows(self, run: str, rows: Sequence[Row], measures: Sequence[Row]) -> None:
        """Hand over the rows of a run that has ended, and its measures."""
        ...

    def note(self, text: str) -> None:
        """Say a line that stays to be read."""
        ...


@dataclass(frozen=True)
class Job:
    """Runs that one process carries out together, and how.

    Attributes:
        title: What a person calls it.
        runs: The columns of the results table that are known of each run before, by the run's key.
        work: Called with a :class:`Report` and the arguments; a function of a module, which other processes
            import. In a folder, its answer is an exit code.
        arguments: What else it is called with; they can be pickled.
        measures: Measures of these runs that are known before.
        folder: A folder of its own, which holds what it prints and a mark of its end, and is emptied when it
            begins; None for work that prints nothing and leaves nothing.
        collect: Reads the rows of a folder that has ended well, called with the arguments.
        environment: What is set in the environment of its process.
        imports: Modules that it needs, so that they are imported once for many jobs.
        reuse: Whether its process may carry out another job afterwards.
        retry: Whether it is carried out again where its folder, on whatever machine, says that it failed.
        parts: Jobs in folders of their own, whose runs these are; the work ends as many of them as it can.
            Behind it, rows of those that have ended are taken, and the others are carried out by themselves.
    """

    title: str
    runs: Mapping[str, Mapping[str, Any]]
    work: Callable[..., int | None]
    arguments: tuple[Any, ...] = ()
    measures: tuple[Row, ...] = ()
    folder: Path | None = None
    collect: Callable[..., Rows] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    reuse: bool = False
    retry: bool = False
    parts: tuple["Job", ...] = ()


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        error: Why there may be runs without rows, one line; empty where it went well.
        refused: Whether what was asked for is wrong, so that no other job need be tried.
    """

    error: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        kind: ``begin``, ``step``, ``rows``, ``note``, ``end`` or ``broken``; of a job with parts, ``end`` is
            theirs alone.
        job: The job.
        place: Its number among those that are carried out at the same time, from 0.
        content: Of a step, the runs under way and their steps; of rows, the run, its rows and its
            measures; the text of a note; an :class:`End`; of what broke, the exception.
    """

    kind: str
    job: Job
    place: int = 0
    content: Any = None


CLUSTER = "a Dask scheduler whose workers carry runs out: tcp://host:8786, or its scheduler file"
"""Help of the option that names one."""
Tell = Callable[[Event], None]
