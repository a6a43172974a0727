"""One number that a callback has read off the weights, a replica at a time."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightMeasurement:
    """A measure of one layer at one moment of a fit.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        step: The optimizer steps of this fit up to then, as loggers count them.
        epoch: The epochs of this fit up to then; 0 before the first.
        layer: The layer's name.
        measure: The measure's name: ``"inertia_k6"``, say.
        values: One value a replica; a single one where the weights have no replica axis. NaN where the
            measure is not defined.
        note: Why there is no value; mostly empty.
    """

    phase: str
    step: int
    epoch: int
    layer: str
    measure: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def value(self) -> float:
        """The mean over the replicas for which the measure is defined; NaN if there is none."""
        known = [value for value in self.values if not math.isnan(value)]
        return math.fsum(known) / len(known) if known else math.nan
