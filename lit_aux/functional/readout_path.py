"""Linear probes of a diagonal network in closed form: where the readout is after any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._scale import safe_scale
from lit_aux.functional.gradient_flow import Pathways, checked_problem, common_shape
from lit_aux.ranges import POSITIVE, check

_RANK = 1e-13
"""Eigenvalues below this share of the largest are rounding; they matter at infinite times alone."""


@dataclass(frozen=True)
class ProbeSolution:
    """A linear probe after some time.

    Attributes:
        beta: Coefficients (..., D), float64.
        weights: ``w_plus``, ``v_plus``, ``w_minus`` and ``v_minus``, each (..., D); w as it was.
        loss: Training loss, the mean squared error (...).
    """

    beta: Tensor
    weights: dict[str, Tensor]
    loss: Tensor


class ReadoutPath:
    """The path of a diagonal network's readout under gradient descent or flow, the first layer frozen.

    It is linear least squares from v with features w: along each eigenvector of the features' Gram matrix,
    the residual shrinks by its own factor a step. One decomposition serves all targets and all starts of v
    that share inputs and first layer.

    Args:
        matrix: Inputs x (n, D), or their second moments x'x (D, D); float64.
        w_plus: First layer (D,).
        w_minus: Likewise.
        rows: Number of rows n of the inputs where ``matrix`` holds moments, else None.
    """

    def __init__(self, matrix: Tensor, w_plus: Tensor, w_minus: Tensor, rows: int | None = None) -> None:
        self._matrix = matrix
        self._size = torch.hypot(w_plus, w_minus)
        self._rows = len(matrix) if rows is None else rows
        self._moments = rows is not None
        features = matrix * self._size
        gram = features * self._size[:, None] if self._moments else features @ features.T
        values, self._vectors = torch.linalg.eigh(gram)
        self._values = (2 / self._rows) * values.clamp(min=0)

    @property
    def curvature(self) -> float:
        """Largest curvature of the training loss; descent needs a learning rate below 2 / curvature."""
        return float(self._values[-1])

    def check_rate(self, lr: float | None, unit: float = 1.0) -> None:
        """Refuse a learning rate at which descent diverges.

        Args:
            lr: As the user gave it.
            unit: What the features were divided by.

        Raises:
            ConfigurationError: Naming the largest one.
        """
        if lr is not None and lr * unit * unit * self.curvature >= 2:
            most = 2 / self.curvature / unit / unit
            raise ConfigurationError(f"lr: descent diverges at {lr:g}; it must be below {most:.3g}")

    def moved(self, error: Tensor, time: Tensor, lr: float | None = None) -> Tensor:
        """Return (k, D) by how much the readouts have changed: v+ by w+ times it, v- by -w- times it.

        Args:
            error: At the start: residuals x beta - y (k, n), or for moments x'(x beta - y) (k, D).
            time: Flow times (k,), for descent number of steps times ``lr``; infinite for the limit.
            lr: Learning rate of descent; None for gradient flow.
        """
        if self._moments:
            error = error * self._size
        spectral = (error @ self._vectors) * self._rates(time, lr)
        moved: Tensor = (-2 / self._rows) * (spectral @ self._vectors.T)
        if self._moments:
            return torch.where(self._size > 0, moved / self._size.clamp(min=1e-300), 0.0)
        return moved @ self._matrix

    def _rates(self, time: Tensor, lr: float | None) -> Tensor:
        """Return (1 - decay) / eigenvalue (k, n): the decays, summed or integrated up to a time."""
        values, time = self._values, time[:, None]
        inverse = 1 / values.clamp(min=1e-300)
        if lr is not None and lr * self.curvature >= 1:  # steps that overshoot change signs
            rates = (1 - (1 - lr * values) ** torch.round(time / lr)) * inverse
        else:
            exponent = -values if lr is None else torch.log1p(-lr * values) / lr
            rates = -torch.expm1(exponent * time) * inverse
        rates = torch.where(values * time < 1e-200, time, rates)
        return torch.where(time == inf, torch.where(values > _RANK * values[-1], inverse, 0.0), rates)


def gradient_descent_probe(x: Tensor, y: Tensor, weights: Pathways, lr: float, steps: float) -> ProbeSolution:
    """Return a linear probe after some steps of full-batch gradient descent, in closed form.

    The readouts v+ and v- of f(x) = <w+ v+ - w- v-, x> train on the mean squared error, w stays.

    Args:
        x: Inputs (n, D).
        y: Targets (..., n).
        weights: The start: ``w_plus``, ``v_plus``, ``w_minus`` and ``v_minus``; w (D,), shared, and v
            (..., D), broadcast with the targets. All is computed in float64.
        lr: Learning rate, of the mean over rows: below 2 / curvature.
        steps: How many; ``math.inf`` for the limit, the least-squares fit nearest to the start.

    Raises:
        ConfigurationError: For shapes that do not fit, values that are not finite, or a learning rate at
            which descent diverges.

    Example:
        >>> import torch
        >>> from lit_aux.functional import gradient_descent_probe
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> start = {"w_plus": one, "v_plus": zero, "w_minus": zero, "v_minus": zero}
        >>> found = gradient_descent_probe(torch.ones(1, 1), torch.ones(1), start, lr=0.1, steps=1000)
        >>> found.beta.round(decimals=3)
        tensor([1.], dtype=torch.float64)
    """
    check("lr", [lr], POSITIVE)
    if not (steps >= 0 and (steps == inf or steps == int(steps))):
        raise ConfigurationError(f"steps: {steps} must be a whole number of at least 0, or infinite")
    return _probe(x, y, weights, lr * steps, lr)


def gradient_flow_probe(x: Tensor, y: Tensor, weights: Pathways, time: float) -> ProbeSolution:
    """Return a linear probe after some time of gradient flow; see :func:`gradient_descent_probe`.

    Args:
        x: Inputs (n, D).
        y: Targets (..., n).
        weights: The start.
        time: Flow time; ``math.inf`` for the limit.

    Raises:
        ConfigurationError: As there.

    Example:
        >>> import torch
        >>> from lit_aux.functional import gradient_flow_probe
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> start = {"w_plus": one, "v_plus": zero, "w_minus": zero, "v_minus": zero}
        >>> found = gradient_flow_probe(torch.ones(1, 1), torch.ones(1), start, time=100.0)
        >>> found.beta.round(decimals=3)
        tensor([1.], dtype=torch.float64)
    """
    if not time >= 0:
        raise ConfigurationError(f"time: {time} must be at least 0")
    return _probe(x, y, weights, time, None)


def _probe(x: Tensor, y: Tensor, weights: Pathways, time: float, lr: float | None) -> ProbeSolution:
    x, y, start = checked_problem(x, y, weights)
    for name in ("w_plus", "w_minus"):
        if start[name].ndim != 1:
            raise ConfigurationError(
                f"weights: the shape of {name} is {tuple(start[name].shape)}; probes of a call share it, (D,)"
            )
    n, d = x.shape
    # In units in which squares neither vanish nor overflow; the same beta, after another time.
    unit, length = _units(x, start)
    x, y = x / unit, y / unit
    w_plus, w_minus = start["w_plus"] / length, start["w_minus"] / length
    tall = n > d
    path = ReadoutPath(x.T @ x if tall else x, w_plus, w_minus, n if tall else None)
    if lr is not None:
        path.check_rate(lr, unit * length)
        lr = _in_units(lr, unit * length) or None  # steps that small are flow
    time = _in_units(time, unit * length)
    shape = common_shape(y, start["v_plus"], start["v_minus"])
    plus, minus = (start[name].expand(*shape, d).reshape(-1, d) for name in ("v_plus", "v_minus"))
    v_plus, v_minus = length * plus, length * minus
    targets = y.expand(*shape, n).reshape(-1, n)
    beta = w_plus * v_plus - w_minus * v_minus
    residual = beta @ x.T - targets
    moved = path.moved(residual @ x if tall else residual, x.new_full((len(targets),), time), lr)
    final = beta + (w_plus.square() + w_minus.square()) * moved
    end = {
        "w_plus": start["w_plus"].expand(*shape, d),
        "v_plus": ((v_plus + w_plus * moved) / length).reshape(*shape, d),
        "w_minus": start["w_minus"].expand(*shape, d),
        "v_minus": ((v_minus - w_minus * moved) / length).reshape(*shape, d),
    }
    loss = (final @ x.T - targets).square().mean(1) * unit * unit
    return ProbeSolution(final.reshape(*shape, d), end, loss.reshape(shape))


def _units(x: Tensor, start: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return what inputs and the first layer are divided by, 1 for all of ordinary size."""
    first = torch.maximum(start["w_plus"].abs().max(), start["w_minus"].abs().max())
    return float(safe_scale(x.abs().max())), float(safe_scale(first))


def _in_units(time: float, unit: float) -> float:
    """Return a time, or a learning rate, for features that were divided by ``unit``."""
    return time if time in (0, inf) else time * unit * unit
