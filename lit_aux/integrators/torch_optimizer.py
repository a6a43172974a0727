"""Any optimizer of torch over the parameters of many replicas."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.integrators.descent import Descent
from lit_aux.integrators.state import IntegratorState


class TorchOptimizer(Descent):
    """Full- or mini-batch steps of an optimizer of torch that treats each weight by itself (SGD, Adam, ...).

    Args:
        optimizer: Builds it from the parameters; its own learning rate is the one at the start.
        **kwargs: As for :class:`Descent`.
    """

    def __init__(self, optimizer: Callable[[Iterable[Tensor]], Optimizer], **kwargs: Any) -> None:
        built = optimizer([nn.Parameter(torch.zeros(1, 1))])
        super().__init__(float(built.defaults["lr"]), **kwargs)
        self.name = type(built).__name__.lower()
        self.optimizer = optimizer

    def _move(self, state: IntegratorState, moving: NDArray[np.bool_]) -> None:
        """Step each replica with an optimizer of its own, so that rates and moments stay apart."""
        y, f = state.work["y"], state.work["f"]
        for place in np.flatnonzero(moving):
            row = y[place : place + 1]
            parameter, optimizer = self._own(state, int(place))
            parameter.data.copy_(row)
            parameter.grad = f[place : place + 1].clone()
            optimizer.step()
            row.copy_(parameter.detach())

    def _own(self, state: IntegratorState, place: int) -> tuple[nn.Parameter, Optimizer]:
        """Return a replica's parameter and optimizer; what was saved of the latter is restored into it."""
        replica = int(state.rows[place])
        if replica not in state.optimizers:
            parameter = nn.Parameter(state.work["y"][place : place + 1].clone())
            optimizer = self.optimizer([parameter])
            for group in optimizer.param_groups:
                group["lr"] *= float(state.control["lr"][place]) / self.lr
            if replica in state.saved_optimizers:
                optimizer.load_state_dict(deepcopy(state.saved_optimizers.pop(replica)))
            state.optimizers[replica] = (parameter, optimizer)
        return state.optimizers[replica]

    def _forget(self, state: IntegratorState, rows: NDArray[np.int64]) -> None:
        for replica in state.rows[rows]:
            state.optimizers.pop(int(replica), None)
            state.saved_optimizers.pop(int(replica), None)
