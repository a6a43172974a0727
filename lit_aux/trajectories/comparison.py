"""One number of single-task runs against that of multi-task runs, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

from lit_aux.trajectories.spread import Spread, apart, spread_of

Values = Sequence[tuple[int | None, float]]
"""Seed (None where a run had none) and value of each run."""


@dataclass(frozen=True)
class Comparison:
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
