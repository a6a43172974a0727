"""What tensors are divided by before squares are taken, so that none overflows and not all vanish."""

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError


def safe_scale(largest: Tensor) -> Tensor:
    """Return what to divide values by: 1 for all of ordinary size, whose digits then stay as they are.

    Args:
        largest: The largest magnitudes among the values; floating point.

    Returns:
        ``largest`` where its square would overflow or vanish, 1 elsewhere: also for 0, NaN and infinity.
    """
    kind = torch.finfo(largest.dtype)
    odd = (largest < kind.tiny**0.25) & (largest > 0) | (largest > kind.max**0.25) & largest.isfinite()
    return torch.where(odd, largest, torch.ones_like(largest))


def ordinary(squares: Tensor) -> bool:
    """Return whether no sum of squares is near an end of its dtype, nor 0, which small ones may have become.

    False too where values cannot be read: in ``torch.vmap`` and compiled code.
    """
    if torch.compiler.is_compiling():
        return False
    kind = torch.finfo(squares.dtype)
    try:
        return bool(((squares > kind.tiny**0.5) & (squares < kind.max**0.5)).all())
    except RuntimeError:
        return False


def magnitude(name: str, values: Tensor, what: str) -> Tensor:
    """Return the largest magnitude in a tensor, 0-dim float64, without a copy of it; 0 for an empty one.

    Args:
        name: The argument, for the error.
        values: A tensor of any real dtype.
        what: What it should hold, for the error.

    Raises:
        ConfigurationError: For NaN or an infinite value.
    """
    if not values.numel():
        return torch.zeros((), dtype=torch.float64, device=values.device)
    try:
        ends = torch.aminmax(values)
    except NotImplementedError:  # torch orders neither float8 nor large unsigned integers
        ends = torch.aminmax(values.to(torch.float64))
    low, high = (end.to(torch.float64) for end in ends)
    largest = torch.maximum(high, -low)
    if not bool(largest.isfinite()):
        raise ConfigurationError(f"{name}: has NaN or infinite values; give finite {what}")
    return largest


def scaled_norm(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the Euclidean norm over some dimensions, right for all that the dtype holds.

    Half precision is computed in float32. Gradients are those of the norm, 0 at 0.
    """
    wide = values.float() if values.dtype.itemsize < 4 else values
    dims = (dim,) if isinstance(dim, int) else dim
    if any(values.shape[d] == 0 for d in dims):
        return wide.sum(dims).to(values.dtype)
    plain: Tensor = torch.linalg.vector_norm(wide, dim=dims)
    if ordinary(plain.detach().square()):
        return plain.to(values.dtype)
    scale = safe_scale(wide.detach().abs().amax(dims, keepdim=True))
    norm: Tensor = torch.linalg.vector_norm(wide / scale, dim=dims) * scale.squeeze(dims)
    return norm.to(values.dtype)
