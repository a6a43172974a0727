"""Which callbacks a phase has, and in what state they enter it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Checkpoint,
    EarlyStopping,
    ModelSummary,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from lit_aux.callbacks import StopAtTrainingLoss
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.keeper import PhaseKeeper
from lit_aux.phases.phase import Phase

_OPTIONS = frozenset(signature(Trainer.__init__).parameters) - {"callbacks"}
# What they count and keep belongs to one phase, so that each phase finds them as they were built.
_AFRESH = (
    *(EarlyStopping, Checkpoint, Timer, WeightAveraging),
    *(StochasticWeightAveraging, BaseFinetuning),
)
_KEPT: WeakKeyDictionary[Callback, tuple[dict[str, Any], dict[str, Any]]] = WeakKeyDictionary()
"""How callbacks were built, and how their last fit left them, for the next Trainer that gets them."""


def with_checkpoint(options: dict[str, Any]) -> list[Callback]:
    """Return the callbacks among a Trainer's options, and the phase's checkpoint unless it is off."""
    given = options.get("callbacks") or []
    callbacks = [given] if isinstance(given, Callback) else list(given)
    wanted = options.get("enable_checkpointing") is not False and not options.get("barebones")
    if wanted and not any(isinstance(c, PhaseCheckpoint) for c in callbacks):
        callbacks.append(PhaseCheckpoint())
    return callbacks


class CallbackList:
    """The Trainer's own callbacks, as they were built.

    Args:
        trainer: The Trainer, just built.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._built = {id(c): _as_built(c) for c in self.own if isinstance(c, _AFRESH)}

    @property
    def own(self) -> list[Callback]:
        """What the Trainer has now."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    @contextmanager
    def of_phase(self, phase: Phase, phases: Sequence[Phase], stops_itself: bool = False) -> Iterator[None]:
        """Add the phase's callbacks for a while, and start those afresh whose state belongs to one phase.

        Callbacks that monitor a metric of another phase wait for that one. What callbacks change in the
        Trainer (accumulation, clipping, limits, ...) is put back.

        Args:
            phase: The phase.
            phases: All phases; those after the first do not describe the network again.
            stops_itself: Whether the module, and no callback, looks after the training loss.
        """
        own = self.own
        options = {name: vars(self.trainer)[name] for name in _OPTIONS if name in vars(self.trainer)}
        first = phase is phases[0]
        for callback in own:
            if id(callback) in self._built:
                vars(callback).clear()
                vars(callback).update(deepcopy(self._built[id(callback)]))
        others = [other.name for other in phases if other is not phase]
        kept = [c for c in own if (first or not isinstance(c, ModelSummary)) and not _waits(c, others)]
        # Checkpoints come last, as Lightning has it: they save what the others have done.
        together = sorted([*_added(phase, stops_itself), *kept], key=lambda c: isinstance(c, Checkpoint))
        self.trainer.callbacks = together  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.trainer.callbacks = own  # type: ignore[attr-defined]
            for callback in own:
                if id(callback) in self._built:
                    _KEPT[callback] = self._built[id(callback)], dict(vars(callback))
            vars(self.trainer).update(options)


def _as_built(callback: Callback) -> dict[str, Any]:
    """Return a callback's attributes without what a fit of another Trainer has left in them."""
    built, left = _KEPT.get(callback, ({}, {}))
    set_since = {n: value for n, value in vars(callback).items() if n not in left or value is not left[n]}
    return deepcopy({**built, **set_since})


def _waits(callback: Callback, others: Sequence[str]) -> bool:
    """Whether a callback monitors a metric of another phase."""
    monitor = getattr(callback, "monitor", None)
    names = [monitor] if isinstance(monitor, str) else monitor if isinstance(monitor, list | tuple) else []
    return any(str(name).partition("/")[0] in others and "/" in str(name) for name in names)


def _added(phase: Phase, stops_itself: bool) -> list[Callback]:
    """Build what a phase's settings ask for; the keeper is always first."""
    added: list[Callback] = [PhaseKeeper(), *phase.callbacks]
    if phase.stop_at_training_loss is not None and not stops_itself:
        monitor = [f"{phase.name}/{task}/train_loss" for task in phase.stop_on or phase.tasks]
        single = phase.stop_on is None and len(phase.tasks) == 1
        added.append(StopAtTrainingLoss(phase.stop_at_training_loss, monitor=None if single else monitor))
    if phase.max_time is not None:
        added.append(Timer(phase.max_time))
    return added
