"""Newton's method on the dual of a diagonal network's gradient flow, many starts at once."""

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

_ITERATIONS = 200
_LONGEST = 5.0
"""Most by which an entry of z changes in one iteration; 2 and 10 take more of them from small starts."""
_RESIDUAL = 1e-12
_ROUNDING = 2e-15
"""Residual from which on rounding is all that is left."""


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
    dual = _Dual(x, y, a, b)
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

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        a: Tensor,
        b: Tensor,
        z: Tensor | None = None,
        linear: Tensor | None = None,
    ) -> None:
        self.x, self.y, self.a, self.b = x, y, a, b
        self.z = torch.zeros_like(a) if z is None else z
        self.linear = y.new_zeros(len(y)) if linear is None else linear  # y nu
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
