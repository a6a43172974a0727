"""Running a stranger's code in the middle of a fit so that nobody can tell afterwards."""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

_SILENT = ("log", "log_dict", "manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer")
_NOT_STATE = {
    *("_parameters", "_buffers", "_modules", "_trainer", "_fabric", "_compiled_call_impl", "training"),
    *(*_SILENT, "optimizers", "lr_schedulers"),
}
_DEPTH = 3


class _Idle:
    """Takes the place of optimizers and schedulers: whatever is asked of it does nothing."""

    def __init__(self, real: Any = None) -> None:
        groups = getattr(real, "param_groups", [])
        self.param_groups = [{k: v for k, v in group.items() if k != "params"} for group in groups]

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


@contextmanager
def traceless(trainer: Trainer, module: LightningModule, *, buffers: bool = True) -> Iterator[None]:
    """Put back, afterwards, what code of a module changes when it is run out of turn.

    Attributes of all its modules (counters, lists of outputs, states of metrics), buffers, layers that are
    built when they are first needed, and which parameters train. Logging is off meanwhile, loggers take
    everything and keep nothing, and optimizers that the module asks for (manual optimization) do nothing.
    Modes (train, eval) and random states are the caller's.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        buffers: Whether to put back buffers too.
    """
    undo = [_restorer_of(layer, buffers) for layer in module.modules()]
    trains = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    with ExitStack() as stack:
        stack.enter_context(_silent(trainer, module))
        try:
            yield
        finally:
            with torch.no_grad():
                for put_back in undo:
                    put_back()
            for parameter, flag in trains:
                parameter.requires_grad_(flag)


@contextmanager
def _silent(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Switch off logging and optimizing."""
    loggers = trainer.loggers
    owners = [layer for layer in module.modules() if isinstance(layer, LightningModule)]
    idle = _idle_optimizers(trainer)
    replaced: dict[str, Any] = dict.fromkeys(_SILENT, _nothing)
    replaced |= {"optimizers": lambda *_, **__: idle, "lr_schedulers": lambda *_, **__: _Idle()}
    kept = [(owner, {n: vars(owner)[n] for n in replaced if n in vars(owner)}) for owner in owners]
    for owner in owners:
        vars(owner).update(replaced)
    # Not through the setter, which other code may watch.
    trainer._loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer._loggers = loggers
        for owner, own in kept:
            for name in replaced:
                vars(owner).pop(name, None)
            vars(owner).update(own)


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def _idle_optimizers(trainer: Trainer) -> Any:
    """Return what ``module.optimizers()`` would: one, or a list."""
    idle = [_Idle(optimizer) for optimizer in trainer.optimizers]
    return idle[0] if len(idle) == 1 else idle


def _restorer_of(layer: nn.Module, buffers: bool) -> Callable[[], None]:
    """Return what puts back one module's attributes, its buffers and the names of its parts."""
    own = {name: value for name, value in vars(layer).items() if not _internal(name)}
    inner = [undo for value in own.values() if (undo := _remember(value, _DEPTH)) is not None]
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for held in (layer._parameters, layer._modules)
    ]
    kept = {n: (b, None if b is None else b.detach().clone()) for n, b in layer._buffers.items()}

    def put_back() -> None:
        state = vars(layer)
        for name in [n for n in state if n not in own and not _internal(n)]:
            del state[name]
        state.update(own)
        for restore in inner:
            restore()
        for held, before in parts:
            if list(held) != list(before) or any(held[n] is not before[n] for n in before):
                held.clear()
                held.update(before)
        if buffers:
            _restore_buffers(layer, kept)

    return put_back


def _internal(name: str) -> bool:
    """Whether a module's attribute belongs to torch or Lightning, not to whoever wrote the module."""
    hooks = name.startswith("_") and ("_hooks" in name or "_hook" in name)
    return hooks or name in _NOT_STATE


def _restore_buffers(layer: nn.Module, kept: dict[str, tuple[Tensor | None, Tensor | None]]) -> None:
    """Give a module its buffers again: the same tensors with the same numbers."""
    for name in [n for n in layer._buffers if n not in kept]:
        del layer._buffers[name]
    for name, (buffer, value) in kept.items():
        if buffer is not None and value is not None:
            if buffer.shape == value.shape:
                buffer.copy_(value)
            else:  # grown in place
                buffer.data = value
        layer._buffers[name] = buffer


def _remember(value: Any, depth: int) -> Callable[[], None] | None:
    """Return what makes an object again what it is now; None for what cannot change or is not ours."""
    if isinstance(value, nn.Module | nn.Parameter):
        return None  # a module of its own, or somebody else's; weights nobody changes out of turn
    if isinstance(value, Tensor):
        if value.is_nested or value.layout is not torch.strided or value.device.type == "meta":
            return None
        copied = value.detach().clone()
        return lambda: None if torch.equal(value, copied) else _fill(value, copied)
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return partial(_set_state, value, state)
    if depth and isinstance(value, list | dict | set | deque):
        held = copy.copy(value)
        members = list(value.values()) if isinstance(value, dict) else list(value)
        inner = [r for m in members[:10_000] if (r := _remember(m, depth - 1)) is not None]
        return lambda: _refill(value, held, inner)
    if depth and _plain_object(value):
        state_before = dict(vars(value))
        inner = [r for m in state_before.values() if (r := _remember(m, depth - 1)) is not None]
        return lambda: _refill(vars(value), state_before, inner)
    return None


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator back."""
    generator.set_state(state)


def _plain_object(value: Any) -> bool:
    """Whether something is a small object of a stranger's own, such as an average that counts."""
    if not hasattr(value, "__dict__") or isinstance(value, type) or callable(value):
        return False
    home = type(value).__module__
    path = getattr(sys.modules.get(home), "__file__", None) or ""
    return home.partition(".")[0] not in {*sys.stdlib_module_names, "lit_aux"} and "-packages" not in path


def _fill(tensor: Tensor, value: Tensor) -> None:
    """Put numbers back into a tensor."""
    if tensor.shape == value.shape:
        tensor.detach().copy_(value)
    else:
        tensor.data = value


def _refill(held: Any, before: Any, inner: list[Callable[[], None]]) -> None:
    """Put the members of a container back, and then what they hold."""
    if isinstance(held, list | deque):
        held.clear()
        held.extend(before)
    else:
        held.clear()
        held.update(before)
    for restore in inner:
        restore()
