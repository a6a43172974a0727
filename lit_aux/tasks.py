"""What a task is: its kind, and all that follows from it or is said in its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import WHOLE, check

if TYPE_CHECKING:  # which takes as long to import as all that is imported here
    from torchmetrics import Metric

Kind = Literal["classification", "multilabel", "regression", "tokens", "dense"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass
class Task:
    """A task: what its labels are, and so its loss, metrics and head.

    ========================  =========================  ================  ======================  =========
    kind                      targets                    outputs           loss                    metrics
    ========================  =========================  ================  ======================  =========
    ``classification``        numbers of classes (B,)    (B, C)            cross-entropy           accuracy
    ``multilabel``            yes or no (B, C)           (B, C)            binary cross-entropy    f1
    ``regression``            values (B, C) or (B,)      (B, C)            mean squared error      r2, mae
    ``tokens``                numbers of classes (B, T)  (B, C, T)         cross-entropy           accuracy
    ``dense``                 classes (B, H, W)          (B, C, H, W)      cross-entropy           iou,
                                                                                                   accuracy
    ========================  =========================  ================  ======================  =========

    Missing targets (-100 among whole numbers, NaN among floats) are left out of loss and metrics.

    Args:
        outputs: Number of outputs C: classes, labels or values.
        kind: What its targets are.
        loss: In place of the kind's own.
        metrics: torchmetrics by name, in place of the kind's own.
        head: What maps the features, as the backbone returns them, to outputs; by default a linear layer: on
            the features of an example, of each token, or of each pixel of a feature map, whose outputs are
            then enlarged to the size of the input.
        class_weights: Weight of each class in the loss; of ``multilabel``, that of a yes beside a no.
        ignore: A number that stands for a missing target, beside -100 and NaN.

    Raises:
        ConfigurationError: For an unknown kind, no number of outputs, or weights that do not fit the kind.

    Example:
        >>> from lit_aux.tasks import Task
        >>> Task(1, kind="regression").build_loss()
        MSELoss()
    """

    outputs: int
    kind: Kind = "classification"
    loss: nn.Module | None = None
    metrics: "dict[str, Metric] | None" = None
    head: nn.Module | None = None
    class_weights: list[float] | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        check_known("kind", self.kind, KINDS)
        check("outputs", self.outputs, WHOLE)
        weights = self.class_weights
        if weights is None:
            return
        if self.loss is not None:
            raise ConfigurationError("class_weights: give them to the loss that is given, as its weight")
        if self.kind == "regression":
            raise ConfigurationError("class_weights: kind 'regression' has no classes; leave them out")
        if len(weights) != self.outputs:
            raise ConfigurationError(
                f"class_weights: {len(weights)} for {self.outputs} outputs; give one for each"
            )
        if not all(isinstance(w, int | float) and 0 <= w < float("inf") for w in weights):
            raise ConfigurationError(f"class_weights: {weights} must be finite and at least 0")

    def build_loss(self) -> nn.Module:
        """Return the loss: the one that was given, else that of the kind."""
        if self.loss is not None:
            return self.loss
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, dtype=torch.float)
        if self.kind == "regression":
            return nn.MSELoss()
        if self.kind == "multilabel":
            return nn.BCEWithLogitsLoss(pos_weight=weights)
        return nn.CrossEntropyLoss(weight=weights)

    def without_ignored(self, y: Tensor) -> Tensor:
        """Return targets in which what is to be ignored is missing as it is elsewhere: -100 or NaN."""
        if self.ignore is None:
            return y
        ignored = y == self.ignore
        if y.is_floating_point():
            return torch.where(ignored, torch.full_like(y, torch.nan), y)
        if self.kind == "regression":
            return torch.where(ignored, torch.nan, y.float())
        return torch.where(ignored, -100, y.long())


def described(tasks: Mapping[str, int | Task]) -> dict[str, Task]:
    """Return tasks whose short form, a number of classes, is written out.

    A number stands for a classification, unless the loss says otherwise: a module may be given losses beside
    short forms.

    Raises:
        ConfigurationError: For what is neither a number nor a task.
    """
    found: dict[str, Task] = {}
    for name, task in tasks.items():
        if not isinstance(task, Task):
            check(f"tasks: outputs of {name!r}", [task], WHOLE)
        found[name] = task if isinstance(task, Task) else Task(task)
    return found


def tasks_of(data: Any) -> dict[str, int | Task] | None:
    """Return what each task is, or its number of classes, as a data module has it; None if it has neither."""
    found: dict[str, int | Task] | None = getattr(data, "task_types", None)
    return found or getattr(data, "num_classes", None)


def outputs_of(tasks: Mapping[str, Any]) -> dict[str, int]:
    """Return each task's number of outputs."""
    return {name: task.outputs if isinstance(task, Task) else task for name, task in tasks.items()}
