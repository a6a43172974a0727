"""The test metric of two kinds of runs at the same training loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_aux.results.significance import FEWEST
from lit_aux.trajectories.contrast import apart
from lit_aux.trajectories.reading import Floats

LossPath: TypeAlias = tuple[Floats, Floats]
"""Falling training losses, and the test metric at each."""
POINTS = 201


@dataclass(frozen=True)
class Band:
    """Test metric by training loss over several runs.

    Attributes:
        loss: Training losses, falling, evenly spaced in their logarithm.
        runs: The metric of each run at each of them; runs x losses.
    """

    loss: Floats
    runs: Floats

    @property
    def mean(self) -> Floats:
        """The mean over the runs."""
        return np.asarray(self.runs.mean(axis=0))

    @property
    def two_sd(self) -> Floats:
        """Twice the standard deviation over the runs; NaN for one run."""
        if len(self.runs) < 2:
            return np.full(self.runs.shape[1], np.nan)
        return np.asarray(2 * self.runs.std(axis=0, ddof=1))

    @property
    def averages(self) -> Floats:
        """The mean of each run over the log loss."""
        return np.asarray((self.runs[:, 1:] + self.runs[:, :-1]).mean(axis=1) / 2)  # trapezoids


@dataclass(frozen=True)
class Gap:
    """Multi-task against single-task runs over the losses that all of them passed through.

    Attributes:
        single: The single-task runs.
        multi: The multi-task runs, at the same losses.
    """

    single: Band
    multi: Band

    @property
    def losses(self) -> tuple[float, float]:
        """The largest and the smallest loss that is compared."""
        return float(self.single.loss[0]), float(self.single.loss[-1])

    @property
    def difference(self) -> Floats:
        """How much higher the metric of multi-task runs is at each loss."""
        return self.multi.mean - self.single.mean

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Where the intervals of two standard deviations do not overlap, of three runs or more each."""
        single, multi = self.single, self.multi
        known = min(len(single.runs), len(multi.runs)) >= FEWEST
        return known & np.asarray(apart(single.mean, single.two_sd, multi.mean, multi.two_sd))

    @property
    def share_higher(self) -> float:
        """The part of the range, in log loss, where multi-task runs are significantly higher."""
        return float(np.mean(self.significant & (self.difference > 0)))

    @property
    def share_lower(self) -> float:
        """The part of the range, in log loss, where multi-task runs are significantly lower."""
        return float(np.mean(self.significant & (self.difference < 0)))


def path_of(loss: ArrayLike, metric: ArrayLike) -> LossPath:
    """Return a run's test metric along its falling training loss.

    Loss is not monotone: an epoch counts if its loss is below that of every epoch before (a running minimum).
    Losses of 0 have no logarithm and are left out.

    Args:
        loss: Training loss by epoch.
        metric: Test metric at the same epochs.
    """
    losses, metrics = np.asarray(loss, float), np.asarray(metric, float)
    positive = losses > 0
    losses, metrics = losses[positive], metrics[positive]
    lowest = np.minimum.accumulate(losses)
    new = np.append(True, lowest[1:] < lowest[:-1])[: len(losses)]
    return losses[new], metrics[new]


def overlap(paths: Sequence[LossPath]) -> tuple[float, float] | None:
    """Return the largest and the smallest loss that all paths pass through; None where there is no range."""
    if not paths or any(len(loss) == 0 for loss, _ in paths):
        return None
    high, low = min(loss[0] for loss, _ in paths), max(loss[-1] for loss, _ in paths)
    return (float(high), float(low)) if high > low else None


def band(paths: Sequence[LossPath], losses: tuple[float, float], points: int = POINTS) -> Band:
    """Interpolate paths linearly in log loss, from the largest to the smallest of two losses."""
    grid = np.linspace(np.log(losses[0]), np.log(losses[1]), points)
    runs = [np.interp(grid, np.log(loss[::-1]), metric[::-1]) for loss, metric in paths]
    return Band(np.exp(grid), np.array(runs))


def gap(single: Sequence[LossPath], multi: Sequence[LossPath], points: int = POINTS) -> Gap | None:
    """Compare runs at equal training loss.

    Source: Mueller, Dredze, Andrews, arXiv 2408.14677: the generalization gap between two trajectories.

    Args:
        single: Of :func:`path_of`, one a single-task run.
        multi: Likewise of multi-task runs.
        points: How many losses.

    Returns:
        The comparison; None where the two kinds of runs have no range of losses in common.
    """
    losses = overlap([*single, *multi])
    return None if losses is None else Gap(band(single, losses, points), band(multi, losses, points))
