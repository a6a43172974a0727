"""Tensors in configurations: lists of numbers, as ``weight: [1, 5]`` of a loss."""

from contextlib import suppress
from typing import Any

import torch
from jsonargparse.typing import register_type
from torch import Tensor


def register_tensors() -> None:
    """Let every option that takes a tensor be written as a list of numbers, nested where it has rows.

    It becomes a tensor of the default dtype, as losses want their weights, and is saved as a list.
    """
    register_type(Tensor, serializer=_listed, deserializer=_tensor, type_check=isinstance)


def _tensor(given: Any) -> Tensor:
    """Make a tensor of a list of numbers.

    Raises:
        ValueError: For anything else, and for rows of different lengths.
    """
    if isinstance(given, list) and _are_numbers(given):
        # rows of different lengths, numbers beyond any dtype
        with suppress(ValueError, RuntimeError, OverflowError):
            return torch.tensor(given, dtype=torch.get_default_dtype())
    raise ValueError(f"Expected a list of numbers. Got value: {given}")


def _are_numbers(given: Any) -> bool:
    if isinstance(given, list):
        return bool(given) and all(map(_are_numbers, given))
    return isinstance(given, int | float) and not isinstance(given, bool)


def _listed(tensor: Tensor) -> Any:
    """Return a tensor's values as nested lists, each in the fewest digits that tell it: 0.1 stays 0.1."""
    if tensor.ndim:
        return [_listed(row) for row in tensor]
    value = tensor.item()
    if not isinstance(value, float) or tensor.dtype == torch.float64:
        return value
    return float(str(tensor.float().numpy()[()]))
