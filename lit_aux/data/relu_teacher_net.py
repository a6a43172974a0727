"""A small ReLU network that gives the targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReLUTeacher:
    """One layer of ReLU units without biases, and a linear readout of it.

    Attributes:
        directions: The units' input weights (J, d), each of length 1.
        readout: The units' output weights (J,).
    """

    directions: Tensor
    readout: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (n,) for inputs (n, d)."""
        return torch.relu(x @ self.directions.T) @ self.readout


def fresh_directions(correlations: Sequence[float]) -> int:
    """Return how many main units need a direction that no auxiliary unit has."""
    return sum(abs(correlation) < 1 for correlation in correlations)


def correlated_directions(basis: Tensor, k_aux: int, correlations: Sequence[float]) -> Tensor:
    """Turn auxiliary directions towards fresh ones.

    Main unit j lies in the plane of its auxiliary unit, row j of the basis, and of the fresh row
    ``k_aux + j``: c_j W[j] + sqrt(1 - c_j^2) W[k_aux + j]. Where the basis ends before that row, the first
    that no other unit takes is fresh.

    Args:
        basis: Orthonormal rows W (d, d).
        k_aux: How many of the rows, from the first on, are auxiliary units.
        correlations: c_j of every main unit, between -1 and 1; 0 where there is no auxiliary unit j.

    Returns:
        (k_main, d), rows of length 1 whose product with auxiliary unit j is c_j.

    Raises:
        ValueError: If the basis has too few rows.
    """
    rows = len(basis)
    if k_aux + fresh_directions(correlations) > rows:
        raise ValueError(f"{rows} directions are too few")
    own = {j: k_aux + j for j, c in enumerate(correlations) if abs(c) < 1}
    left = iter([row for row in range(k_aux, rows) if row not in own.values()])
    directions = []
    for j, c in enumerate(correlations):
        direction = torch.zeros_like(basis[0]) if c == 0 else c * basis[j]
        if j in own:
            row = own[j] if own[j] < rows else next(left)
            direction = direction + (1 - c * c) ** 0.5 * basis[row]
        directions.append(direction)
    return torch.stack(directions)
