"""Checks of a diagonal network's regression problem."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

NAMES = ("w_plus", "v_plus", "w_minus", "v_minus")


def checked_problem(
    x: Tensor, y: Tensor, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return everything in float64, or raise for what does not fit."""
    if x.ndim != 2 or 0 in x.shape:
        raise ConfigurationError(f"x: its shape is {tuple(x.shape)}; give inputs (n, D)")
    if y.shape[-1:] != x.shape[:1]:
        raise ConfigurationError(f"y: its shape is {tuple(y.shape)}; give targets (..., {len(x)})")
    missing = [name for name in NAMES if name not in weights]
    if missing or len(weights) != len(NAMES):
        raise ConfigurationError(f"weights: they are {', '.join(weights)}; give {', '.join(NAMES)}")
    start = {name: weights[name].detach().to(x.device, torch.float64) for name in NAMES}
    for name, value in start.items():
        if value.shape[-1:] != x.shape[1:]:
            raise ConfigurationError(
                f"weights: the shape of {name} is {tuple(value.shape)}; give (..., {x.shape[1]})"
            )
    for name, value in {"x": x, "y": y, **start}.items():
        if not bool(value.isfinite().all()):
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
