"""Diagonal networks with one output, solved instead of trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._row_space import TOLERANCE, TOLERANCE_FLOAT32
from lit_aux.functional.gradient_flow import conserved, gradient_flow_limit, grown, growth_to
from lit_aux.functional.readout_path import ReadoutPath
from lit_aux.models._designs import Design

Weights = dict[str, Tensor]


def solve_limit(design: Design, weights: Weights) -> tuple[Weights, NDArray[np.int64]]:
    """Return the end weights of gradient flow, float64, and the number of iterations.

    Args:
        design: Inputs and targets of k replicas.
        weights: ``w_plus``, ``v_plus``, ``w_minus`` and ``v_minus`` (k, D).

    Raises:
        ConfigurationError: As :func:`~lit_aux.functional.gradient_flow_limit`.
    """
    if design.rest is None:
        found = gradient_flow_limit(design.matrix, design.target, weights)
        return found.weights, found.iterations.cpu().numpy()
    # moments of full rank: the least-squares coefficients are the limit if they fit
    beta, rest = design.target.double(), design.rest.double()
    size = torch.linalg.vecdot(beta, beta @ design.matrix.double()) + rest
    share = (rest.clamp(min=0) / size.clamp(min=1e-300)).sqrt()
    tolerance = TOLERANCE if design.rest.dtype == torch.float64 else TOLERANCE_FLOAT32
    if bool((share > tolerance).any()):
        raise ConfigurationError(
            f"integrator: exact has no interpolating limit: {float(share.max()):.2g} of the targets' norm is "
            f"outside of what {design.n} rows of {beta.shape[1]} inputs can give; choose gradient_flow"
        )
    weights = {name: value.double() for name, value in weights.items()}
    growth = growth_to(beta, *conserved(weights))
    return grown(weights, growth), np.zeros(len(beta), dtype=np.int64)


@dataclass
class _Group:
    """Replicas that share inputs and first layer."""

    rows: slice
    path: ReadoutPath
    error: Tensor
    """Of the start: residuals, or slopes where the design holds moments."""


class DiagonalProbes:
    """Where the linear probes of some replicas are after any time.

    Args:
        designs: Slices of the replicas, and the design of each.
        frozen: First layers w+ and w- (k, 2D).
        v_plus: Readouts at the start (k, D).
        v_minus: Likewise.
        lr: Learning rate of descent; None for flow.
    """

    def __init__(
        self,
        designs: Sequence[tuple[slice, Design]],
        frozen: Tensor,
        v_plus: Tensor,
        v_minus: Tensor,
        lr: float | None,
    ) -> None:
        d = v_plus.shape[1]
        self.dtype, self.lr = frozen.dtype, lr
        self.w_plus, self.w_minus = frozen[:, :d].double(), frozen[:, d:].double()
        self.v_plus, self.v_minus = v_plus.double(), v_minus.double()
        self.beta = self.w_plus * self.v_plus - self.w_minus * self.v_minus
        self.groups: list[_Group] = []
        for rows, design in designs:
            start = rows.start
            for row in range(rows.start, rows.stop):
                if row + 1 == rows.stop or not torch.equal(frozen[row], frozen[row + 1]):
                    self.groups.append(self._group(slice(start, row + 1), rows.start, design))
                    start = row + 1

    def _group(self, rows: slice, first: int, design: Design) -> _Group:
        matrix = design.matrix.double()
        target = design.target.double()[rows.start - first : rows.stop - first]
        moments = design.rest is not None
        w_plus, w_minus = self.w_plus[rows.start], self.w_minus[rows.start]
        path = ReadoutPath(matrix, w_plus, w_minus, design.n if moments else None)
        path.check_rate(self.lr)
        beta = self.beta[rows]
        error = (beta - target) @ matrix if moments else beta @ matrix.T - target
        return _Group(rows, path, error)

    def at(self, time: NDArray[np.float64]) -> Tensor:
        """Return the readouts, v+ and v- side by side, (k, 2D) at times (k,)."""
        when = torch.from_numpy(np.ascontiguousarray(time)).to(self.v_plus.device)
        moved = torch.empty_like(self.v_plus)
        for group in self.groups:
            moved[group.rows] = group.path.moved(group.error, when[group.rows], self.lr)
        ends = [self.v_plus + self.w_plus * moved, self.v_minus - self.w_minus * moved]
        return torch.cat(ends, dim=1).to(self.dtype)
