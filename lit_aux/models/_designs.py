"""Linear regression on shared inputs: squared errors and gradients of many coefficient vectors at once."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NEARLY_DEPENDENT = 1e-5
"""Ratio of pivots below which least-squares coefficients are too large to be subtracted from."""


@dataclass(frozen=True)
class SecondMoments:
    """Second moments of inputs, and their Cholesky factor.

    Attributes:
        matrix: x'x (D, D), float64.
        factor: Lower triangle (D, D); None where inputs are too nearly dependent to divide by it.
    """

    matrix: Tensor
    factor: Tensor | None

    @classmethod
    def of(cls, x: Tensor, device: torch.device) -> "SecondMoments":
        """Work them out of inputs (n, D)."""
        x = x.to(device, torch.float64)
        matrix = x.T @ x
        factor, failed = torch.linalg.cholesky_ex(matrix)
        pivots = factor.diagonal()
        good = not int(failed) and float(pivots.min()) >= NEARLY_DEPENDENT * float(pivots.max())
        return cls(matrix, factor if good else None)


@dataclass(frozen=True)
class Design:
    """Inputs that some replicas share, and their targets.

    Either ``x`` and targets (k, n), or, where that is cheaper and as exact, the second moments S = x'x, the
    least-squares coefficients (k, D) and what error they leave: the squared error of b is
    (b - b0)' S (b - b0) + rest, which loses no digits where the error is small.

    Attributes:
        matrix: x (n, D), or S (D, D).
        target: Targets (k, n), or least-squares coefficients (k, D).
        rest: Squared error of those (k,); None for targets.
        n: Number of rows.
        source: x and targets (k, n) from which mini-batches are taken, unless they are ``matrix`` and
            ``target``; None where none will be.
    """

    matrix: Tensor
    target: Tensor
    rest: Tensor | None
    n: int
    source: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        y: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        *,
        moments: SecondMoments | None = None,
        whole: bool = False,
    ) -> "Design":
        """Work out the cheaper form.

        Args:
            x: Inputs (n, D).
            y: Targets (k, n).
            dtype: Of what is computed with.
            device: Where.
            moments: Of x, where they are known; needed for no fewer rows than columns alone.
            whole: Whether no mini-batches will be taken.
        """
        n, d = x.shape
        if n < d:
            x, y = x.to(device, dtype), y.to(device, dtype)
            return cls(x, y, None, n)
        given = None if whole else (x, y)
        x, y = x.to(device, torch.float64), y.to(device, torch.float64)
        known = moments or SecondMoments.of(x, device)
        factor = known.factor
        if factor is None:
            return cls(x.to(dtype), y.to(dtype), None, n)
        best = torch.cholesky_solve((y @ x).T, factor).T
        best = best + torch.cholesky_solve(((y - best @ x.T) @ x).T, factor).T
        rest = (y - best @ x.T).square().sum(1)
        return cls(known.matrix.to(dtype), best.to(dtype), rest.to(dtype), n, given)

    def errors(self, beta: Tensor, out: Tensor | None) -> Tensor:
        """Return the squared errors (k,) of coefficients (k, D); write x'(x beta - y) into ``out`` (k, D)."""
        if self.rest is not None:
            difference = beta - self.target
            product = torch.mm(difference, self.matrix, out=out)
            squares: Tensor = torch.linalg.vecdot(difference, product)
            return self.rest + squares
        residual = torch.addmm(self.target, beta, self.matrix.T, beta=-1)
        if out is not None:
            torch.mm(residual, self.matrix, out=out)
        squares = torch.linalg.vecdot(residual, residual)
        return squares

    def select(self, rows: list[int]) -> "Design":
        """Return the design of some of the replicas."""
        if len(rows) == len(self.target):
            return self
        index = torch.tensor(rows, device=self.target.device)
        rest = None if self.rest is None else self.rest[index]
        if self.source is None:
            return replace(self, target=self.target[index], rest=rest)
        x, y = self.source
        return replace(self, target=self.target[index], rest=rest, source=(x, y[index.to(y.device)]))

    def batch(self, chosen: Tensor) -> "Design":
        """Return the design of some rows."""
        kept = (self.matrix, self.target) if self.rest is None else self.source
        assert kept is not None, "the inputs were not kept"
        x, y = kept
        return Design(x.to(self.matrix)[chosen], y.to(self.matrix)[:, chosen], None, len(chosen))
