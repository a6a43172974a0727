"""The cone program of the least group norm, and how far from the optimum a point is."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

_TOLERANCE = 1e-9
"""Asked of the solver; at 1e-12 it stalls no nearer to the optimum."""


@dataclass(frozen=True)
class Solution:
    """A point of the program.

    Attributes:
        beta: B (T, D).
        nu: Multipliers (n_t,) of each task's rows.
    """

    beta: Tensor
    nu: list[Tensor]


@dataclass(frozen=True)
class GroupProgram:
    """Minimise sum_d sqrt(||B_d||^2 + fixed_d^2) subject to rows_t B_t = targets_t for each task.

    Attributes:
        rows: Independent rows (n_t, D) of each task.
        targets: Their targets (n_t,).
        fixed: Norm (D,) of the coefficients of all tasks that have nothing to choose.
    """

    rows: Sequence[Tensor]
    targets: Sequence[Tensor]
    fixed: Tensor

    def pull(self, nu: Sequence[Tensor]) -> Tensor:
        """Return z (T, D), rows' nu of each task: B_d / sqrt(||B_d||^2 + fixed_d^2) at the optimum."""
        return torch.stack([rows.T @ own for rows, own in zip(self.rows, nu, strict=True)])

    def misfit(self, beta: Tensor) -> float:
        """Return the largest ||rows B - targets|| / ||targets|| of a task."""
        parts = zip(self.rows, beta, self.targets, strict=True)
        return max(float((x @ b - y).norm() / y.norm()) for x, b, y in parts)

    def gap(self, solution: Solution) -> float:
        """Return by what share the norm of B may be above the least one with the same rows B.

        That is the duality gap, with nu made feasible, ||z_d|| <= 1, before.
        """
        z, beta = self.pull(solution.nu), solution.beta
        z = z / z.norm(dim=0).max().clamp(min=1.0)
        norms = (beta.square().sum(0) + self.fixed.square()).sqrt()
        inside = self.fixed * (1 - z.square().sum(0)).clamp(min=0).sqrt()
        return float((norms - (z * beta).sum(0) - inside).sum() / norms.sum().clamp(min=1e-300))

    def fitted(self, solution: Solution) -> Solution:
        """Return the nearest point that fits the targets."""
        parts = zip(self.rows, solution.beta, self.targets, strict=True)
        moves = [torch.linalg.lstsq(x, (y - x @ b)[:, None], driver="gelsy").solution for x, b, y in parts]
        return Solution(solution.beta + torch.cat(moves, dim=1).T, solution.nu)


def solve_cone_program(program: GroupProgram) -> tuple[Solution, str]:
    """Return what the solver finds, and what it says of it.

    Raises:
        ConfigurationError: If the solver is not installed or finds nothing.
    """
    cp = _cvxpy()
    tasks = len(program.rows)
    mixed = (program.fixed > 0).numpy()
    parts: list[tuple[Any, Any]] = []
    norms: list[Any] = []
    for columns, fixed in ((mixed, program.fixed.numpy()[None, mixed]), (~mixed, None)):
        if columns.any():
            part = cp.Variable((tasks, int(columns.sum())))
            stack = part if fixed is None else cp.vstack([part, fixed])
            norms.append(
                cp.norm1(part) if fixed is None and tasks == 1 else cp.sum(cp.norm(stack, 2, axis=0))
            )
            parts.append((columns, part))
    fits = [
        sum(x.numpy()[:, columns] @ part[task] for columns, part in parts) == y.numpy()
        for task, (x, y) in enumerate(zip(program.rows, program.targets, strict=True))
    ]
    problem = cp.Problem(cp.Minimize(sum(norms)), fits)
    settings = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), _TOLERANCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccurate solutions, which are improved and checked
            problem.solve(solver=cp.CLARABEL, **settings)
    except cp.error.SolverError as error:
        raise ConfigurationError(f"inputs: the solver of the cone program failed; {error}") from error
    if any(part.value is None for _, part in parts):
        raise ConfigurationError(f"inputs: the solver of the cone program ended as {problem.status}")
    beta = torch.zeros(tasks, len(program.fixed), dtype=torch.float64)
    for columns, part in parts:
        beta[:, torch.from_numpy(columns)] = torch.from_numpy(part.value)
    nu = [-torch.from_numpy(fit.dual_value).reshape(-1) for fit in fits]
    return Solution(beta, nu), str(problem.status)


def _cvxpy() -> Any:
    try:
        import_module("clarabel")
        return import_module("cvxpy")
    except ImportError as error:
        raise ConfigurationError(
            'minimal_group_norm: cvxpy or clarabel is not installed; run: pip install "lit-aux[theory]"'
        ) from error
