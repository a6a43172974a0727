"""Averaged copies of weights: which weights a measurement is of, and what would undo a change of them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lit_aux.callbacks._inputs import parts_of
from lit_aux.callbacks._no_trace import attached

_CLASS = re.compile(r"EMA|Ema(?![a-z])|MovingAverage|WeightAverag|AveragedModel|Polyak")
_NAME = re.compile(r"(^|_)(ema|swa|polyak|average|averaged|shadow)(_|$)")
_LATER = (
    *("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"),
    *("on_train_epoch_end", "on_before_zero_grad", "on_before_optimizer_step"),
)
_DEPTH = 4


def averaged_copies(module: nn.Module) -> dict[str, Any]:
    """Return what of a module seems to hold an average of its weights, by name."""
    found: dict[str, Any] = {}
    for owner_name, owner in module.named_modules():
        if any(owner_name == name or owner_name.startswith(f"{name}.") for name in found):
            continue
        for name, value in [*owner.named_children(), *vars(owner).items()]:
            if isinstance(value, type) or not hasattr(value, "__dict__"):
                continue
            called = _NAME.search(name) or _is_called_average(value)
            if isinstance(value, AveragedModel) or (called and _holds_weights(value)):
                found.setdefault(f"{owner_name}.{name}".lstrip("."), value)
    return found


def _is_called_average(value: Any) -> bool:
    """Whether an object's class, or a base, is called after an average of weights."""
    return any(_CLASS.search(base.__name__) for base in type(value).__mro__)


def _holds_weights(value: Any) -> bool:
    """Whether an object has parameters, buffers or a collection of tensors."""
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters()) or any(True for _ in value.buffers())
    return any(isinstance(inner, list | dict | tuple | nn.Module) and inner for inner in vars(value).values())


class Ran:
    """Notes which averaged copies run, to say of which weights a measurement is.

    Args:
        module: The module that is measured.
    """

    def __init__(self, module: nn.Module) -> None:
        self.copies = averaged_copies(module)
        self.names: set[str] = set()

    def watching(self) -> AbstractContextManager[None]:
        """Note what runs meanwhile."""
        return attached(
            part.register_forward_pre_hook(lambda *_, name=name: self.names.add(name))
            for name, copy in self.copies.items()
            if isinstance(copy, nn.Module)
            for part in copy.modules()
        )

    def told(self) -> str:
        """Say which weights were measured; nothing where the module holds no averages."""
        if not self.copies:
            return ""
        if self.names:
            return f"measured the averaged copy {', '.join(sorted(self.names))}, which runs in eval mode"
        copies = ", ".join(sorted(self.copies))
        return f"measured the weights that are trained, not the averaged copy {copies}"


def averaging_callbacks(trainer: Trainer, asking: Any) -> str:
    """Say which weights a callback that measures as training ends sees beside others that average weights.

    Args:
        trainer: The Trainer.
        asking: The callback that measures.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    own = callbacks.index(asking) if asking in callbacks else len(callbacks)
    for place, one in enumerate(callbacks):
        if isinstance(one, StochasticWeightAveraging) or _is_called_average(one):
            name = type(one).__name__
            if place < own:
                return f"measured the average of {name}, which comes first"
            return f"measured the weights that are trained, before {name} puts in its average"
    return ""


def which_weights(trainer: Trainer, asking: Any, ran: Ran) -> str:
    """Say which weights were measured, where there are averages of them; nothing otherwise."""
    return "; ".join(filter(None, (ran.told(), averaging_callbacks(trainer, asking))))


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
        holds = any(isinstance(value, AveragedModel) for value in vars(callback).values())
        known = isinstance(callback, StochasticWeightAveraging)
        if known or not (holds or _is_called_average(callback)):
            continue
        acts = any(_overrides(callback, hook) for hook in _LATER)
        early = _copies(callback, held) if started else _overrides(callback, "setup")
        if early or not acts:
            return callback  # type: ignore[no-any-return]
    return None


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
        for part in parts_of(value) or getattr(value, "__dict__", {}).values():
            yield from _tensors(part, depth - 1)
