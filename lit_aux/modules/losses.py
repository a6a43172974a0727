"""The losses of a step in which targets may be missing, and how much each counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.modules.targets import Targets


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one task on one batch.

    The mean over batches of ``mean`` weighted by ``count`` is the loss of all labelled targets at once.

    Attributes:
        value: What trains, a scalar; 0, of which all outputs are part, where no target is there.
        mean: The loss for each target, detached.
        count: What ``mean`` is divided by: the number of targets that are there (of examples or of elements,
            as the loss has it), or the sum of their classes' weights.
        labelled: Whether a target is there.
        summed: Whether ``value`` is a sum over targets.
    """

    value: Tensor
    mean: Tensor
    count: Tensor | float
    labelled: bool
    summed: bool = False


def batch_loss(loss: nn.Module, outputs: Tensor, targets: Targets, *, as_given: bool = False) -> BatchLoss:
    """Compute a loss over the targets that are there.

    Args:
        loss: One of torch's, or any module that maps outputs and targets to a scalar or to one value for
            each example. The latter sees only examples with a target; what is missing within these is its
            own affair.
        outputs: (B, C, ...).
        targets: As :func:`~lit_aux.modules.targets.targets_of` returns them.
        as_given: Whether a loss that is not torch's gets outputs (B, 1) and targets (B,) as they are, and not
            both (B,).
    """
    if targets.empty:
        nothing = (outputs * 0).sum()
        return BatchLoss(nothing, torch.zeros_like(nothing.detach()), 0.0, False)
    summed = getattr(loss, "reduction", "mean") == "sum"
    count = _denominator(loss, targets)
    if targets.kind == "own":
        value = _own(loss, outputs, targets, as_given)
    elif targets.known is None and not isinstance(count, Tensor) and loss.reduction != "none":
        value = loss(outputs, targets.y)
    else:
        total = _elements(loss, outputs, targets).sum()
        value = total if summed else _divided(total, count)
    mean = _divided(value.detach(), count) if summed else value.detach()
    return BatchLoss(value, mean, count, True, summed)


def _divided(total: Tensor, count: Tensor | float) -> Tensor:
    """Return a mean; 0 of classes that all weigh nothing."""
    return total / (torch.where(count > 0, count, 1) if isinstance(count, Tensor) else count)


def _own(loss: nn.Module, outputs: Tensor, targets: Targets, as_given: bool) -> Tensor:
    if targets.flat and not as_given:
        outputs = outputs[:, 0]
    rows = targets.rows
    value: Tensor = loss(outputs, targets.y) if rows is None else loss(outputs[rows], targets.y[rows])
    return value.mean() if value.ndim else value


def _elements(loss: nn.Module, outputs: Tensor, targets: Targets) -> Tensor:
    """Return the loss of every target, 0 where it is missing; single precision at least."""
    y, known = targets.y, targets.known
    if isinstance(loss, nn.MultiLabelSoftMarginLoss):  # whose own elements are means over the labels
        found = nn.functional.binary_cross_entropy_with_logits(outputs, y, loss.weight, reduction="none")
    else:
        reduction = loss.reduction
        loss.reduction = "none"  # type: ignore[assignment]
        try:
            found = loss(outputs, y)
        finally:
            loss.reduction = reduction
    found = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
    if known is None:
        return found
    return torch.where(known if known.ndim == found.ndim else known.all(1), found, 0)


def _denominator(loss: nn.Module, targets: Targets) -> Tensor | float:
    """Return what a mean over the targets that are there is divided by, as torch has it."""
    y, known = targets.y, targets.known
    weight = getattr(loss, "weight", None)
    if targets.kind == "classes" and isinstance(weight, Tensor) and not isinstance(loss, nn.MultiMarginLoss):
        weights = weight[y]
        return (weights if known is None else torch.where(known, weights, 0)).sum()
    if targets.kind == "distributions":
        if not isinstance(loss, nn.KLDivLoss):  # one distribution, one loss
            y, known = y[:, 0], None if known is None else known[:, 0]
        elif loss.reduction != "mean":  # one example, one loss
            y, known = y.flatten(1)[:, 0], targets.rows
    return y.numel() if known is None else known.sum()


class JointLosses:
    """The losses of one step.

    Data-parallel training takes the mean over processes of their gradients. Where they hold different numbers
    of labels, their losses are multiplied by their share of these, times processes, so that the mean is the
    gradient of the joint batch.

    Args:
        losses: Those of the tasks in this process's batch.
        tasks: All tasks of the module.
        trainer: The Trainer; its processes all have to do this.

    Attributes:
        values: What trains for each task.
    """

    def __init__(self, losses: Mapping[str, BatchLoss], tasks: Sequence[str], trainer: Trainer) -> None:
        self._losses, self._tasks = losses, list(tasks)
        self._totals: Tensor | None = None
        self.values = {task: loss.value for task, loss in losses.items()}
        if trainer.world_size > 1:
            self._share(trainer.world_size)

    def _share(self, processes: int) -> None:
        device = next(iter(self.values.values())).device
        counts = torch.zeros(len(self._tasks), dtype=torch.float64, device=device)
        for task, loss in self._losses.items():
            counts[self._tasks.index(task)] = loss.count
        self._totals = counts.clone()
        torch.distributed.all_reduce(self._totals)
        shares = counts * processes / torch.where(self._totals > 0, self._totals, 1)
        for task, loss in self._losses.items():
            if loss.labelled and not loss.summed:
                share = shares[self._tasks.index(task)]
                self.values[task] = loss.value * share.to(loss.value.dtype)

    def labelled(self) -> set[str]:
        """Return the tasks in the batch of which any process has a label; the same set on all of them."""
        if self._totals is None:
            return {task for task, loss in self._losses.items() if loss.labelled}
        totals = dict(zip(self._tasks, self._totals.tolist(), strict=True))
        return {task for task in self._losses if totals[task] > 0}

    def weighted(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Return what trains for each task, times the weight of its loss."""
        return {task: weights.get(task, 1.0) * value for task, value in self.values.items()}

    def mean(self, weights: Mapping[str, float]) -> tuple[Tensor, Tensor | float]:
        """Return the weighted sum of this process's means, and how many labels they are of."""
        terms = [weights.get(task, 1.0) * loss.mean for task, loss in self._losses.items()]
        counts = [loss.count for loss in self._losses.values()]
        return sum(terms[1:], terms[0]), sum(counts[1:], counts[0])
