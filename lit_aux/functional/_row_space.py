"""Independent rows of a design."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

TOLERANCE, TOLERANCE_FLOAT32 = 1e-9, 1e-5
"""Share of the targets' norm outside the column space that passes for rounding."""
_INDEPENDENT = 1e-6
"""Ratio of Cholesky pivots of the Gram matrix above which rows are taken as they are."""


@dataclass(frozen=True)
class RowSpace:
    """Rows that span those of x, and how targets change with them: x b = y where rows b = targets(y).

    Attributes:
        rows: (r, D): x itself, or orthonormal ones where x has dependent rows or as many as columns.
        x: The inputs (n, D).
        left: Left singular vectors (n, r); None where the rows are x.
        values: Singular values (r,); likewise.
        tolerance: Share of y outside the column space that passes for rounding.
    """

    rows: Tensor
    x: Tensor
    left: Tensor | None
    values: Tensor | None
    tolerance: float

    @property
    def rank(self) -> int:
        """Rank r of x."""
        return len(self.rows)

    @classmethod
    def of(cls, x: Tensor, exact: bool = True) -> "RowSpace":
        """Find the rank of x (n, D), float64; ``exact`` says whether targets come in float64 as well."""
        tolerance = TOLERANCE if exact else TOLERANCE_FLOAT32
        n, d = x.shape
        if n < d:
            factor, failed = torch.linalg.cholesky_ex(x @ x.T)
            pivots = factor.diagonal()
            if not int(failed) and float(pivots.min()) > _INDEPENDENT * float(pivots.max()):
                return cls(x, x, None, None, tolerance)
        left, values, right = torch.linalg.svd(x, full_matrices=False)
        rank = int((values > values[0] * max(n, d) * torch.finfo(x.dtype).eps).sum())
        return cls(right[:rank], x, left[:, :rank], values[:rank], tolerance)

    def targets(self, y: Tensor) -> Tensor:
        """Return targets (k, r) of the rows for targets (k, n) of x.

        Raises:
            ConfigurationError: If no coefficients give y.
        """
        if self.left is None or self.values is None:
            return y
        inside = y @ self.left
        outside = torch.linalg.vector_norm(y - inside @ self.left.T, dim=1)
        share = outside / torch.linalg.vector_norm(y, dim=1).clamp(min=1e-300)
        worst = int(share.argmax())
        if float(share[worst]) > self.tolerance:
            raise ConfigurationError(
                f"y: no coefficients fit targets {worst}: {float(share[worst]):.2g} of their norm is outside "
                f"of what {len(self.x)} inputs of rank {self.rank} can give; gradient flow has no "
                "interpolating limit there"
            )
        return inside / self.values
