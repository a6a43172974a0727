"""One measure of one task, followed over training."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
