"""The coefficients of several tasks with the least group norm, a prediction of multi-task training."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional._row_space import RowSpace
from lit_aux.functional._scale import safe_scale

_TOLERANCE = 1e-9
"""Asked of the solver; at 1e-12 it stalls no nearer to the optimum."""
_ITERATIONS = 30
_UNKNOWNS = 4000
"""Most of a linear system: it takes two seconds and is solved some four times."""
_RATIOS = (1.0, 1e-2, 1e-4, 1e-6, 1e2, 1e-8)
"""Of ||B_d|| to 1 - ||z_d||: where the support may begin."""

_NOTHING = 1e-10
"""Share of the largest coefficient below which one that least squares gives passes for 0."""
_DONE = 1e-12
"""Where other supports are not tried any more."""
_WORST = 1e-7
"""Largest duality gap, and misfit, of what is returned."""


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


def minimal_group_norm(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    r"""Return the coefficients B that fit every task with the least :math:`\sum_d (\sum_t B_{td}^2)^{1/2}`.

    The least squared norm of a diagonal network's weights is twice that, so weight decay that goes to 0 ends
    here (Dai, Karzand & Srebro, 2021). As a prediction of multi-task training by gradient flow it is a
    heuristic (Lippl & Lindsey, arXiv 2310.02396): both find the same sparse teacher from enough rows, but
    where rows are few the flow may end far away, however small its start. For one task it is basis pursuit,
    the least l1 norm, to which the flow does go as its start becomes small. Compare with `l12_norm` and
    `group_penalty`.

    A second-order cone program, solved by Clarabel through cvxpy (``pip install "lit-aux[theory]"``) and then
    by Newton's method on the features that are used: what is left are rounding errors, and exact zeros for
    features that are not used. Where that does not come off, as where several B are equally good, the norm
    is at most 1e-7 of itself above the least. Tasks whose inputs have rank D leave nothing to choose; they
    are solved by least squares beforehand. Seconds for D = 1000; inputs whose columns differ in size by
    factors of 1e4 and more may be refused.

    Args:
        inputs: X (n_t, D) of each task.
        targets: y (n_t,) of each task.

    Returns:
        B (T, D), float64, on the device of the first inputs; computed on the CPU.

    Raises:
        ConfigurationError: For shapes that do not fit, values that are not finite, targets that no
            coefficients give, without cvxpy and Clarabel, and where the solver gets nowhere.

    Example:
        >>> import torch
        >>> from lit_aux.functional import minimal_group_norm
        >>> one_task = minimal_group_norm([torch.eye(2)], [torch.tensor([1.0, 0.0])])
        >>> one_task.round(decimals=3)
        tensor([[1., 0.]], dtype=torch.float64)
    """
    tasks = _tasks(inputs, targets)
    d = inputs[0].shape[1]
    free = [t for t, (rows, y) in enumerate(tasks) if len(rows) < d and bool((y != 0).any())]
    beta = torch.zeros(len(tasks), d, dtype=torch.float64)
    for t, (rows, y) in enumerate(tasks):
        if len(rows) == d:
            beta[t] = y @ rows  # orthonormal rows: the least-squares coefficients
    if free:
        pairs = [tasks[t] for t in free]
        nearest = [torch.linalg.lstsq(x, y[:, None], driver="gelsy").solution for x, y in pairs]
        scale = max(float(size.abs().max()) for size in (beta, *nearest))
        fixed = (beta / scale).norm(dim=0)
        program = GroupProgram(
            [x for x, _ in pairs], [y / scale for _, y in pairs], torch.where(fixed > _NOTHING, fixed, 0.0)
        )
        beta[free] = scale * _least(program)
    return beta.to(inputs[0].device)


def _tasks(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return independent rows of length 1 of each task, and their targets; D orthonormal ones pin B."""
    if not len(inputs) or len(inputs) != len(targets):
        raise ConfigurationError(
            f"targets: of {len(targets)} tasks, inputs of {len(inputs)}; give both of each"
        )
    tasks = []
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        _check(t, x, y, inputs[0].shape[-1:])
        exact = x.dtype == y.dtype == torch.float64
        x, y = x.detach().cpu().double(), y.detach().cpu().double()
        unit = safe_scale(x.abs().max())
        space = RowSpace.of(x / unit, exact=exact)
        try:
            wanted = space.targets(y[None] / unit)[0]
        except ConfigurationError as error:
            raise ConfigurationError(
                f"targets[{t}]: no coefficients give them; {len(x)} inputs of rank {space.rank} fit only "
                "targets of a linear teacher without noise"
            ) from error
        length = space.rows.norm(dim=1)
        tasks.append((space.rows / length[:, None], wanted / length))
    return tasks


def _check(t: int, x: Tensor, y: Tensor, width: torch.Size) -> None:
    if x.ndim != 2 or 0 in x.shape or x.shape[1:] != width:
        wanted = f"(n, {width[0]})" if t and width else "(n, D)"
        raise ConfigurationError(f"inputs[{t}]: its shape is {tuple(x.shape)}; give inputs {wanted}")
    if y.shape != x.shape[:1]:
        raise ConfigurationError(f"targets[{t}]: its shape is {tuple(y.shape)}; give targets ({len(x)},)")
    for name, value in (("inputs", x), ("targets", y)):
        if not all_finite(value):
            raise ConfigurationError(f"{name}[{t}]: it holds values that are not finite")


def _least(program: GroupProgram) -> Tensor:
    """Return the best B (T, D) that solver and Newton's method find."""
    found, status = solve_cone_program(program)
    best, least = found, torch.inf
    for solution in chain(polished(program, found), map(program.fitted, [found])):
        misfit, gap = program.misfit(solution.beta), program.gap(solution)
        if max(misfit, gap) < least:
            best, least = solution, max(misfit, gap)
        if least <= _DONE:
            break
    if not least <= _WORST:
        raise ConfigurationError(
            f"inputs: the solver of the cone program ended as {status}, {least:.1g} from the optimum; inputs "
            "whose columns differ less in size are solved more easily"
        )
    return best.beta


# The cone program


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
            single = fixed is None and tasks == 1
            norms.append(cp.norm1(part) if single else cp.sum(cp.norm(stack, 2, axis=0)))
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


# Newton's method on the optimality conditions, from a nearly optimal point


def polished(program: GroupProgram, near: Solution) -> Iterator[Solution]:
    """Yield solutions that are 0 off their support, for some supports that are likely.

    Next to the optimum either ||B_d|| or 1 - ||z_d|| is small, so their ratio tells which features are used:
    at 1 nearly always. On the support z_d = B_d / r_d with r_d = sqrt(||B_d||^2 + fixed_d^2). Newton's method
    is on B = r z and rows B = targets, with z beside B as its own unknown: it converges from further away
    than on B alone (Chan, Golub & Mulet 1999, for total variation).

    Args:
        program: In units in which B is about 1.
        near: A point near the optimum.
    """
    z = program.pull(near.nu)
    ratio = near.beta.norm(dim=0) / (1 - z.norm(dim=0)).clamp(min=1e-300)
    tried = -1
    for least in _RATIOS:
        support = (program.fixed > 0) | (ratio > least)
        if int(support.sum()) == tried:
            continue
        tried = int(support.sum())
        system = _System(program, support)
        if system.unknowns > _UNKNOWNS:
            continue
        inner, moved = _newton(system, near.beta[:, support], z[:, support])
        whole = torch.zeros_like(near.beta)
        whole[:, support] = inner
        parts = zip(near.nu, system.basis, moved, strict=True)
        yield Solution(whole, [own + basis @ more for own, basis, more in parts])


def _newton(system: "_System", inner: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return B on the support and by how much the reduced nu moved, where the conditions hold best."""
    moved = [torch.zeros_like(own) for own in system.targets]
    best, least = (inner, moved), torch.inf
    for _ in range(_ITERATIONS):
        wrong = system.error(inner, z)
        size = float(wrong.norm())
        if not size < least:
            break
        best, least = (inner, moved), size
        step = system.step(inner, z, wrong)
        if step is None:
            break
        inner, z = inner + step[0], z + system.pull(step[1])
        moved = [a + b for a, b in zip(moved, step[1], strict=True)]
    return best


class _System:
    """The conditions on some columns; rows that these make dependent are reduced, as nu is."""

    def __init__(self, program: GroupProgram, support: Tensor) -> None:
        self.fixed = program.fixed[support]
        parts = [torch.linalg.qr(rows[:, support]) for rows in program.rows]
        self.basis, self.rows = [part.Q for part in parts], [part.R for part in parts]
        self.targets = [q.T @ y for q, y in zip(self.basis, program.targets, strict=True)]
        self.inner = len(program.rows) * len(self.fixed)
        self.unknowns = self.inner + sum(len(y) for y in self.targets)

    def pull(self, nu: list[Tensor]) -> Tensor:
        return torch.stack([rows.T @ own for rows, own in zip(self.rows, nu, strict=True)])

    def norms(self, inner: Tensor) -> Tensor:
        return (inner.square().sum(0) + self.fixed.square()).sqrt()

    def error(self, inner: Tensor, z: Tensor) -> Tensor:
        misfits = [y - x @ b for x, b, y in zip(self.rows, inner, self.targets, strict=True)]
        return torch.cat([(self.norms(inner) * z - inner).flatten(), *misfits])

    def step(self, inner: Tensor, z: Tensor, wrong: Tensor) -> tuple[Tensor, list[Tensor]] | None:
        """Return the changes of B and of the reduced nu; None where they are not determined."""
        tasks, s = inner.shape
        r = self.norms(inner)
        matrix = wrong.new_zeros(self.unknowns, self.unknowns)
        own = matrix[: self.inner, : self.inner].view(tasks, s, tasks, s).diagonal(dim1=1, dim2=3)
        own.copy_(torch.eye(tasks, dtype=z.dtype)[:, :, None] - z[:, None] * (inner / r))
        start = self.inner
        for t, rows in enumerate(self.rows):
            of_task, of_nu = slice(t * s, (t + 1) * s), slice(start, start + len(rows))
            matrix[of_task, of_nu] = -r[:, None] * rows.T
            matrix[of_nu, of_task] = rows
            start += len(rows)
        found, failed = torch.linalg.solve_ex(matrix, wrong)
        if int(failed) or not all_finite(found):
            return None
        d_nu = list(found[self.inner :].split([len(rows) for rows in self.rows]))
        return found[: self.inner].view(tasks, s), d_nu
