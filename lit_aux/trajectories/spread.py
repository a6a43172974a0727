"""A mean over runs and the interval of two standard deviations around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A mean over runs, and how far they scatter.

    Attributes:
        mean: The mean.
        two_sd: Twice the standard deviation (divisor n - 1) over the runs; NaN for one run.
        count: How many runs.
    """

    mean: float
    two_sd: float
    count: int


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and two standard deviations of values, one a run."""
    return Spread(fmean(values), 2 * stdev(values) if len(values) > 1 else nan, len(values))


def apart(mean: Any, two_sd: Any, other_mean: Any, other_two_sd: Any) -> Any:
    """Return where two intervals do not overlap: numbers or arrays.

    The rule of Mueller et al. (arXiv 2408.14677) for a difference that is significant. An interval that is
    not known (NaN: of one run) overlaps with every other.
    """
    return abs(mean - other_mean) > two_sd + other_two_sd
