"""One number about one task at one moment of a fit."""

from dataclasses import dataclass
from typing import ClassVar


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
        note: Why there is no value; empty but for a :class:`FailedMeasurement`.
    """

    phase: str
    epoch: int
    step: int
    task: str
    measure: str
    value: float
    note: ClassVar[str] = ""


@dataclass(frozen=True)
class FailedMeasurement(TaskMeasurement):
    """A row that says that a measure of a task could not be taken.

    Attributes:
        note: Why there is no value.
    """

    note: str  # type: ignore[misc]
