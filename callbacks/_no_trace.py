"""Looking at a network in the middle of a fit so that nobody can tell afterwards.

What may change has one context each that puts it back, also after an error: :func:`traceless` all that a
module holds beside its weights, and the Trainer's loggers; :func:`swapped` and :func:`full_precision` the
weights; :func:`attached` hooks; :func:`fixed_rng` the random states; :func:`forgetting` what one pass keeps
for another. :func:`never_fatal` lets the fit go on where looking failed.
"""

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from lit_aux.callbacks._parameters import cleaner
from lit_aux.errors import first_line

_SILENT = ("log", "log_dict", "manual_backward", "clip_gradients", "toggle_optimizer", "untoggle_optimizer")
_NOT_STATE = {
    *("_parameters", "_buffers", "_modules", "_trainer", "_fabric", "_compiled_call_impl", "training"),
    *(*_SILENT, "optimizers", "lr_schedulers"),
}
_DEPTH = 3
_HALF = (torch.float16, torch.bfloat16)


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

    Attributes of all its modules (counters, lists of outputs, states of metrics), modes (train, eval),
    buffers, layers that are built when they are first needed, and which parameters train. Logging is off
    meanwhile, loggers take everything and keep nothing, and optimizers that the module asks for (manual
    optimization) do nothing. Weights and random states are not its business, see above.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        buffers: Whether to put back buffers too.
    """
    undo = [_restorer_of(layer, buffers) for layer in module.modules()]
    modes = [(layer, layer.training) for layer in module.modules()]
    trains = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        with _silent(trainer, module):
            yield
    finally:
        with torch.no_grad():
            for put_back in undo:
                put_back()
        for layer, mode in modes:
            layer.training = mode
        for parameter, flag in trains:
            parameter.requires_grad_(flag)


@contextmanager
def _silent(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Switch off logging and optimizing."""
    loggers = trainer.loggers
    owners = [layer for layer in module.modules() if isinstance(layer, LightningModule)]
    idle = [_Idle(optimizer) for optimizer in trainer.optimizers]
    replaced: dict[str, Any] = dict.fromkeys(_SILENT, lambda *_, **__: None)
    replaced["optimizers"] = lambda *_, **__: idle[0] if len(idle) == 1 else idle
    replaced["lr_schedulers"] = lambda *_, **__: _Idle()
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


def _restorer_of(layer: nn.Module, buffers: bool) -> Callable[[], object]:
    """Return what puts back one module's attributes, its buffers and the names of its parts."""
    own, put_back_attributes = _attributes_of(layer)
    inner = [undo for value in own.values() if (undo := _remember(value, _DEPTH)) is not None]
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for held in (layer._parameters, layer._modules)
    ]
    kept = {n: (b, None if b is None else b.detach().clone()) for n, b in layer._buffers.items()}

    def put_back() -> None:
        put_back_attributes()
        for restore in inner:
            restore()
        for held, before in parts:
            if list(held) != list(before) or any(held[n] is not before[n] for n in before):
                held.clear()
                held.update(before)
        if buffers:
            _restore_buffers(layer, kept)

    return put_back


def _attributes_of(layer: nn.Module) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return a module's own attributes, and what puts them back."""
    own = {name: value for name, value in vars(layer).items() if not _internal(name)}

    def put_back() -> None:
        state = vars(layer)
        for name in [n for n in state if n not in own and not _internal(n)]:
            del state[name]
        state.update(own)

    return own, put_back


@contextmanager
def forgetting(module: nn.Module) -> Iterator[None]:
    """Drop, afterwards, what modules keep of a pass for the next one: tensors computed from weights, say.

    For passes in eval mode with and without gradients, or at several weights, of which none may see what
    another one has kept. Attributes are put back, and what containers among them hold; numbers are not.
    """
    kept = []
    for layer in module.modules():
        own, put_back = _attributes_of(layer)
        held = [(v, copy.copy(v)) for v in own.values() if isinstance(v, list | dict | set | deque)]
        kept.append((put_back, held))
    try:
        yield
    finally:
        for put_back, held in kept:
            put_back()
            for container, before in held:
                if [*map(id, _members(container))] != [*map(id, _members(before))]:
                    _refill(container, before, [])


def _members(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


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
            _fill(buffer, value)
        layer._buffers[name] = buffer


def _remember(value: Any, depth: int) -> Callable[[], object] | None:
    """Return what makes an object again what it is now; None for what cannot change or is not ours."""
    if isinstance(value, nn.Module | nn.Parameter):
        return None  # a module of its own, or somebody else's; weights nobody changes out of turn
    if isinstance(value, Tensor):
        if value.is_nested or value.layout is not torch.strided or value.device.type == "meta":
            return None
        copied = value.detach().clone()
        return lambda: None if torch.equal(value, copied) else _fill(value, copied)
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    container = isinstance(value, list | dict | set | deque)
    if not depth or not (container or _plain_object(value)):
        return None
    held = value if container else vars(value)
    before = copy.copy(held)
    members = list(held.values()) if isinstance(held, dict) else list(held)
    inner = [r for m in members[:10_000] if (r := _remember(m, depth - 1)) is not None]
    return lambda: _refill(held, before, inner)


def _plain_object(value: Any) -> bool:
    """Whether something is a small object of a stranger's own, such as an average that counts."""
    if not hasattr(value, "__dict__") or isinstance(value, type) or callable(value):
        return False
    home = type(value).__module__
    path = getattr(sys.modules.get(home), "__file__", None) or ""
    return home.partition(".")[0] not in {*sys.stdlib_module_names, "lit_aux"} and "-packages" not in path


def _fill(tensor: Tensor, value: Tensor) -> None:
    """Put numbers back into a tensor, which may have grown in place."""
    if tensor.shape == value.shape:
        tensor.detach().copy_(value)
    else:
        tensor.data = value


def _refill(held: Any, before: Any, inner: list[Callable[[], object]]) -> None:
    """Put the members of a container back, and then what they hold."""
    held.clear()
    put = held.extend if isinstance(held, list | deque) else held.update
    put(before)
    for restore in inner:
        restore()


@contextmanager
def attached(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks that were just registered when the block ends."""
    handles: list[RemovableHandle] = []
    try:
        handles.extend(hooks)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def fixed_rng(seed: int = 0) -> Iterator[None]:
    """Run with random generators seeded alike every time, and put their states back afterwards."""
    isolated = isolate_rng()
    isolated.__enter__()
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the global state is what datasets draw from
        torch.manual_seed(seed)
        yield
    finally:  # which isolate_rng by itself does not do after an error
        isolated.__exit__(None, None, None)


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones appear once, wrapped ones without their prefix.

    Parameters that have no shape yet (of lazy layers) are left out.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    plain = cleaner(module)
    return {plain(name): tensor.detach() for name, tensor in named if not is_lazy(tensor)}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers to CPU memory."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in live_tensors(module).items()}


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the module in place; names that only one side has are left alone.

    What has another shape by now (a head that grew, a memory that fills) takes the other one's memory.
    """
    plain = cleaner(module)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        value = tensors.get(plain(name))
        if value is None or is_lazy(tensor):
            continue
        if tensor.shape != value.shape:
            value = value.to(tensor.device, tensor.dtype, copy=True)
        _fill(tensor, value)


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


def told(error: BaseException) -> str:
    """Say an error in one line."""
    line, name = first_line(error), type(error).__name__
    return line if name in (line, "ConfigurationError") else f"{name}: {line}"


@contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Turn an error into a warning, since what was trained is worth more than a measurement of it.

    Args:
        what: What was tried, for the warning.
    """
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{what} failed, and training goes on without: {told(error)}")
