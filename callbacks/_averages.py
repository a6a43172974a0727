"""Averaged copies of weights, and which weights a measurement is of."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel

_CLASS = re.compile(r"EMA|Ema(?![a-z])|MovingAverage|WeightAverag|AveragedModel|Polyak")
_NAME = re.compile(r"(^|_)(ema|swa|polyak|average|averaged|shadow)(_|$)")


def averaged_copies(module: nn.Module) -> dict[str, Any]:
    """Return what of a module seems to hold an average of its weights, by name."""
    found: dict[str, Any] = {}
    for owner_name, owner in module.named_modules():
        if any(owner_name == name or owner_name.startswith(f"{name}.") for name in found):
            continue
        for name, value in [*owner.named_children(), *vars(owner).items()]:
            named = _NAME.search(name) and (isinstance(value, nn.Module) or hasattr(value, "__dict__"))
            if isinstance(value, AveragedModel) or _averages(value) or (named and _holds_weights(value)):
                found.setdefault(f"{owner_name}.{name}".lstrip("."), value)
    return found


def _averages(value: Any) -> bool:
    """Whether a class is called after an average of weights, and the object holds something."""
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    return any(_CLASS.search(base.__name__) for base in type(value).__mro__) and _holds_weights(value)


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

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what runs meanwhile."""
        with ExitStack() as stack:
            for name, copy in self.copies.items():
                if isinstance(copy, nn.Module):
                    for part in copy.modules():
                        hook = part.register_forward_pre_hook(lambda *_, name=name: self.names.add(name))
                        stack.callback(hook.remove)
            yield

    def told(self) -> str:
        """Say which weights were measured; nothing where the module holds no averages."""
        if not self.copies:
            return ""
        if self.names:
            return f"measured the averaged copy {', '.join(sorted(self.names))}, which runs in eval mode"
        return (
            f"measured the weights that are trained, not the averaged copy {', '.join(sorted(self.copies))}"
        )


def averaging_callbacks(trainer: Trainer, asking: Any) -> str:
    """Say which weights a callback that measures as training ends sees beside others that average weights.

    Args:
        trainer: The Trainer.
        asking: The callback that measures.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    own = callbacks.index(asking) if asking in callbacks else len(callbacks)
    for place, one in enumerate(callbacks):
        if isinstance(one, StochasticWeightAveraging) or any(
            _CLASS.search(base.__name__) for base in type(one).__mro__
        ):
            name = type(one).__name__
            if place < own:
                return f"measured the average of {name}, which comes first"
            return f"measured the weights that are trained, before {name} puts in its average"
    return ""


def which_weights(trainer: Trainer, module: LightningModule, asking: Any, ran: Ran | None = None) -> str:
    """Say which weights were measured, where there are averages of them; nothing otherwise."""
    parts = [(ran or Ran(module)).told(), averaging_callbacks(trainer, asking)]
    return "; ".join(part for part in parts if part)
