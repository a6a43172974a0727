"""Gradient descent with a fixed step, many replicas at once."""

import numpy as np
import torch
from numpy.typing import NDArray

from lit_aux.integrators.descent import Descent
from lit_aux.integrators.state import IntegratorState


class GradientDescent(Descent):
    """Steps y <- y - lr grad L(y), as in the published experiments; see :class:`Descent` for the options.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.integrators import GradientDescent
        >>> def loss(w):
        ...     return (w - 3.0).square().sum()
        >>> found = GradientDescent(lr=0.1).run(loss, tensor([0.0]), threshold=1e-6)
        >>> found.parameters.round(decimals=2)
        tensor([3.])
    """

    name = "gradient_descent"

    def _move(self, state: IntegratorState, moving: NDArray[np.bool_]) -> None:
        y, f, lr = state.work["y"], state.work["f"], state.control["lr"]
        if moving.all() and (lr == lr[0]).all():
            y.add_(f, alpha=-float(lr[0]))
            return
        if not moving.all():  # 0 times what is not finite would not be 0
            f[torch.from_numpy(~moving).to(f.device)] = 0
        y.addcmul_(f, torch.from_numpy(-lr * moving).to(y)[:, None])
