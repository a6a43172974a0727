"""Epochs of several fits at a time, their networks' passes in one batch and all else each fit's own."""

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer import call

from lit_aux.batched.stack import NetworkStack, stacked
from lit_aux.batched.trial import architecture, why_not_together
from lit_aux.callbacks.probe import transfer
from lit_aux.modules.deep_training import present
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import SEED_VARIABLES
from lit_aux.phases.state import random_state, restore_random_state
from lit_aux.trees import form_of

Tell = Callable[[int, int], object]
"""Is told after every step how many fits still train, and the steps of the one that has taken most."""


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


class _Again:
    """An iterator whose next element has been taken already, and that does not begin anew as in a chain."""

    def __init__(self, taken: Any, rest: Iterator[Any]) -> None:
        self._taken, self._rest = [taken], rest

    def __iter__(self) -> "_Again":
        return self

    def __next__(self) -> Any:
        return self._taken.pop() if self._taken else next(self._rest)


class WaitingFit:
    """A fit before its first epoch, or between two of its epochs.

    Args:
        trainer: Its Trainer.
        own: What is entered whenever it does something of its own.

    Attributes:
        trainer: Its Trainer.
        error: What went wrong in it; None so far.
        reason: Why it is not trained in a batch; empty where it is.
        broken: Whether what went wrong is the batch's fault.
        first: Its first batch, from ``look_ahead`` on.
        batch: What it trains on next; None before its first epoch and after its last.
    """

    def __init__(
        self, trainer: Trainer, own: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self.trainer, self._own = trainer, own
        self.module: Any = trainer.lightning_module
        self.error: Exception | None = None
        self.reason = ""
        self.broken = False
        self.first: Any = {}
        self.batch: Batch | None = None
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
            with self._own():
                yield
        except Exception as error:
            self.error = error
        finally:
            self._state = GlobalState()

    def resume(self) -> None:
        """Let the process go on with this fit's random state."""
        self._state.restore()

    def look_ahead(self) -> None:
        """Draw the first batch as the loop will, and let it find this one."""
        fetcher = self.loop._data_fetcher
        for loader in self.loop._combined_loader.flattened:
            _set_sampler_epoch(loader, self.loop.epoch_progress.current.processed)
        if prefetched := getattr(fetcher, "batches", None):
            content, _, _ = prefetched[0]
        else:
            taken = next(fetcher.iterator)
            fetcher.iterator, (content, _, _) = _Again(taken, fetcher.iterator), taken
        self.first = transfer(self.trainer, self.module, content)

    def begin_epoch(self) -> None:
        """Begin an epoch, and take its first batch."""
        self.loop.on_advance_start()
        self.epoch.reset()
        self.epoch.on_run_start(self.loop._data_fetcher)
        self._take()

    def to_next_batch(self) -> None:
        """Do what Lightning's loops do between two steps, whatever lies between; take the next batch."""
        self.epoch.on_advance_end(self.loop._data_fetcher)
        self.epoch.on_iteration_done()
        self.batch = None
        if not self.epoch.done:
            self._take()
            return
        self.loop.on_advance_end()
        self.loop.on_iteration_done()
        if not self.loop.done:
            self.begin_epoch()

    def _take(self) -> None:
        content, _, _ = next(self.loop._data_fetcher)
        content = transfer(self.trainer, self.module, content)
        self.batch = Batch(content, self.loop._data_fetcher.done)


def train(fits: Sequence[WaitingFit], tell: Tell | None = None) -> None:
    """Train fits to the end of their phase, those of one architecture in one batch.

    What cannot be batched is left as it is, with a ``reason``. A fit that is batched has been trained as it
    would have been alone, up to rounding: its loop, optimizer, callbacks, loggers and random state are those
    of the phase's last epoch.

    Args:
        fits: Those that wait.
        tell: Called after every step with the number of fits that still train, and the steps of the one
            that has taken most.
    """
    kinds: dict[Hashable, list[WaitingFit]] = {}
    for fit in fits:
        if fit.loop.done:  # whoever saw the phase begin may have ended it
            continue
        with fit.turn():  # what goes wrong with its first batch is its own affair
            fit.look_ahead()
            kinds.setdefault(_kind(fit), []).append(fit)
    for alike in kinds.values():
        reason = "no other fit has the same network and number of batches"
        try:
            if len(alike) > 1:
                reason = _tried(alike)
            if not reason:
                _train(alike, tell)
        except Exception as error:  # of the batch itself, memory say: no fit can go on from there
            for fit in alike:
                if fit.error is None and not fit.loop.done:
                    fit.error, fit.broken = error, True
        for fit in alike:
            fit.reason = reason


def _kind(fit: WaitingFit) -> Hashable:
    """Return what fits of one batch have in common."""
    inputs = form_of(_inputs(fit.first))
    return architecture(fit.module.net), inputs, fit.loop.max_batches, fit.trainer.precision


def _inputs(content: Any) -> dict[str, Any]:
    """Return what a network is given of a training batch."""
    return {task: x for task, (x, _) in present(content).items()}


def _tried(fits: Sequence[WaitingFit]) -> str:
    """Run the networks on their first batches, leaving no trace; say what is amiss with that."""
    with fits[0].trainer.precision_plugin.train_step_context():
        return why_not_together([fit.module.net for fit in fits], [_inputs(fit.first) for fit in fits])


def _train(fits: list[WaitingFit], tell: Tell | None) -> None:
    """Train until every fit has ended or failed; checkpoints are written at the phase's end alone."""
    callbacks = {fit: list(fit.trainer.callbacks) for fit in fits}  # type: ignore[attr-defined]
    for fit, own in callbacks.items():
        kept = [callback for callback in own if not isinstance(callback, PhaseCheckpoint)]
        fit.trainer.callbacks = kept  # type: ignore[attr-defined]
    try:
        for fit in fits:
            with fit.turn():
                fit.begin_epoch()
        going = _going(fits)
        while going:
            stack = NetworkStack([fit.module.net for fit in going])
            try:
                left = going
                while len(left) == len(going):
                    _step(going, stack)
                    left = _going(going)
                    if tell is not None:
                        tell(len(left), max(fit.trainer.global_step for fit in going))
            finally:
                stack.release()
            going = left
    finally:
        for fit, own in callbacks.items():
            fit.trainer.callbacks = own  # type: ignore[attr-defined]


def _going(fits: Sequence[WaitingFit]) -> list[WaitingFit]:
    return [fit for fit in fits if fit.error is None and fit.batch is not None]


def _step(fits: Sequence[WaitingFit], stack: NetworkStack) -> None:
    """Take a step of every fit: passes through the networks together, loss and optimizer each its own."""
    inputs = [_inputs(fit.batch.content) for fit in fits if fit.batch]
    with fits[0].trainer.precision_plugin.train_step_context():
        outputs = stack.forward(stacked(inputs))
    losses: dict[int, Any] = {}
    for row, fit in enumerate(fits):
        with fit.turn():
            losses[row] = _loss(fit, {task: rows[row] for task, rows in outputs.items()})
    gradients = stack.gradients(list(losses.values())) if losses else []
    for row, loss in losses.items():
        fit = fits[row]
        with fit.turn():
            _advance(fit, loss.detach(), stack, row, gradients[row])
            fit.to_next_batch()


def _loss(fit: WaitingFit, outputs: dict[str, Any]) -> Any:
    """Return the loss of a fit's own training step, given what its network has put out."""
    fit.module.training_outputs = lambda inputs: outputs
    try:
        content = fit.batch.content if fit.batch else None
        fit.trainer._logger_connector.on_batch_start(content)
        number = fit.epoch.batch_idx + 1
        return call._call_strategy_hook(fit.trainer, "training_step", content, number)
    finally:
        del fit.module.training_outputs


def _advance(fit: WaitingFit, loss: Any, stack: NetworkStack, row: int, gradients: dict[str, Any]) -> None:
    """Let Lightning's loop take the step, with a loss and gradients that are there already."""
    module = fit.module
    module.training_step = lambda *_, **__: loss
    module.backward = lambda *_, **__: stack.give(row, gradients)
    try:
        fit.epoch.advance(fit.batch)
    finally:
        del module.training_step, module.backward
