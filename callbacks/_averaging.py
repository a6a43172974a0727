"""Callbacks that average weights: which of them would undo a change that is made at the start of a fit."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_NAMES = re.compile(r"EMA|Ema(?![a-z])|ExponentialMovingAverage|WeightAverag")
_LATER = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_before_zero_grad",
    "on_before_optimizer_step",
)
_DEPTH = 4


def begun_before(trainer: Trainer, weights: Iterable[Tensor], *, started: bool) -> Callback | None:
    """Return a callback whose average began with some weights; None if all averages start later.

    Lightning's ``StochasticWeightAveraging`` overwrites its copy when it starts, after an epoch or more. Of
    others a copy of the weights tells, once the fit has started; one that does nothing that can be seen is
    taken for one that has begun.

    Args:
        trainer: Its callbacks are looked at.
        weights: The parameters as they are now.
        started: Whether the callbacks' ``setup`` for this fit is over; before, whoever makes something there
            is taken for one that copies.
    """
    held = list(weights)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging) or not _averages(callback):
            continue
        acts = any(_overrides(callback, hook) for hook in _LATER)
        early = _copies(callback, held) if started else _overrides(callback, "setup")
        if early or not acts:
            return callback  # type: ignore[no-any-return]
    return None


def _averages(callback: Callback) -> bool:
    named = any(_NAMES.search(base.__name__) for base in type(callback).__mro__)
    return named or any(isinstance(value, AveragedModel) for value in vars(callback).values())


def _overrides(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook)


def _copies(callback: Callback, weights: list[Tensor]) -> bool:
    """Whether a callback holds a copy of any of the weights."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        if bool(weight.detach().ne(0).any()):  # zeros are equal to other zeros
            by_shape.setdefault(weight.shape, []).append(weight.detach())
    for tensor in _tensors(vars(callback), _DEPTH):
        for weight in by_shape.get(tensor.shape, []):
            apart = tensor.data_ptr() != weight.data_ptr()
            if apart and torch.equal(tensor.to(weight.device, weight.dtype), weight):
                return True
    return False


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    """Yield the tensors that an object keeps, as far as one can easily see."""
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, nn.Module):
        yield from (tensor.detach() for tensor in (*value.parameters(), *value.buffers()))
    elif depth and not isinstance(value, Trainer | Callback | type):
        parts = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        )
        for part in parts if len(parts) else getattr(value, "__dict__", {}).values():
            yield from _tensors(part, depth - 1)
