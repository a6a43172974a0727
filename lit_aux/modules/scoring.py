"""Metrics of targets that may be missing."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, regression
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
    MultilabelAccuracy,
    MultilabelF1Score,
)

from lit_aux.errors import ConfigurationError
from lit_aux.functional._labels import MISSING
from lit_aux.metrics import R2Score
from lit_aux.modules.targets import Targets, kind_of
from lit_aux.tasks import Task

_BY_ELEMENT = (
    *(regression.MeanAbsoluteError, regression.MeanAbsolutePercentageError),
    *(regression.MeanSquaredError, regression.MeanSquaredLogError),
    *(regression.SymmetricMeanAbsolutePercentageError, regression.WeightedMeanAbsolutePercentageError),
)
"""Sums over elements, wherever these stand."""
_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.SoftMarginLoss)


def metrics_of(task: Task, loss: nn.Module, metrics: Mapping[str, Metric] | None) -> nn.ModuleDict:
    """Return copies of metrics; by default what fits the task's kind and its loss.

    Of classes that is accuracy, of each token or pixel too; per pixel the mean intersection over union
    (``iou``) as well. Several labels an example have their F1, the mean over labels. Values have R2 and the
    mean absolute error, ``mae``. A task that is told by its loss alone has accuracy of yes and no for each
    output where the loss takes these; of distances (``HingeEmbeddingLoss``) nothing is measured.
    """
    found = _defaults(task, loss) if metrics is None else metrics
    copies = {name: deepcopy(metric) for name, metric in found.items()}
    for metric in copies.values():
        # on every process alike, whether or not it will see that one of several bits is missing
        if classification(metric) in ("Binary", "Multilabel") and getattr(metric, "ignore_index", 0) is None:
            metric.ignore_index = MISSING
    return nn.ModuleDict(copies)


def _defaults(task: Task, loss: nn.Module) -> dict[str, Metric]:
    kind, outputs = kind_of(loss), task.outputs
    if kind == "values":
        mae = regression.MeanAbsoluteError()
        return {"r2": R2Score(outputs), "mae": mae} if task.kind == "regression" else {"mae": mae}
    if isinstance(loss, nn.HingeEmbeddingLoss):
        return {}
    if kind in ("shares", "signs"):
        return _of_labels(task.kind == "multilabel", outputs)
    if kind == "own" and task.kind == "regression":
        return {"r2": R2Score(outputs), "mae": regression.MeanAbsoluteError()}
    if kind == "own" and task.kind == "multilabel":
        return _of_labels(True, outputs)
    accuracy = MulticlassAccuracy(num_classes=outputs, average="micro")
    if task.kind == "dense":
        return {"iou": MulticlassJaccardIndex(num_classes=outputs, average="macro"), "accuracy": accuracy}
    return {"accuracy": accuracy}


def _of_labels(f1: bool, outputs: int) -> dict[str, Metric]:
    """Return the metrics of yes and no for each output."""
    if f1:
        return {"f1": BinaryF1Score() if outputs == 1 else MultilabelF1Score(outputs, average="macro")}
    if outputs == 1:
        return {"accuracy": BinaryAccuracy()}
    return {"accuracy": MultilabelAccuracy(num_labels=outputs, average="micro")}


def classification(metric: Metric) -> str:
    """Return ``Binary``, ``Multiclass`` or ``Multilabel`` for torchmetrics' metrics of classes, else ""."""
    return _classification(type(metric))


@cache
def _classification(metric: type[Metric]) -> str:
    if not metric.__module__.startswith("torchmetrics.classification"):
        return ""
    names = [base.__name__ for base in metric.__mro__]
    kinds = ("Binary", "Multiclass", "Multilabel")
    return next((kind for kind in kinds if any(name.startswith(kind) for name in names)), "")


def score(metric: Metric, loss: nn.Module, outputs: Tensor, targets: Targets, *, as_given: bool) -> None:
    """Add the targets that are there to a metric.

    torchmetrics' own metrics of classes get targets as whole numbers, and probabilities where the loss takes
    logits of yes and no (left to themselves they would take logits that all lie between 0 and 1 for
    probabilities). Other metrics get the targets as the loss does.

    Args:
        metric: Any metric.
        loss: The loss of the task.
        outputs: (B, C, ...), detached.
        targets: Those of the loss.
        as_given: Whether the metric gets outputs (B, 1) and targets (B,) as they are, and not both (B,).

    Raises:
        ConfigurationError: If parts of an example's targets are missing, and the metric cannot leave out
            parts.
    """
    if targets.empty:
        return
    y, known, over_classes = targets.y, targets.known, False
    if kind := classification(metric):
        outputs, y, over_classes = _as_classes(kind, loss, outputs, targets)
        known = known[:, 0] if known is not None and over_classes else known
    if targets.flat:
        y = y.reshape(-1)
        known = None if known is None else known.reshape(-1)
        outputs = outputs if as_given else outputs[:, 0]
    if known is None:
        metric.update(outputs.contiguous(), y.contiguous())  # one task of a readout of several
        return
    flat = known.reshape(len(known), -1)
    rows, whole = flat.any(1), flat.all(1)
    outputs, y, known, whole = outputs[rows], y[rows], known[rows], whole[rows]
    if bool(whole.all()):
        metric.update(outputs, y)
    else:
        _score_parts(metric, outputs, y, known)


def _as_classes(kind: str, loss: nn.Module, outputs: Tensor, targets: Targets) -> tuple[Tensor, Tensor, bool]:
    """Return outputs and whole targets for a metric of classes, and whether classes were compared."""
    y = targets.y
    if targets.kind == "distributions" and kind == "Multiclass":
        return outputs, y.argmax(1), True
    if targets.kind in ("shares", "signs") and kind != "Multiclass":
        outputs = outputs.float().sigmoid() if isinstance(loss, _LOGITS) else outputs
        return outputs, (y > (0.5 if targets.kind == "shares" else 0)).long(), False
    return outputs, y, False


def _score_parts(metric: Any, outputs: Tensor, y: Tensor, known: Tensor) -> None:
    """Leave out elements, by the metric's own means or by taking those that are there."""
    if getattr(metric, "takes_missing", False):
        metric.update(outputs, torch.where(known, y, torch.nan))
    elif hasattr(metric, "ignore_index"):
        if metric.ignore_index is None:
            metric.ignore_index = MISSING
        metric.update(outputs, torch.where(known, y, torch.full_like(y, metric.ignore_index)))
    elif isinstance(metric, _BY_ELEMENT) and getattr(metric, "num_outputs", 1) == 1:
        metric.update(outputs[known], y[known])
    else:
        raise ConfigurationError(
            "cannot leave out parts of an example's targets; use a metric that has an ignore_index"
        )
