"""Calling a stranger's network as the stranger's own code calls it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lit_aux.callbacks._arguments import as_inputs, matching, members_of, named_arguments
from lit_aux.callbacks._inputs import Inputs, first_sizes, size_of
from lit_aux.callbacks._masks import GIVEN, Mask, candidates
from lit_aux.callbacks._options import asked, name_of
from lit_aux.callbacks._traceless import traceless
from lit_aux.errors import ConfigurationError

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
        fallback: Finds one argument where nothing else does.
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
        fallback: Callable[[Any], Any],
        *,
        mask: Mask = False,
        training: bool = False,
        own: bool = True,
    ) -> None:
        self.trainer, self.module, self.to_input, self.fallback = trainer, module, to_input, fallback
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
            try:  # {task: (x, y)}: the inputs of all tasks
                return Inputs((self.fallback(batch),))
            except (ConfigurationError, RuntimeError):
                pass
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
        return matched or Inputs((self.fallback(batch),))

    def _caught(self, step: str, batch: Any, loader: int) -> Inputs | None:
        """Return what a step passes to the network; None where it cannot be run or runs nothing."""
        ran: list[nn.Module] = []
        found: list[Inputs] = []

        def catch(*args: Any, **kwargs: Any) -> None:
            found.append(Inputs(args, kwargs))
            raise _Caught

        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(traceless(self.trainer, self.module))
            stack.enter_context(_evaluating(self.module))
            for layer in self.module.modules():
                if layer is not self.module and next(layer.parameters(recurse=False), None) is not None:
                    hook = layer.register_forward_pre_hook(lambda m, _: ran.append(m))
                    stack.callback(hook.remove)
            if self.network is not None:
                own = vars(self.network).get("forward")
                vars(self.network)["forward"] = catch  # also where code calls forward by its name
                stack.callback(_put_back, self.network, own)
            stack.enter_context(self.trainer.precision_plugin.forward_context())
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
                shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise ConfigurationError(f"mask: {shape} for {found.size} samples; give (samples, positions)")
            return {GIVEN: given.detach()}
        members = {k: v for k, v in members_of(batch).items() if isinstance(v, Tensor)}
        if not isinstance(self.mask, str):  # maps of pixels may be what is to be learned
            members = {k: v for k, v in members.items() if v.ndim < 3}
        return candidates(members | named_arguments(found, self.network), found.size)


def network_of(module: LightningModule) -> nn.Module | None:
    """Return what is called: the module, or its only child with parameters if it defines no ``forward``."""
    if type(module).forward is not LightningModule.forward:
        return module
    children = [c for c in module.children() if next(c.parameters(), None) is not None]
    if len(children) != 1:
        return None
    inner = getattr(children[0], "_orig_mod", children[0])
    return inner if isinstance(inner, nn.Module) else children[0]


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
                raise ConfigurationError(
                    f"probe: {type(module).__name__} defines no forward(x) to run it through"
                )
            else:
                network(*inputs.args, **inputs.kwargs)
    except ConfigurationError:
        raise
    except Exception as error:
        what = inputs.step or "forward"
        raise ConfigurationError(
            f"to_input, probe: {type(module).__name__}.{what} fails on {_described(inputs)} "
            f"({type(error).__name__}: {_first_line(error)}); give to_input=, a function of a batch that "
            "returns what forward takes (one argument, or a tuple or dictionary of several), or the inputs "
            "themselves as probe="
        ) from error


def run_step(module: LightningModule, inputs: Inputs) -> None:
    """Run a step of a module on a batch, with as many arguments as it takes."""
    function = getattr(module, inputs.step)
    known = inspect.signature(function).parameters
    several = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in known.values())
    given = [inputs.args[0], 0, inputs.loader]
    wanted = len(known) if not several else 2
    function(*given[: max(1, min(wanted, 3))])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode for a while."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _put_back(layer: nn.Module, own: Any) -> None:
    """Give a module its own forward again."""
    vars(layer).pop("forward", None)
    if own is not None:
        vars(layer)["forward"] = own


def _described(inputs: Inputs) -> str:
    """Say in words what a network was called with."""

    def one(value: Any) -> str:
        return (
            f"{tuple(value.shape)}"
            if isinstance(value, Tensor) and not value.is_nested
            else type(value).__name__
        )

    parts = [*(one(v) for v in inputs.args), *(f"{k}={one(v)}" for k, v in inputs.kwargs.items())]
    return f"({', '.join(parts)})"


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [""])[0]
