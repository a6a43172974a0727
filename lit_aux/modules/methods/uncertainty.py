"""Weights from learned uncertainties."""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.modules.methods.loss_weighting import LossWeighting


class UncertaintyWeighting(LossWeighting):
    """Learns each task's log variance s with the weights: the loss is the sum of exp(-s) L + s/2.

    Kendall, Gal & Cipolla 2018, "Multi-task learning using uncertainty to weigh losses" (arXiv 1705.07115,
    equation 10); regression with ``nn.MSELoss`` has exp(-s) L / 2 + s/2 (equation 5). The phase's optimizer
    trains the log variances, which start at 0; its weight decay pulls them back there.

    Attributes:
        log_variance: One a task.
    """

    name = "uncertainty"

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(0))
        self._factors: list[float] = []

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Give each task a log variance."""
        super().configure(tasks, losses)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))
        self._factors = [0.5 if isinstance(losses[task], nn.MSELoss) else 1.0 for task in tasks]

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with equal weights."""
        self.log_variance.zero_()

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the sum of weighted losses and penalties."""
        factors = torch.tensor(self._factors, device=values.device, dtype=values.dtype)
        weights = factors * torch.exp(-self.log_variance.to(values.dtype))
        self.note(weights)
        return (weights[rows] * values + self.log_variance[rows] / 2).sum()
