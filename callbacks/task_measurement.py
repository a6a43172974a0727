"""One number about one task at one moment of a fit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskMeasurement:
    """A measure of one task; the columns of ``trajectory.csv`` that differ within a run.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        epoch: Epochs of this fit that were done; 0 before the first.
        step: Optimizer steps of this fit up to then.
        task: The task's name.
        measure: The measure's name, such as ``"sharpness"`` or ``"train_loss"``.
        value: Its value; NaN where measuring failed.
        note: Why there is no value; mostly empty.
    """

    phase: str
    epoch: int
    step: int
    task: str
    measure: str
    value: float
    note: str = ""
