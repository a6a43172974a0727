"""What a module says by its outputs, and the module that says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a module says of a batch of a task.

    Attributes:
        outputs: As the network gives them, (B, C, ...).
        predictions: Numbers of classes, int64 (B, ...); or an answer for each output, (B, C, ...), without
            the dimension of outputs where there is one.
        probabilities: Of each class, (B, C, ...), or that the answer of an output is 1; None where outputs
            are no likelihoods.
        labels: In the shape of the predictions, -100 or NaN where there is none; None without labels.
        of_classes: Whether predictions are numbers of classes.
    """

    outputs: Tensor
    predictions: Tensor
    probabilities: Tensor | None
    labels: Tensor | None
    of_classes: bool


@runtime_checkable
class Answering(Protocol):
    """A module that knows what its outputs mean.

    Attributes:
        tasks: Number of outputs of each task.
    """

    tasks: Mapping[str, int]

    def answers(self, task: str, outputs: Tensor, y: Any = None) -> Answers:
        """Return what outputs of a task say, and the labels in the same form."""
