"""What is asked of a figure of results."""

from dataclasses import dataclass
from typing import Literal

from lit_aux.figures.curves import Mean

AUTO = -1


@dataclass(frozen=True)
class Request:
    """How curves are made from rows."""

    value: Literal["loss_best", "loss_final"] = "loss_best"
    """The loss of students that is drawn."""
    mean: Mean = "geometric"
    baseline: int | None = AUTO
    """The n_main of the single-task run by which ReLU students' losses are divided: the smallest by default;
    None for the losses themselves."""
