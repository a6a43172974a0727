"""A number of single-task runs against that of multi-task runs, and what a change of factors explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Literal

from lit_aux.results.means import Stat, mean_of
from lit_aux.results.significance import FEWEST


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
    def single(self) -> Stat:
        """Mean over the single-task runs."""
        return mean_of([value for _, value in self.single_runs])

    @property
    def multi(self) -> Stat:
        """Mean over the multi-task runs."""
        return mean_of([value for _, value in self.multi_runs])

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
        return mean_of(pairs).two_sd if pairs else nan

    @property
    def significant(self) -> bool:
        """Whether the two intervals of two standard deviations do not overlap, of three runs or more each."""
        return self.known and bool(
            apart(self.single.mean, self.single.two_sd, self.multi.mean, self.multi.two_sd)
        )

    @property
    def known(self) -> bool:
        """Whether there are three runs of either kind, so that significance can be judged."""
        return isfinite(self.reach) and min(self.single.seeds, self.multi.seeds) >= FEWEST


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
