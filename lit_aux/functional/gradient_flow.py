"""Where gradient flow of a diagonal linear network with one output ends, solved instead of trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._flow_checks import checked_problem, common_shape
from lit_aux.functional._flow_newton import minimise_dual
from lit_aux.functional._row_space import RowSpace

_ELEMENTS = 2**21
"""Elements of one batch's scaled inputs: 16 MiB, which is fastest here."""


@dataclass(frozen=True)
class FlowLimit:
    """Where gradient flow ends.

    Attributes:
        beta: Coefficients (..., D), float64.
        weights: ``w_plus``, ``v_plus``, ``w_minus`` and ``v_minus``, each (..., D).
        growth: z (..., D): w+ + v+ and w- - v- grew by e^z, w+ - v+ and w- + v- shrank by it. 2z is the
            derivative of the penalty that the start implies, and lies in the row space of the inputs.
        residual: ||x beta - y|| / ||y|| (...); relative to what the start had to move where y is 0.
        iterations: Of Newton's method (...); 0 where least squares gave beta.
    """

    beta: Tensor
    weights: dict[str, Tensor]
    growth: Tensor
    residual: Tensor
    iterations: Tensor


def gradient_flow_limit(x: Tensor, y: Tensor, weights: Mapping[str, Tensor]) -> FlowLimit:
    """Return the interpolating limit of gradient flow on squared error, from any start.

    The network is f(x) = <beta, x> with beta = w+ v+ - w- v-. Per entry, the flow conserves
    A = ((w+ + v+)^2 + (w- - v-)^2)/4 and B = ((w+ - v+)^2 + (w- + v-)^2)/4 but for a common growth z:
    beta = A e^{2z} - B e^{-2z}, and z = x' nu. The limit minimises the convex dual
    sum_d (A e^{2z} + B e^{-2z})/2 - y nu, which Newton's method does in some ten steps; where x has rank D,
    least squares gives beta, and z follows. It holds for starts that are balanced or not, rescaled or not;
    after Woodworth et al. 2020 and Azulay et al. 2021, for Lippl & Lindsey (arXiv 2310.02396).

    Args:
        x: Inputs (n, D), shared by all starts and targets.
        y: Targets (..., n).
        weights: The start: ``w_plus``, ``v_plus``, ``w_minus``, ``v_minus``, each (..., D). Leading
            dimensions of targets and weights are broadcast. All is computed in float64.

    Raises:
        ConfigurationError: For shapes that do not fit, values that are not finite, targets that no
            coefficients fit, and starts from which the flow cannot fit them (where w and v are both 0,
            beta stays 0).

    Example:
        >>> import torch
        >>> from lit_aux.functional import gradient_flow_limit
        >>> start = {name: torch.full((2,), 0.1) for name in ("w_plus", "v_plus", "w_minus", "v_minus")}
        >>> found = gradient_flow_limit(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), start)
        >>> found.beta.round(decimals=3)
        tensor([2., 0.], dtype=torch.float64)
    """
    exact = x.dtype == y.dtype == torch.float64  # else targets are rounded to float32
    x, y, start = checked_problem(x, y, weights)
    n, d = x.shape
    shape = common_shape(y, *start.values())
    y = y.expand(*shape, n).reshape(-1, n)
    start = {name: value.expand(*shape, d).reshape(-1, d) for name, value in start.items()}
    space = RowSpace.of(x, exact)
    y_inside = space.targets(y)
    a, b = conserved(start)
    if space.rank == d:
        beta = y_inside @ space.rows  # orthonormal rows: the least-squares coefficients
        growth = growth_to(beta, a, b)
        iterations = torch.zeros(len(y), dtype=torch.int64, device=x.device)
    else:
        most = max(1, _ELEMENTS // (space.rank * d))
        parts = [
            minimise_dual(space.rows, y_inside[i : i + most], a[i : i + most], b[i : i + most])
            for i in range(0, len(y), most)
        ]
        growth, iterations = (torch.cat(columns) for columns in zip(*parts, strict=True))
        beta = a * torch.exp(2 * growth) - b * torch.exp(-2 * growth)
    moved = (a - b) @ x.T - y
    scale = torch.linalg.vector_norm(y, dim=1)
    scale = torch.where(scale > 0, scale, torch.linalg.vector_norm(moved, dim=1)).clamp(min=1e-300)
    residual = torch.linalg.vector_norm(beta @ x.T - y, dim=1) / scale
    end = grown(start, growth)
    return FlowLimit(
        beta.reshape(*shape, d),
        {name: value.reshape(*shape, d) for name, value in end.items()},
        growth.reshape(*shape, d),
        residual.reshape(shape),
        iterations.reshape(shape),
    )


def conserved(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return A and B, (..., D): what of beta = A e^{2z} - B e^{-2z} the start decides.

    2 sqrt(AB) is the scale below which the penalty of beta is quadratic and above which it is like l1; where
    both pathways are alike and balanced, w = v, it is w^2 + v^2.

    Example:
        >>> import torch
        >>> from lit_aux.functional import conserved
        >>> start = {name: torch.ones(2) for name in ("w_plus", "v_plus", "w_minus", "v_minus")}
        >>> plus, minus = conserved(start)
        >>> plus
        tensor([1., 1.])
    """
    plus, minus = weights["w_plus"], weights["w_minus"]
    v_plus, v_minus = weights["v_plus"], weights["v_minus"]
    a = ((plus + v_plus).square() + (minus - v_minus).square()) / 4
    b = ((plus - v_plus).square() + (minus + v_minus).square()) / 4
    return a, b


def growth_to(beta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return z (k, D) with A e^{2z} - B e^{-2z} = beta.

    Raises:
        ConfigurationError: Where no z does: A, B or both are 0.
    """
    size = (beta.abs().amax(-1, keepdim=True) + (a + b).amax(-1, keepdim=True)).clamp(min=1e-300)
    stays = (a == 0) & (b == 0) & (beta.abs() <= 1e-12 * size)
    both = (torch.asinh(beta / (2 * a.sqrt() * b.sqrt())) + (b.log() - a.log()) / 2) / 2
    # where one of them is 0, beta has the sign of the other
    one = torch.where(beta > 0, beta.abs().log() - a.log(), b.log() - beta.abs().log()) / 2
    z = torch.where((a > 0) & (b > 0), both, one)
    z = torch.where(stays, torch.zeros_like(z), z)
    if not bool(z.isfinite().all()):
        row, entry = (int(i) for i in (~z.isfinite()).nonzero()[0])
        raise ConfigurationError(
            f"weights: entry {entry} of start {row} cannot become {float(beta[row, entry]):.3g}; pathways "
            "whose w and v are 0, or equal and opposite, stay 0 or keep their sign"
        )
    return z


def grown(weights: Mapping[str, Tensor], growth: Tensor) -> dict[str, Tensor]:
    """Return weights after growth z (..., D)."""
    up, down = torch.exp(growth), torch.exp(-growth)
    rising = (weights["w_plus"] + weights["v_plus"]) / 2 * up
    falling = (weights["w_plus"] - weights["v_plus"]) / 2 * down
    rising_minus = (weights["w_minus"] - weights["v_minus"]) / 2 * up
    falling_minus = (weights["w_minus"] + weights["v_minus"]) / 2 * down
    return {
        "w_plus": rising + falling,
        "v_plus": rising - falling,
        "w_minus": falling_minus + rising_minus,
        "v_minus": falling_minus - rising_minus,
    }
