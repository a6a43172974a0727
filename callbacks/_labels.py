"""Which targets of anybody's batch are there."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.modules.loss import _Loss

from lit_aux.functional._labels import known_labels


def labels_in(module: LightningModule | None, y: Tensor, task: str | None = None) -> Tensor:
    """Return which targets are there, bool in the shape of ``y``.

    The module's ``task_labels(task, y)`` says it; else NaN is missing, and so are the class numbers -100 and
    the ``ignore_index`` of the module's losses.

    Args:
        module: The module of a fit.
        y: Targets.
        task: The task whose they are, where it is known.
    """
    own = getattr(module, "task_labels", None)
    if task is not None and callable(own):
        known: Tensor = own(task, y)
        return known
    known = known_labels(y)
    if not y.is_floating_point() and module is not None:
        losses = [part for part in module.modules() if isinstance(part, _Loss)]
        for number in {getattr(loss, "ignore_index", None) for loss in losses} - {None}:
            known = known & (y != number)
    return known


def labelled_rows(module: LightningModule | None, task: str, batch: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the examples ``(x, y)`` of a batch of one task that have a target."""
    y = batch[1]
    if not isinstance(y, Tensor) or not y.ndim:
        return batch
    rows = labels_in(module, y, task).reshape(len(y), -1).any(1)
    if bool(rows.all()):
        return batch
    x, y = apply_to_collection(batch, Tensor, lambda tensor: tensor[rows.to(tensor.device)])
    return x, y
