"""What callbacks that change weights do about the running statistics of batch normalization."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_aux.callbacks._names import clean
from lit_aux.callbacks.probe import ToInput, default_to_input


def total_over_processes(trainer: Trainer, sums: Tensor) -> Tensor:
    """Return the sum of a float64 tensor over the processes, on the CPU; every process must call this."""
    if trainer.world_size == 1:  # also where the device has no float64
        return sums
    moved = sums.to(trainer.strategy.root_device)
    return torch.as_tensor(trainer.strategy.reduce(moved, reduce_op="sum")).cpu()


def passes(batch: Any, to_input: ToInput) -> list[Any]:
    """Return what to run the network on, pass by pass, so that it sees all inputs of a batch.

    Of ``{task: (x, y)}`` tasks whose inputs have the same shape and dtype share a pass, as in the project's
    networks; a task that a batch has nothing of may be None.

    Args:
        batch: A training batch.
        to_input: Finds the input; taken as it is, in one pass, unless it is the default.
    """
    if to_input is not default_to_input or not isinstance(batch, Mapping):
        return [to_input(batch)]
    held = {task: pair for task, pair in batch.items() if pair is not None}
    if not all(isinstance(pair, tuple | list) for pair in held.values()):
        return [to_input(batch)]
    kinds: dict[Any, dict[str, Any]] = {}
    for task, pair in held.items():
        x = default_to_input(pair)
        kinds.setdefault((x.shape[1:], x.dtype), {})[task] = pair
    return [default_to_input(alike) for alike in kinds.values()]


def warn_of_layers(user: str, module: nn.Module, layers: Iterable[nn.Module], text: str) -> None:
    """Warn about some layers of a module; the text says what about them."""
    names = {id(layer): clean(name) for name, layer in module.named_modules()}
    found = [names.get(id(layer), type(layer).__name__) for layer in layers]
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    rank_zero_warn(f"{user}: {text.format(layers=shown)}")
