"""What metrics have in common whose states are float64."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torchmetrics import Metric


class DoublePrecisionMetric(Metric):
    """Keeps its states in float64, whatever dtype the module that owns it is cast to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Follow moves to another device, but stay in float64."""

        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return tensor if device.type == "mps" else tensor.to(device)  # MPS has no float64

        super()._apply(move, exclude_state)
        return self
