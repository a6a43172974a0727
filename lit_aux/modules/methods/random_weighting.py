"""Weights drawn anew in every step."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lit_aux.modules.methods.loss_weighting import LossWeighting


class RandomWeighting(LossWeighting):
    """Weighs the losses by a softmax of standard normal numbers, drawn anew for every optimizer step.

    Lin et al. 2022, "Reasonable effectiveness of random weighting" (arXiv 2111.10603): a baseline that other
    weightings should beat. The weights are multiplied by the number of tasks, so that their mean is 1, as in
    plain multi-task training.
    """

    name = "random"

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the sum of weighted losses."""
        generator = torch.Generator().manual_seed(self.seed_of_step(trainer))
        weights = torch.softmax(torch.randn(len(self.tasks), generator=generator), 0) * len(self.tasks)
        self.note(weights)
        return (weights.to(values)[rows] * values).sum()
