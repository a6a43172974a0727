"""Tensors and plain numbers of one formula: checked, in float64, broadcast against each other."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite

Values: TypeAlias = Tensor | float
"""A tensor of any real dtype, an array, or a number."""

_ROUNDING = 1e-6
"""How far above 1 a correlation may be: cosines of float32 vectors are by about 1e-7."""


def elementwise(**inputs: Values) -> tuple[list[Tensor], torch.dtype]:
    """Make the inputs of an elementwise formula float64 tensors of one shape.

    Args:
        inputs: By the names that the user knows.

    Returns:
        The tensors, and the dtype of the answer: the largest floating one among the tensors given, as torch
        promotes them; float64 where there is none. Gradients flow through both conversions. All are on the
        device of the tensors given, numbers among them (on the CPU for MPS, which has no float64).

    Raises:
        ConfigurationError: For what is no real number, not finite, of shapes that do not broadcast, or on
            several devices.
    """
    place = _place(inputs)
    found = {name: _tensor(name, value, place) for name, value in inputs.items()}
    dtypes = [tensor.dtype for name, tensor in found.items() if not isinstance(inputs[name], int | float)]
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    answer = torch.float64
    if floating:
        answer = floating[0]
        for dtype in floating[1:]:
            answer = torch.promote_types(answer, dtype)
    try:
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in found.values()))  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.items())
        raise ConfigurationError(f"shapes do not broadcast: {shapes}") from None
    return [tensor.to(torch.float64).expand(shape) for tensor in found.values()], answer


def not_negative(name: str, tensor: Tensor) -> None:
    """Raise `ConfigurationError` where an entry is below 0."""
    if bool((tensor < 0).any()):
        raise ConfigurationError(f"{name}: {tensor.min():g} is negative; give values of at least 0")


def correlations(name: str, tensor: Tensor) -> Tensor:
    """Return correlations, with what rounding left beyond 1 cut off."""
    if bool((tensor.abs() > 1 + _ROUNDING).any()):
        worst = tensor.flatten()[tensor.abs().argmax()]
        raise ConfigurationError(f"{name}: {worst:g} is no correlation; give values from -1 to 1")
    return tensor.clamp(-1, 1)


def _place(inputs: dict[str, Values]) -> torch.device:
    """Return the device of the tensors; single numbers on the CPU go along with others, as in torch."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    bound = {n: t.device for n, t in tensors.items() if t.ndim or t.device.type != "cpu"}
    if len({*bound.values()}) > 1:
        places = ", ".join(f"{name} {device}" for name, device in bound.items())
        raise ConfigurationError(f"tensors are on different devices: {places}; give all on one")
    device = next(iter(bound.values()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "mps" else device  # MPS has no float64


def _tensor(name: str, value: Any, place: torch.device) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, int | float) else None)
        tensor = tensor.to(place)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigurationError(f"{name}: {value!r} is no tensor; give numbers") from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ConfigurationError(f"{name}: {tensor.dtype} is no real number; give floating point")
    if not all_finite(tensor):
        raise ConfigurationError(f"{name}: has NaN or infinite values; give finite numbers")
    return tensor
