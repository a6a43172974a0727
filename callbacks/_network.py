"""Calling a stranger's network as the stranger's own code calls it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lit_aux.callbacks._inputs import GIVEN, Inputs, Mask, candidates, first_sizes, size_of
from lit_aux.callbacks._no_trace import attached, told, traceless
from lit_aux.callbacks._options import asked, name_of
from lit_aux.callbacks._parameters import uncompiled
from lit_aux.errors import ConfigurationError
from lit_aux.trees import concatenated, form_of, tensors_of

Read = TypeVar("Read")
_STEPS = ("validation_step", "training_step", "predict_step", "test_step")


class _Caught(BaseException):
    """Ends a step as soon as it has called the network; no ``except Exception`` stops it."""


class Reader:
    """Finds in batches what the network is called with.

    A ``to_input`` decides, where there is one. Otherwise the module's own step is run on the batch up to the
    moment at which it calls the network, and what it passes is taken. A step that never calls the network's
    ``forward`` but runs its parts is itself what is run. Where no step can be run, arguments are matched by
    name, or taken in order.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        to_input: Finds the input in a batch: one argument, or a tuple or dictionary of several.
        mask: Where masks of padded inputs come from.
        training: Whether batches are those of training.
        own: Whether they come from the Trainer's loaders, so that the module's steps know them; of others, a
            tensor is the input itself.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        to_input: Callable[[Any], Any] | None,
        *,
        mask: Mask = False,
        training: bool = False,
        own: bool = True,
    ) -> None:
        self.trainer, self.module, self.to_input = trainer, module, to_input
        self.mask, self.network, self.own = mask, network_of(module), own
        steps = [name for name in _STEPS if is_overridden(name, module, LightningModule)]
        if training:
            steps.sort(key=lambda name: name != "training_step")
        self._steps, self._whole = steps, ""

    def __call__(self, batch: Any, loader: int = 0) -> Inputs:
        """Return the arguments for one batch, which is on the module's device.

        Raises:
            ConfigurationError: If no input can be found; for a ``mask`` that is no mask of this batch.
        """
        found = self._arguments(batch, loader)
        found.size = size_of((found.args, found.kwargs)) if self.to_input else size_of(batch)
        leaves = {*first_sizes((found.args, found.kwargs))}
        if found.size not in leaves and leaves:
            found.size = size_of((found.args, found.kwargs))
        found.masks = self._masks(batch, found)
        return found

    def given(self, inputs: Any) -> Inputs:
        """Return the arguments for inputs that are not a batch of a loader."""
        found = as_inputs(inputs, self.network)
        found.size = size_of((found.args, found.kwargs))
        found.masks = self._masks(inputs, found)
        return found

    def _arguments(self, batch: Any, loader: int) -> Inputs:
        if self.to_input is not None:
            found = as_inputs(asked("to_input", self.to_input, batch), self.network)
            if not any(first_sizes((found.args, found.kwargs))):
                raise ConfigurationError(
                    f"to_input: {name_of(self.to_input)} returns no tensor; give a function of a batch that "
                    "returns what forward takes"
                )
            return found
        if isinstance(batch, Mapping) and batch and all(isinstance(v, tuple | list) for v in batch.values()):
            joined = _of_all_tasks(batch)
            if joined is not None:
                return as_inputs(joined, self.network)
        if isinstance(batch, Tensor) and not self.own:
            return Inputs((batch,))
        if self._whole:
            return Inputs((batch,), step=self._whole, loader=loader)
        for step in self._steps:
            caught = self._caught(step, batch, loader)
            if caught is not None:
                self._steps, self._whole = [step], caught.step  # and so for every batch
                return caught
        matched = None if self.network is None else matching(batch, self.network)
        return matched or Inputs((default_to_input(batch),))

    def _caught(self, step: str, batch: Any, loader: int) -> Inputs | None:
        """Return what a step passes to the network; None where it cannot be run or runs nothing."""
        ran: list[nn.Module] = []
        found: list[Inputs] = []

        def catch(*args: Any, **kwargs: Any) -> None:
            found.append(Inputs(args, kwargs))
            raise _Caught

        layers = [layer for layer in self.module.modules() if layer is not self.module]
        layers = [layer for layer in layers if next(layer.parameters(recurse=False), None) is not None]
        with (
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),
            traceless(self.trainer, self.module),
            attached(layer.register_forward_pre_hook(lambda m, _: ran.append(m)) for layer in layers),
            self.trainer.precision_plugin.forward_context(),
        ):
            self.module.eval()
            if self.network is not None:  # also where code calls forward by its name
                vars(self.network)["forward"] = catch
            try:
                run_step(self.module, Inputs((batch,), step=step, loader=loader))
            except _Caught:
                return found[0]
            except Exception:
                return None
        return Inputs((batch,), step=step, loader=loader) if ran else None

    def _masks(self, batch: Any, found: Inputs) -> dict[str, Tensor]:
        """Return what may say which positions are real."""
        if self.mask is False:
            return {}
        if callable(self.mask):
            given = asked("mask", self.mask, batch)
            if not isinstance(given, Tensor) or given.ndim < 2 or len(given) != found.size:
                raise ConfigurationError(
                    f"mask: {_described(given)} for {found.size} samples; give (samples, positions)"
                )
            return {GIVEN: given.detach()}
        members = {k: v for k, v in members_of(batch).items() if isinstance(v, Tensor)}
        if not isinstance(self.mask, str):  # maps of pixels may be what is to be learned
            members = {k: v for k, v in members.items() if v.ndim < 3}
        return candidates(members | named_arguments(found, self.network), found.size)


def _of_all_tasks(batch: Mapping[Any, Any]) -> Any:
    """Return the inputs of all tasks of a batch ``{task: (x, y)}``; None where they are not of one form."""
    inputs = [pair[0] for pair in batch.values() if len(pair)]
    if all(isinstance(x, Mapping | tuple) and tensors_of(x) for x in inputs):
        return concatenated(inputs) if len({form_of(x) for x in inputs}) == 1 else None
    try:
        return default_to_input(batch)
    except (ConfigurationError, RuntimeError):
        return None


def default_to_input(batch: Any) -> Any:
    """Find the network's input in a batch.

    A tensor is itself; of a tuple or list, the first element counts; a mapping whose values are tuples or
    lists (``{task: (x, y)}``) gives the inputs of all of them, one after another; any other mapping gives its
    first tensor.

    Raises:
        ConfigurationError: If there is no tensor where one is looked for.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping) and batch:
        values = list(batch.values())
        if all(isinstance(value, tuple | list) for value in values):
            return torch.cat([default_to_input(value) for value in values])
        tensors = [value for value in values if isinstance(value, Tensor)]
        if tensors:
            return tensors[0]
    if isinstance(batch, tuple | list) and batch:
        return default_to_input(batch[0])
    raise ConfigurationError(
        f"to_input: no tensor found in a batch of type {type(batch).__name__}; pass to_input="
    )


def network_of(module: LightningModule) -> nn.Module | None:
    """Return what is called: the module, or its only child with parameters if it defines no ``forward``."""
    if type(module).forward is not LightningModule.forward:
        return module
    children = [c for c in module.children() if next(c.parameters(), None) is not None]
    return uncompiled(children[0]) if len(children) == 1 else None


def read_ahead(reader: Callable[[Any], Read], batches: Iterable[Any]) -> Iterator[Read]:
    """Read the first of some batches at once, the others when they are asked for."""
    remaining = iter(batches)
    first = [reader(batch) for batch in islice(remaining, 1)]
    return chain(first, map(reader, remaining))


def call(trainer: Trainer, module: LightningModule, inputs: Inputs) -> None:
    """Run the network, or a step of the module, on inputs on the module's device.

    Raises:
        ConfigurationError: If that fails, with what to do about it.
    """
    network = network_of(module)
    try:
        with trainer.precision_plugin.forward_context():
            if inputs.step:
                run_step(module, inputs)
            elif network is None:
                name = type(module).__name__
                raise ConfigurationError(f"probe: {name} defines no forward(x) to run it through")
            else:
                network(*inputs.args, **inputs.kwargs)
    except ConfigurationError:
        raise
    except Exception as error:
        what = inputs.step or "forward"
        given = [_described(value) for value in inputs.args]
        given += [f"{name}={_described(value)}" for name, value in inputs.kwargs.items()]
        raise ConfigurationError(
            f"to_input, probe: {type(module).__name__}.{what} fails on ({', '.join(given)}) "
            f"({told(error)}); give to_input=, a function of a batch that "
            "returns what forward takes (one argument, or a tuple or dictionary of several), or the inputs "
            "themselves as probe="
        ) from error


def run_step(module: LightningModule, inputs: Inputs) -> None:
    """Run a step of a module on a batch, with as many arguments as it takes."""
    function = getattr(module, inputs.step)
    known = inspect.signature(function).parameters
    several = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in known.values())
    given = (inputs.args[0], 0, inputs.loader)
    function(*given[: 2 if several else max(1, len(known))])


def _described(value: Any) -> str:
    """Return the shape of a tensor, in words what else it is."""
    plain = isinstance(value, Tensor) and not value.is_nested
    return str(tuple(value.shape)) if plain else type(value).__name__


def as_inputs(found: Any, network: nn.Module | None) -> Inputs:
    """Return what was given as the arguments that the network takes.

    A dictionary is passed by name and a tuple or list in order where the network takes them so; anything is
    one argument otherwise.
    """
    if isinstance(found, Inputs):
        return found
    if network is not None and isinstance(found, Mapping) and _bound(network, (), found) is not None:
        return Inputs((), {str(key): value for key, value in found.items()})
    if network is not None and isinstance(found, tuple | list) and len(found) > 1:
        required, _, several = _parameters(network)
        if (len(required) > 1 or several) and _bound(network, tuple(found), {}) is not None:
            return Inputs(tuple(found))
    return Inputs((found,))


def matching(batch: Any, network: nn.Module) -> Inputs | None:
    """Return the members of a batch that have the names of a network's arguments, or come first in it."""
    required, names, _ = _parameters(network)
    members = members_of(batch)
    if members and required and all(name in members for name in required):
        return Inputs((), {name: members[name] for name in names if name in members})
    if isinstance(batch, tuple | list) and 1 < len(required) <= len(batch):
        return Inputs(tuple(batch[: len(required)]))
    return None


def _parameters(network: nn.Module) -> tuple[list[str], list[str], bool]:
    """Return the names that a network's ``forward`` needs, all its names, and whether it takes any number."""
    try:
        known = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return [], [], False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    plain = [p for p in known if p.kind not in variable]
    required = [p.name for p in plain if p.default is inspect.Parameter.empty]
    return required, [p.name for p in plain], any(p.kind is variable[0] for p in known)


def _bound(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[Any, Any]) -> dict[str, Any] | None:
    """Return arguments by the names that a network's ``forward`` gives them; None where it refuses them."""
    try:
        return dict(inspect.signature(network.forward).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return None


def members_of(batch: Any) -> dict[str, Any]:
    """Return what a batch holds by name."""
    if isinstance(batch, Mapping):
        return {str(key): value for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if is_dataclass(batch) and not isinstance(batch, type):
        return {one.name: getattr(batch, one.name, None) for one in fields(batch)}
    if isinstance(batch, list | tuple):  # a dictionary beside its labels
        return {k: v for inner in batch if isinstance(inner, Mapping) for k, v in members_of(inner).items()}
    return {}


def named_arguments(found: Inputs, network: nn.Module | None) -> dict[str, Any]:
    """Return the arguments of a call by the names that the network gives them, and what they hold by name."""
    if found.step or network is None:
        return {}
    named = _bound(network, found.args, found.kwargs) or dict(found.kwargs)
    for value in [*named.values()]:
        named |= members_of(value) if not isinstance(value, list) else {}
    return named
