"""Newton's method on the optimality conditions of the least group norm, from a nearly optimal point."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_aux.functional._group_program import GroupProgram, Solution

_ITERATIONS = 30
_UNKNOWNS = 4000
"""Most of a linear system: it takes two seconds and is solved some four times."""
_RATIOS = (1.0, 1e-2, 1e-4, 1e-6, 1e2, 1e-8)
"""Of ||B_d|| to 1 - ||z_d||: where the support may begin."""


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
        if int(failed) or not bool(found.isfinite().all()):
            return None
        d_nu = list(found[self.inner :].split([len(rows) for rows in self.rows]))
        return found[: self.inner].view(tasks, s), d_nu
