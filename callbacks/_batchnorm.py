"""What callbacks that change weights do about the running statistics of batch normalization."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_aux.callbacks._inputs import Inputs
from lit_aux.callbacks._names import clean
from lit_aux.callbacks.probe import default_to_input


def total_over_processes(trainer: Trainer, sums: Tensor) -> Tensor:
    """Return the sum of a float64 tensor over the processes, on the CPU; every process must call this."""
    if trainer.world_size == 1:  # also where the device has no float64
        return sums
    moved = sums.to(trainer.strategy.root_device)
    return torch.as_tensor(trainer.strategy.reduce(moved, reduce_op="sum")).cpu()


def by_pass(batch: Any) -> list[Inputs] | None:
    """Return what to run the network on, pass by pass, so that it sees the inputs of all tasks of a batch.

    Of ``{task: (x, y)}`` tasks whose inputs have the same shape and dtype share a pass, as in the project's
    networks; a task that a batch has nothing of may be None.

    Args:
        batch: A training batch; None is returned for any other than this.
    """
    held = {k: pair for k, pair in batch.items() if pair is not None} if isinstance(batch, Mapping) else {}
    if not held or not all(isinstance(pair, tuple | list) for pair in held.values()):
        return None
    kinds: dict[Any, dict[str, Any]] = {}
    for task, pair in held.items():
        x = default_to_input(pair)
        kinds.setdefault((x.shape[1:], x.dtype), {})[task] = pair
    passes = [default_to_input(alike) for alike in kinds.values()]
    return [Inputs((x,), size=len(x)) for x in passes]


def warn_of_layers(user: str, module: nn.Module, layers: Iterable[nn.Module], text: str) -> None:
    """Warn about some layers of a module; the text says what about them."""
    names = {id(layer): clean(name) for name, layer in module.named_modules()}
    found = [names.get(id(layer), type(layer).__name__) for layer in layers]
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    rank_zero_warn(f"{user}: {text.format(layers=shown)}")
