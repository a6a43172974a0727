"""Losses of the tasks, weighted anew in every step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lit_aux.modules.methods.task_method import TaskMethod


class LossWeighting(TaskMethod, ABC):
    """Weighs the tasks' losses; nothing but the loss changes, so that it works wherever plain training does.

    Weights are functions of the losses' means over all processes, so that every process uses the same ones
    and several processes take the step of one on the joint batch.
    """

    @abstractmethod
    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the loss of a batch.

        Args:
            values: Losses (k,) of the tasks in the batch; their gradients are those of this process's batch.
            rows: The numbers (k,) of these tasks among all.
            trainer: The Trainer.
        """

    def combine(self, losses: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """Weigh the losses."""
        values = torch.stack(list(losses.values()))
        if not values.is_floating_point() or values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        rows = torch.tensor([self.tasks.index(task) for task in losses], device=values.device)
        return self.weigh(values + self._others(values.detach(), rows, trainer), rows, trainer)

    def _others(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor | float:
        """Return what turns this process's losses into the means over all processes; it has no gradient."""
        if trainer.world_size == 1:
            return 0.0
        sums = torch.zeros(2, len(self.tasks), dtype=values.dtype, device=values.device)
        sums[0, rows], sums[1, rows] = values, 1
        torch.distributed.all_reduce(sums)
        return (sums[0] / sums[1].clamp(min=1))[rows] - values

    def spread(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return a value for every task, 0 for those that are not in the batch."""
        found = torch.zeros(len(self.tasks), dtype=torch.float64, device=values.device)
        found[rows] = values.detach().double()
        return found
