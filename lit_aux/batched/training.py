"""Epochs of several fits at a time, their networks' passes in one batch and all else each fit's own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.seed import isolate_rng

from lit_aux.batched.stack import NetworkStack, architecture, stacked
from lit_aux.callbacks.probe import training_batches, transfer
from lit_aux.errors import first_line
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import SEED_VARIABLES
from lit_aux.phases.state import random_state, restore_random_state

_ALIKE = {torch.float32: 1e-2, torch.float64: 1e-8}
"""How far outputs in a batch may be from those alone, for a network to count as one that can be batched."""


class GlobalState:
    """The random state and the global seed of this process, as they are now."""

    def __init__(self) -> None:
        self._random = random_state()
        self._variables = {name: os.environ.get(name) for name in SEED_VARIABLES}

    def restore(self) -> None:
        """Put them back."""
        restore_random_state(self._random)
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Batch:
    """A training batch that has been taken from its loader, where Lightning's loop asks for the next one."""

    def __init__(self, content: Any, done: bool) -> None:
        self.content, self.done = content, done

    def __next__(self) -> tuple[Any, int, int]:
        return self.content, 0, 0


class WaitingFit:
    """A fit before its first epoch, or between two of its epochs.

    Attributes:
        trainer: Its Trainer.
        error: What went wrong in it; None so far.
        reason: Why it is not trained in a batch; empty where it is.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.module: Any = trainer.lightning_module
        self.error: Exception | None = None
        self.reason = ""
        self._state = GlobalState()

    @property
    def loop(self) -> Any:
        """Lightning's loop over epochs."""
        return self.trainer.fit_loop

    @property
    def epoch(self) -> Any:
        """Lightning's loop over the batches of an epoch."""
        return self.trainer.fit_loop.epoch_loop

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let this fit do something of its own, with its own random state; what goes wrong is its alone."""
        self._state.restore()
        try:
            yield
        except Exception as error:
            self.error = error
        finally:
            self._state = GlobalState()

    def resume(self) -> None:
        """Let the process go on with this fit's random state."""
        self._state.restore()

    def take(self) -> Batch:
        """Take the next batch from the loader, on the device."""
        content, _, _ = next(self.loop._data_fetcher)
        return Batch(transfer(self.trainer, self.module, content), self.loop._data_fetcher.done)


def train(fits: Sequence[WaitingFit]) -> None:
    """Train fits to the end of their phase, those of one architecture in one batch.

    What cannot be batched is left as it is, with a ``reason``. A fit that is batched has been trained as it
    would have been alone, up to rounding: its loop, optimizer, callbacks, loggers and random state are those
    of the phase's last epoch.

    Args:
        fits: Those that wait.
    """
    kinds: dict[Any, list[WaitingFit]] = {}
    for fit in fits:
        key = (architecture(fit.module.net), fit.loop.max_batches, fit.trainer.precision)
        kinds.setdefault(key, []).append(fit)
    for alike in kinds.values():
        reason = "no other fit has the same network and number of batches"
        if len(alike) > 1:
            reason = _tried(alike)
        for fit in alike:
            fit.reason = reason
        if not reason:
            _train(alike)


def _tried(fits: Sequence[WaitingFit]) -> str:
    """Run the networks on their first batches, leaving no trace; say what is amiss with that."""
    inputs = []
    for fit in fits:
        with isolate_rng():
            batches = training_batches(fit.trainer)
            batch = transfer(fit.trainer, fit.module, next(batches))
            batches.close()
        inputs.append({task: x for task, (x, _) in batch.items()})
    stack = NetworkStack([fit.module.net for fit in fits])
    try:
        with fits[0].trainer.precision_plugin.train_step_context():
            off = stack.tried(stacked(inputs))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        return f"the network cannot be batched: {first_line(error)}"
    finally:
        stack.release()
    least = max(_ALIKE.get(p.dtype, 0.0) for p in fits[0].module.net.parameters())
    return "" if off <= least else "the network gives other outputs in a batch than alone"


def _train(fits: list[WaitingFit]) -> None:
    """Train until every fit has ended or failed; checkpoints are written at the phase's end alone."""
    callbacks = {fit: list(fit.trainer.callbacks) for fit in fits}  # type: ignore[attr-defined]
    for fit, own in callbacks.items():
        kept = [callback for callback in own if not isinstance(callback, PhaseCheckpoint)]
        fit.trainer.callbacks = kept  # type: ignore[attr-defined]
    going, stack = list(fits), NetworkStack([fit.module.net for fit in fits])
    try:
        while going:
            _run_epoch(going, stack)
            left = [fit for fit in going if fit.error is None and not fit.loop.done]
            if len(left) < len(going):
                stack.release()
                stack = NetworkStack([fit.module.net for fit in left]) if left else stack
            going = left
    finally:
        stack.release()
        for fit, own in callbacks.items():
            fit.trainer.callbacks = own  # type: ignore[attr-defined]


def _run_epoch(fits: Sequence[WaitingFit], stack: NetworkStack) -> None:
    """Run an epoch of every fit, in the order of Lightning's own loops."""
    for fit in fits:
        with fit.turn():
            fit.loop.on_advance_start()
            fit.epoch.reset()
            fit.epoch.on_run_start(fit.loop._data_fetcher)
    while any(fit.error is None and not fit.epoch.done for fit in fits):
        _step(fits, stack)
        for fit in fits:
            if fit.error is None:
                with fit.turn():
                    fit.epoch.on_advance_end(fit.loop._data_fetcher)
                    fit.epoch.on_iteration_done()
    for fit in fits:
        if fit.error is None:
            with fit.turn():
                fit.loop.on_advance_end()
                fit.loop.on_iteration_done()


def _step(fits: Sequence[WaitingFit], stack: NetworkStack) -> None:
    """Take a step of every fit: passes through the networks together, loss and optimizer each its own."""
    batches: list[Batch | None] = [None] * len(fits)
    for row, fit in enumerate(fits):
        if fit.error is None:
            with fit.turn():
                batches[row] = fit.take()
    some = next((batch for batch in batches if batch is not None), None)
    if some is None:
        return
    # one that has failed computes on another's batch until the epoch's end; nobody looks at it
    inputs = [{task: x for task, (x, _) in (batch or some).content.items()} for batch in batches]
    with fits[0].trainer.precision_plugin.train_step_context():
        outputs = stack.forward(stacked(inputs))
    losses: dict[int, Any] = {}
    for row, (fit, batch) in enumerate(zip(fits, batches, strict=True)):
        if batch is not None and fit.error is None:
            with fit.turn():
                losses[row] = _loss(fit, batch, {task: rows[row] for task, rows in outputs.items()})
    gradients = stack.gradients(list(losses.values())) if losses else []
    for row, loss in losses.items():
        batch = batches[row]
        assert batch is not None
        with fits[row].turn():
            _advance(fits[row], batch, loss.detach(), stack, row, gradients[row])


def _loss(fit: WaitingFit, batch: Batch, outputs: dict[str, Any]) -> Any:
    """Return the loss of a fit's own training step, given what its network has put out."""
    fit.module.training_outputs = lambda inputs: outputs
    try:
        fit.trainer._logger_connector.on_batch_start(batch.content)
        number = fit.epoch.batch_idx + 1
        return call._call_strategy_hook(fit.trainer, "training_step", batch.content, number)
    finally:
        del fit.module.training_outputs


def _advance(
    fit: WaitingFit, batch: Batch, loss: Any, stack: NetworkStack, row: int, gradients: dict[str, Any]
) -> None:
    """Let Lightning's loop take the step, with a loss and gradients that are there already."""
    module = fit.module
    module.training_step = lambda *_, **__: loss
    module.backward = lambda *_, **__: stack.give(row, gradients)
    try:
        fit.epoch.advance(batch)
    finally:
        del module.training_step, module.backward
