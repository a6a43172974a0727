"""A number of single-task runs against that of multi-task runs, and what a change of factors explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean, stdev
from typing import Any, Literal


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


Values = Sequence[tuple[int | None, float]]
"""Seed (None where a run had none) and value of each run."""


@dataclass(frozen=True)
class Contrast:
    """A number of every run, of one task.

    Attributes:
        single_runs: Of the single-task runs.
        multi_runs: Of the multi-task runs.
    """

    single_runs: Values
    multi_runs: Values

    @property
    def single(self) -> Spread:
        """Mean and two standard deviations over the single-task runs."""
        return spread_of([value for _, value in self.single_runs])

    @property
    def multi(self) -> Spread:
        """Mean and two standard deviations over the multi-task runs."""
        return spread_of([value for _, value in self.multi_runs])

    @property
    def change(self) -> float:
        """How much more it is in multi-task runs: the difference of the means."""
        return self.multi.mean - self.single.mean

    @property
    def reach(self) -> float:
        """The change by which the intervals just touch; NaN where one of them is not known."""
        return self.single.two_sd + self.multi.two_sd

    @property
    def paired_two_sd(self) -> float:
        """Two standard deviations of the differences by seed; NaN with fewer than two seeds in common."""
        single = {seed: value for seed, value in self.single_runs if seed is not None}
        pairs = [value - single[seed] for seed, value in self.multi_runs if seed in single]
        return spread_of(pairs).two_sd if pairs else nan

    @property
    def significant(self) -> bool:
        """Whether the two intervals of two standard deviations do not overlap."""
        return bool(apart(self.single.mean, self.single.two_sd, self.multi.mean, self.multi.two_sd))

    @property
    def known(self) -> bool:
        """Whether there are two runs of either kind, so that significance can be judged."""
        return isfinite(self.reach)


# Whether the change of a factor has the sign that would explain a transfer


Verdict = Literal["explains", "contradicts", "insignificant"]
VERDICTS: tuple[Verdict, ...] = ("explains", "contradicts", "insignificant")
CAUTION = (
    "The factors are diagnostic, not predictive: a sign that fits is no cause, and where many tasks and "
    "factors are compared some signs fit by chance. Mueller et al. (arXiv 2408.14677) find that none of them "
    "explains multi-task transfer."
)


def judge(change: Contrast, transfer: Contrast, sign: int, higher: bool) -> Verdict:
    """Return what a factor's change says of a task's transfer.

    Args:
        change: The factor in single-task and multi-task runs.
        transfer: The test metric in the same runs.
        sign: -1 where a lower factor is said to generalize better, 1 where a higher one is.
        higher: Whether more of the test metric is better.
    """
    if not (change.significant and transfer.significant):
        return "insignificant"
    promised = change.change * sign > 0
    better = (transfer.change > 0) == higher
    return "explains" if promised == better else "contradicts"


def missing(change: Contrast, transfer: Contrast) -> str:
    """Return which of the two differences is not significant, in words; nothing where both are."""
    parts = {"transfer": transfer.significant, "change": change.significant}
    return " and ".join(name for name, significant in parts.items() if not significant)
