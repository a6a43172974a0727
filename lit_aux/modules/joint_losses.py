"""The losses of a step's tasks, each a mean over the labels of all processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.modules.losses import BatchLoss


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

    def mean(self, weights: Mapping[str, float]) -> tuple[Tensor, Tensor | float]:
        """Return the weighted sum of this process's means, and how many labels they are of."""
        terms = [weights.get(task, 1.0) * loss.mean for task, loss in self._losses.items()]
        counts = [loss.count for loss in self._losses.values()]
        return sum(terms[1:], terms[0]), sum(counts[1:], counts[0])


def warn_of_unlabelled(module: Any, tasks: Sequence[str], warned: set[str]) -> None:
    """Say once of each task that no process has seen a label of it in an epoch that has just ended.

    Args:
        module: A module with ``evaluation``.
        tasks: The tasks that train.
        warned: Those of which it has been said.
    """
    counts = torch.stack([module.evaluation.means[f"train/{task}"].count for task in tasks])
    if module.trainer.world_size > 1:
        counts = module.trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")
    for task, count in zip(tasks, counts.tolist(), strict=True):
        if count == 0 and task not in warned:
            warned.add(task)
            rank_zero_warn(
                f"task {task!r} had no label in epoch {module.trainer.current_epoch}: its training measures "
                "of such an epoch say nothing"
            )
