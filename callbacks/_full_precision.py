"""Weights of half precision as float32, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def full_precision(module: nn.Module) -> Iterator[None]:
    """Give a module float32 copies of its parameters and buffers of half precision; then its own again.

    The module's own tensors are neither changed nor cast: a data-parallel wrapper, and an optimizer, hold on
    to them.
    """
    replaced: list[tuple[nn.Module, str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    try:
        for owner in list(module.modules()):
            for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
                if tensor is None or tensor.dtype not in _HALF:
                    continue
                if id(tensor) not in copies:  # tied weights stay tied
                    copies[id(tensor)] = _copy(tensor)
                replaced.append((owner, name, tensor))
                setattr(owner, name, copies[id(tensor)])
        yield
    finally:
        for owner, name, tensor in replaced:
            setattr(owner, name, tensor)


def widened(batch: Any) -> Any:
    """Return a collection with its tensors of half precision in float32."""
    return apply_to_collection(batch, Tensor, lambda t: t.float() if t.dtype in _HALF else t)


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().float()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
