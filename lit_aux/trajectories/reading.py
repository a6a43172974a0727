"""Trajectories of runs, and how they are read from ``trajectory.csv``: without torch, and quick to import."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.runs.reading import PathLike, files_of
from lit_aux.runs.typed import csv_rows
from lit_aux.spreadsheets import meant

Floats: TypeAlias = NDArray[np.float64]
Wholes: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """Values of a measure in the order of training; arrays of one length.

    Attributes:
        epoch: Epochs that were done; 0 before the first.
        step: Optimizer steps that were done.
        value: What was measured then; all finite.
    """

    epoch: Wholes
    step: Wholes
    value: Floats

    def until(self, step: int) -> "Series":
        """Return what was measured up to a step."""
        return self._kept(self.step <= step)

    def after_start(self) -> "Series":
        """Return the checkpoints of training: without what was measured before its first step."""
        return self._kept(self.step > 0)

    def at(self, other: "Series") -> tuple[Floats, Floats]:
        """Return this one's values and another's where both were measured, in order."""
        _, own, others = np.intersect1d(self.step, other.step, assume_unique=True, return_indices=True)
        return self.value[own], other.value[others]

    def _kept(self, which: NDArray[Any]) -> "Series":
        return Series(self.epoch[which], self.step[which], self.value[which])


@dataclass(frozen=True)
class Trajectory:
    """A run: how it trained, and what was measured of which task.

    Attributes:
        path: The file it was read from.
        method: The multi-task method; ``STL`` for a single task.
        seed: Its seed; None where the run had none.
        trained: The tasks that it trained on.
        phase: The phase that is looked at.
        series: Measures by task and name.
    """

    path: Path
    method: str
    seed: int | None
    trained: tuple[str, ...]
    phase: str
    series: Mapping[tuple[str, str], Series]

    @property
    def single(self) -> bool:
        """Whether it trained on one task alone."""
        return len(self.trained) == 1

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it trained on and measured, in the order of ``trained``."""
        measured = {task for task, _ in self.series}
        return tuple(task for task in self.trained if task in measured)

    @property
    def last_step(self) -> int:
        """The last optimizer step at which anything was measured."""
        return max((int(series.step[-1]) for series in self.series.values()), default=0)

    def until(self, step: int) -> "Trajectory":
        """Return the run as it was up to a step; measures of which nothing is left are gone."""
        cut = {key: series.until(step) for key, series in self.series.items()}
        return replace(self, series={key: series for key, series in cut.items() if len(series.value)})


FILE = "trajectory.csv"
COLUMNS = ("method", "seed", "trained", "phase", "epoch", "step", "task", "measure", "value")
_Row: TypeAlias = tuple[str, str, str, int, int, float]  # phase, task, measure, epoch, step, value
_MORE_THAN_INT64 = 2**63


def trajectory_files(paths: Iterable[PathLike]) -> list[Path]:
    """Return the files that paths stand for, each once: files themselves, and those anywhere in folders.

    Raises:
        ConfigurationError: If there is no such file, or none in a folder.
    """
    return files_of("RUN", paths, FILE, "; runs with the callback TrajectoryLog write one")


def read_trajectories(
    paths: Iterable[PathLike], phase: str | None = None
) -> tuple[list[Trajectory], list[str]]:
    """Read runs.

    Values that are not finite are left out.

    Args:
        paths: Files, or folders with runs.
        phase: The phase to look at; by default the last of each run.

    Returns:
        The runs in the order of their files, and what is to be known of them, a line each.

    Raises:
        ConfigurationError: If there is no file, one is broken, or none has the phase.
    """
    runs: list[Trajectory] = []
    notes: list[str] = []
    known: dict[str, None] = {}
    without: list[Path] = []
    for path in trajectory_files(paths):
        head, rows = _read(path)
        phases = list(dict.fromkeys(row[0] for row in rows))
        known |= dict.fromkeys(phases)
        if phase is not None and phase not in phases:
            without.append(path)
            continue
        chosen = phases[-1] if phase is None else phase
        kept = [row for row in rows if row[0] == chosen]
        finite = [row for row in kept if isfinite(row[-1])]
        if len(finite) < len(kept):
            names = ", ".join(dict.fromkeys(row[2] for row in kept if not isfinite(row[-1])))
            notes.append(f"{path}: {len(kept) - len(finite)} values are not finite and left out ({names})")
        runs.append(Trajectory(path, *head, chosen, _series(finite)))
    if without and not runs:
        raise unknown_name("--phase", phase, known)
    if without:
        raise ConfigurationError(f"--phase {phase}: {without[0]} has no such phase; leave this run out")
    return runs, notes


def _series(rows: Iterable[_Row]) -> dict[tuple[str, str], Series]:
    """Arrange rows by task and measure, in the order of steps; of what is there twice, the later row."""
    points: dict[tuple[str, str], dict[int, tuple[int, float]]] = {}
    for _, task, measure, epoch, step, value in rows:
        points.setdefault((task, measure), {})[step] = epoch, value
    found = {}
    for key, by_step in points.items():
        steps = sorted(by_step)
        epochs, values = zip(*(by_step[step] for step in steps), strict=True)
        found[key] = Series(np.array(epochs, np.int64), np.array(steps, np.int64), np.array(values, float))
    return found


def _read(path: Path) -> tuple[tuple[str, int | None, tuple[str, ...]], list[_Row]]:
    """Return method, seed and tasks of a run, and its rows."""
    header, read = csv_rows("RUN", path)
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        first = f"its first line, {','.join(header)[:60]!r}, has no column {lacking[0]}"
        raise ConfigurationError(f"RUN {path}: is no trajectory; {first}")
    places = [header.index(name) for name in COLUMNS]
    run: tuple[str, ...] | None = None
    rows: list[_Row] = []
    for fields, number in read:
        *own, phase, epoch, step, task, measure, value = [meant(fields[place]) for place in places]
        if run is None:
            run = tuple(own)
        elif run != tuple(own):
            raise ConfigurationError(
                f"RUN {path}: line {number} is of {' '.join(own)!r}, the lines above of {' '.join(run)!r}; "
                "a file holds one run"
            )
        numbers = _whole(path, number, "epoch", epoch), _whole(path, number, "step", step)
        rows.append((phase, task, measure, *numbers, _number(path, number, value)))
    if run is None:
        raise ConfigurationError(f"RUN {path}: holds no measurement; the run ended before its first one")
    method, seed, trained = run
    tasks = tuple(name for name in trained.split("|") if name)
    if not tasks or not method:
        raise ConfigurationError(f"RUN {path}: line 2: {'method' if tasks else 'trained'} is empty")
    return (method, _whole(path, 2, "seed", seed) if seed else None, tasks), rows


def _whole(path: Path, line: int, name: str, text: str) -> int:
    number = -1
    with suppress(ValueError):
        number = int(text)
    if not 0 <= number < _MORE_THAN_INT64:
        raise ConfigurationError(f"RUN {path}: line {line}: {name} cannot be {text!r}; it is a whole number")
    return number


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        what = f"value cannot be {text!r}; it is a number"
        raise ConfigurationError(f"RUN {path}: line {line}: {what}") from None
