"""A network's features as points of the regime map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError


@dataclass(frozen=True)
class MapPoints:
    """Features to be drawn on the regime map, all alike.

    Raises:
        ConfigurationError: For values that are not finite, or lengths that differ.
    """

    label: str
    """What they are, for the legend."""
    beta: Tensor
    """Coefficients of the main task, (n,); the map shows their size."""
    beta_aux: Tensor
    """Those of the auxiliary task, (n,)."""
    weight: Tensor | None = None
    """How much each counts, (n,), at least 0: sets the marker's area. None: all the same."""

    def __post_init__(self) -> None:
        for name in ("beta", "beta_aux", "weight"):
            value: Any = getattr(self, name)
            if value is None and name == "weight":
                continue
            values = torch.as_tensor(value).detach().to("cpu", torch.float64)
            if values.ndim != 1 or len(values) != len(self.beta) or not bool(values.isfinite().all()):
                raise ConfigurationError(
                    f"{name}: shape {tuple(values.shape)} for {len(self.beta)} points of {self.label!r}; "
                    "give one finite value a point"
                )
            object.__setattr__(self, name, values if name == "weight" else values.abs())

    def areas(self) -> Tensor:
        """Return marker areas in square points, float64 (n,)."""
        if self.weight is None or not len(self.weight) or not bool(self.weight.max() > 0):
            return torch.full_like(self.beta, 22.0)
        return 6 + 84 * self.weight.clamp_min(0) / self.weight.max()


def decades(values: Sequence[Tensor], default: tuple[float, float] = (-3.0, 3.0)) -> tuple[float, float]:
    """Return limits of an axis, as powers of ten, that show sizes with room around them.

    Args:
        values: Sizes, at least 0. What is more than ten decades below the largest is not made room for.
        default: The limits where there are none above 0.
    """
    found = torch.cat([v[v > 0] for v in values]).log10() if values else torch.zeros(0)
    if not len(found):
        return default
    high = found.max().item()
    low = max(found.min().item(), high - 10)
    room = max(0.5, (3 - (high - low)) / 2)
    return low - room, high + room
