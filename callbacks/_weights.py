"""Copies of a module's tensors, and running it with them for a moment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_aux.callbacks._names import clean


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones appear once, compiled ones without their prefix.

    Parameters that have no shape yet (of lazy layers) are left out.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    return {clean(name): tensor.detach() for name, tensor in named if not is_lazy(tensor)}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers to CPU memory."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in live_tensors(module).items()}


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the module in place; names that only one side has are left alone.

    What has another shape by now (a head that grew, a memory that fills) takes the other one's memory.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        value = tensors.get(clean(name))
        if value is None or is_lazy(tensor):
            continue
        if tensor.shape == value.shape:
            tensor.detach().copy_(value)
        else:
            tensor.data = value.to(tensor.device, tensor.dtype, copy=True)


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
    memory = {id(tensor): (tensor, tensor.data) for tensor in [*module.parameters(), *module.buffers()]}
    try:
        restore(module, tensors)
        yield
    finally:
        for tensor, data in memory.values():
            if not is_lazy(tensor) and tensor.shape != data.shape:
                tensor.data = data  # the memory that others may hold, too
        restore(module, own)
