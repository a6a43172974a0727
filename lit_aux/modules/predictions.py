"""What the outputs of a network say: classes, yes or no, values; and how likely that is."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_aux.functional._labels import MISSING
from lit_aux.modules.scoring import classification
from lit_aux.modules.targets import Kind, Targets, kind_of
from lit_aux.phases.answers import Answers


def predictions_of(
    loss: nn.Module, outputs: Tensor, metrics: Iterable[Metric] = ()
) -> tuple[Tensor, Tensor | None, bool]:
    """Return what outputs say, by what their loss takes for targets.

    Classes are the largest output, shares are yes where they are above 1/2, signs those of the outputs, and
    values stay as they are (of ``PoissonNLLLoss``, which takes their logarithm, the counts).

    Args:
        loss: The task's loss. One that is nobody's but the user's takes what the metrics compare.
        outputs: (B, C, ...).
        metrics: The task's metrics.

    Returns:
        Predictions: numbers of classes, int64 (B, ...), else one for each output, (B, C, ...). Probabilities
        (B, C, ...) in single precision at least: of each class, or that a share is 1 or a sign positive; None
        for values, distances (``HingeEmbeddingLoss``) and scores (``MultiMarginLoss``). Whether predictions
        are numbers of classes.
    """
    kind = _kind(loss, metrics)
    numbers = outputs if outputs.dtype == torch.float64 else outputs.float()
    if kind in ("classes", "distributions"):
        scores = isinstance(loss, nn.MultiMarginLoss)
        return numbers.argmax(1), None if scores else numbers.softmax(1), True
    if kind == "shares":
        shares = numbers if isinstance(loss, nn.BCELoss) else numbers.sigmoid()
        return (shares > 0.5).long(), shares, False
    if kind == "signs" and not isinstance(loss, nn.HingeEmbeddingLoss):
        return torch.where(numbers > 0, 1, -1), numbers.sigmoid(), False
    if isinstance(loss, nn.PoissonNLLLoss) and loss.log_input:
        return numbers.exp(), None, False
    return numbers, None, False


def answers_of(
    loss: nn.Module, outputs: Tensor, targets: Targets | None, metrics: Iterable[Metric] = ()
) -> Answers:
    """Return predictions and probabilities, and labels in the shape of the predictions.

    Args:
        loss: The task's loss.
        outputs: (B, C, ...).
        targets: As the loss takes them; None for none. Of a loss that is nobody's but the user's they are
            taken for labels where there are as many as predictions, and left out elsewhere.
        metrics: The task's metrics.
    """
    predictions, probabilities, of_classes = predictions_of(loss, outputs, metrics)
    labels = None if targets is None else _labels(targets, predictions)
    if not of_classes and outputs.shape[1] == 1:
        predictions = predictions[:, 0]
        labels = None if labels is None else labels[:, 0]
    return Answers(outputs, predictions, probabilities, labels, of_classes)


def _kind(loss: nn.Module, metrics: Iterable[Metric]) -> Kind:
    kind = kind_of(loss)
    if kind != "own":
        return kind
    compared = {classification(metric) for metric in metrics}
    if "Multiclass" in compared:
        return "classes"
    return "shares" if compared & {"Binary", "Multilabel"} else "values"


def _labels(targets: Targets, predictions: Tensor) -> Tensor | None:
    y, known = targets.y, targets.known
    if targets.kind == "distributions":
        y, known = y.argmax(1), None if known is None else known[:, 0]
    if y.numel() != predictions.numel():
        return None
    y = y.reshape(predictions.shape)
    if known is None:
        return y
    return y.masked_fill(~known.reshape(y.shape), torch.nan if y.is_floating_point() else MISSING)
