"""Where gradient flow of a diagonal linear network with one output ends, solved instead of trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional._row_space import RowSpace

Weights = dict[str, Tensor]
Pathways = Mapping[str, Tensor]
"""Weights by the names in :data:`PATHWAYS`."""
PATHWAYS = ("w_plus", "v_plus", "w_minus", "v_minus")

_ELEMENTS = 2**21
"""Elements of one batch's scaled inputs: 16 MiB, which is fastest here."""
_ITERATIONS = 200
_LONGEST = 5.0
"""Most by which an entry of z changes in one iteration; 2 and 10 take more of them from small starts."""
_RESIDUAL = 1e-12
_ROUNDING = 2e-15
"""Residual from which on rounding is all that is left."""


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


def gradient_flow_limit(x: Tensor, y: Tensor, weights: Pathways) -> FlowLimit:
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


def conserved(weights: Pathways) -> tuple[Tensor, Tensor]:
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
    if not all_finite(z):
        row, entry = (int(i) for i in (~z.isfinite()).nonzero()[0])
        raise ConfigurationError(
            f"weights: entry {entry} of start {row} cannot become {float(beta[row, entry]):.3g}; pathways "
            "whose w and v are 0, or equal and opposite, stay 0 or keep their sign"
        )
    return z


def grown(weights: Pathways, growth: Tensor) -> dict[str, Tensor]:
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


# Newton's method on the dual, many starts at once


def minimise_dual(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise sum_d (A e^{2z} + B e^{-2z})/2 - y nu with z = x' nu, for each start.

    Iterations go on until rounding stops them, so that the residual is as small as it gets.

    Args:
        x: Inputs (n, D) of full row rank, float64.
        y: Targets (k, n).
        a: A (k, D).
        b: B (k, D).

    Returns:
        z (k, D), and the number of iterations (k,).

    Raises:
        ConfigurationError: If the residual does not fall below 1e-12 of the targets.
    """
    scale = _scale(x, y, a, b)
    y, a, b = y / scale, a / scale, b / scale
    wanted = torch.linalg.vector_norm(y, dim=1)
    wanted = torch.where(wanted > 0, wanted, torch.linalg.vector_norm((a - b) @ x.T, dim=1))
    z, iterations = torch.zeros_like(a), torch.zeros(len(y), dtype=torch.int64, device=x.device)
    final = torch.full_like(wanted, torch.inf)
    dual = _Dual(x, y, a, b, torch.zeros_like(a), y.new_zeros(len(y)))
    rows = torch.arange(len(y), device=x.device)
    for iteration in range(_ITERATIONS):
        residual = torch.linalg.vector_norm(dual.gradient, dim=1) / wanted[rows].clamp(min=1e-300)
        better = residual < final[rows]
        z[rows[better]] = dual.z[better]
        iterations[rows[better]] = iteration
        stopped = ~better & (final[rows] <= _RESIDUAL) | (residual <= _ROUNDING)
        final[rows] = torch.minimum(final[rows], residual)
        if bool(stopped.any()):
            rows = rows[~stopped]
            dual = dual.select(~stopped)
        if not len(rows):
            break
        dual = dual.step()
    if not bool((final <= _RESIDUAL).all()):
        row = int(torch.nan_to_num(final, nan=torch.inf).argmax())
        raise ConfigurationError(
            f"weights: from start {row}, {iterations[row]} iterations leave a residual of "
            f"{float(final[row]):.2g} of the targets; where w and v of a pathway are 0 or far below the "
            "others, the flow may not reach them"
        )
    return z, iterations


def _scale(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a size of beta (k, 1), by which all may be divided: z does not change."""
    size = y.abs().amax(1) / x.abs().amax()
    return torch.maximum(size, (a + b).amax(1)).clamp(min=1e-300)[:, None]


class _Dual:
    """The dual of some starts at nu."""

    def __init__(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, z: Tensor, linear: Tensor) -> None:
        self.x, self.y, self.a, self.b, self.z, self.linear = x, y, a, b, z, linear  # the last is y nu
        self.up, self.down = a * torch.exp(2 * self.z), b * torch.exp(-2 * self.z)
        self.gradient = (self.up - self.down) @ x.T - y
        self.value = (self.up + self.down).sum(1) / 2 - self.linear

    def select(self, keep: Tensor) -> "_Dual":
        return _Dual(self.x, self.y[keep], self.a[keep], self.b[keep], self.z[keep], self.linear[keep])

    def moved(self, length: Tensor, dz: Tensor, rise: Tensor) -> "_Dual":
        z = self.z + length[:, None] * dz
        return _Dual(self.x, self.y, self.a, self.b, z, self.linear + length * rise)

    def step(self) -> "_Dual":
        """Go one damped step of Newton's."""
        direction = self._direction()
        dz = direction @ self.x
        rise = torch.linalg.vecdot(direction, self.y)
        slope = torch.linalg.vecdot(direction, self.gradient)
        length = (_LONGEST / dz.abs().amax(1).clamp(min=1e-300)).clamp(max=1.0)
        for _ in range(60):
            there = self.moved(length, dz, rise)
            # Enough descent, or, where rounding hides it, a flat enough place: the dual is convex.
            descent = there.value <= self.value + 1e-4 * length * slope
            flat = torch.linalg.vecdot(direction, there.gradient).abs() <= 0.5 * slope.abs()
            refused = ~(descent | flat)
            if not bool(refused.any()):
                return there
            length = torch.where(refused, length / 2, length)
        return self.moved(torch.where(refused, 0.0, length), dz, rise)

    def _direction(self) -> Tensor:
        """Solve for Newton's direction (k, n)."""
        weight = 2 * (self.up + self.down)
        hessian = (self.x * weight[:, None]) @ self.x.T
        factor, failed = torch.linalg.cholesky_ex(hessian)
        direction = -torch.cholesky_solve(self.gradient[..., None], factor)[..., 0]
        bad = (failed != 0) | ~direction.isfinite().all(1)
        for row in bad.nonzero()[:, 0].tolist():
            direction[row] = self._careful_direction(weight[row], self.gradient[row])
        return direction

    def _careful_direction(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Solve with the square root of the Hessian, whose condition number is the square root."""
        upper = torch.linalg.qr((self.x * weight.sqrt()).T, mode="r").R
        inner = torch.linalg.solve_triangular(upper.T, gradient[:, None], upper=False)
        found = -torch.linalg.solve_triangular(upper, inner, upper=True)[:, 0]
        return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


# Checks of a regression problem


def checked_problem(x: Tensor, y: Tensor, weights: Pathways) -> tuple[Tensor, Tensor, Weights]:
    """Return everything in float64, or raise for what does not fit."""
    if x.ndim != 2 or 0 in x.shape:
        raise ConfigurationError(f"x: its shape is {tuple(x.shape)}; give inputs (n, D)")
    if y.shape[-1:] != x.shape[:1]:
        raise ConfigurationError(f"y: its shape is {tuple(y.shape)}; give targets (..., {len(x)})")
    if {*weights} != {*PATHWAYS}:
        raise ConfigurationError(f"weights: they are {', '.join(weights)}; give {', '.join(PATHWAYS)}")
    start = {name: weights[name].detach().to(x.device, torch.float64) for name in PATHWAYS}
    for name, value in start.items():
        if value.shape[-1:] != x.shape[1:]:
            raise ConfigurationError(
                f"weights: the shape of {name} is {tuple(value.shape)}; give (..., {x.shape[1]})"
            )
    for name, value in {"x": x, "y": y, **start}.items():
        if not all_finite(value):
            raise ConfigurationError(f"{name}: it holds values that are not finite")
    return x.detach().to(torch.float64), y.detach().to(x.device, torch.float64), start


def common_shape(*values: Tensor) -> torch.Size:
    """Return the leading dimensions, all but the last, that values have when they are broadcast.

    Raises:
        ConfigurationError: If they cannot be.
    """
    try:
        shape: torch.Size = torch.broadcast_shapes(*(v.shape[:-1] for v in values))  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = ", ".join(str(tuple(v.shape[:-1])) for v in values)
        raise ConfigurationError(
            f"y, weights: their leading dimensions {shapes} do not go together"
        ) from None
    return shape
