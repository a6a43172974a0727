"""Copies of a module's tensors, and running it with them for a moment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_aux.callbacks._names import clean
from lit_aux.callbacks._parameters import refuse_uninitialized


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones appear once, compiled ones without their prefix.

    Raises:
        ConfigurationError: If one is of a lazy layer and has no value yet.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    refuse_uninitialized(type(module).__name__, dict(named))
    return {clean(name): tensor.detach() for name, tensor in named}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers to CPU memory."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in live_tensors(module).items()}


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the module in place; names that only one side has are left alone."""
    for name, tensor in live_tensors(module).items():
        if name in tensors:
            tensor.copy_(tensors[name])


@contextmanager
def swapped(module: nn.Module, tensors: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Give the module other values for a while and bring back its own, bit for bit, afterwards.

    Values are copied in place rather than exchanged, so that modules which hold further references to their
    weights (recurrent layers, optimizers, a DDP wrapper) see them too. ``None`` changes nothing.
    """
    if tensors is None:
        yield
        return
    own = snapshot(module)
    try:
        restore(module, tensors)
        yield
    finally:
        restore(module, own)
