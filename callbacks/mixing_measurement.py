"""One number about one task at one mixture of two sets of weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MixingMeasurement:
    """A measure of one task at one mixing weight; a row of ``wise_ft.csv``.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        mixing: 0 for the weights before the fit, 1 for those after.
        task: The task's name.
        measure: Such as ``"val_accuracy"`` or ``"test_loss"``.
        value: Its value.
    """

    phase: str
    mixing: float
    task: str
    measure: str
    value: float
