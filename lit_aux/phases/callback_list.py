"""Which callbacks a phase has, in what state they enter it, and the one that keeps the phase."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary, ref

import lightning.pytorch as pl
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lit_aux.callbacks import StopAtTrainingLoss
from lit_aux.errors import NonFiniteLossError
from lit_aux.finite import all_finite
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased
from lit_aux.phases.ranks import bring_back
from lit_aux.phases.restore_best import RestoreBest
from lit_aux.phases.state import CHECKPOINT_KEY, PhaseResult, random_state, restore_random_state

_OPTIONS = frozenset(signature(Trainer.__init__).parameters) - {"callbacks"}
# What they count and keep belongs to one phase, so that each phase finds them as they were built.
_AFRESH = (
    pl.callbacks.EarlyStopping,
    pl.callbacks.Checkpoint,
    pl.callbacks.Timer,
    pl.callbacks.WeightAveraging,
    pl.callbacks.StochasticWeightAveraging,
    pl.callbacks.BaseFinetuning,
)
_Left = Mapping[str, Callable[[Any], bool]]
_KEPT: WeakKeyDictionary[Callback, tuple[dict[str, Any], _Left]] = WeakKeyDictionary()
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
    def of_phase(self, phase: Phase, phases: Sequence[Phase], trains_itself: bool = False) -> Iterator[None]:
        """Add the phase's callbacks for a while, and start those afresh whose state belongs to one phase.

        Callbacks that monitor a metric of another phase wait for that one. What callbacks change in the
        Trainer (accumulation, clipping, limits, ...) is put back.

        Args:
            phase: The phase.
            phases: All phases; those after the first do not describe the network again.
            trains_itself: Whether the module, and no callback, looks after the training loss.
        """
        own = self.own
        built = {id(c): _as_built(c) for c in phase.callbacks if isinstance(c, _AFRESH)} | self._built
        options = {name: vars(self.trainer)[name] for name in _OPTIONS if name in vars(self.trainer)}
        first = phase is phases[0]
        for callback in [*own, *phase.callbacks]:
            if id(callback) in built:
                vars(callback).clear()
                vars(callback).update(deepcopy(built[id(callback)]))
        others = [other.name for other in phases if other is not phase]
        kept = [
            c
            for c in own
            if (first or not isinstance(c, pl.callbacks.ModelSummary)) and not _waits(c, others)
        ]
        # Checkpoints come last, as Lightning has it: they save what the others have done.
        together = sorted(
            [*_added(phase, trains_itself), *kept], key=lambda c: isinstance(c, pl.callbacks.Checkpoint)
        )
        self.trainer.callbacks = together  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.trainer.callbacks = own  # type: ignore[attr-defined]
            for callback in [*own, *phase.callbacks]:
                if id(callback) in built:
                    left = {name: _recognizing(value) for name, value in vars(callback).items()}
                    _KEPT[callback] = built[id(callback)], left
            vars(self.trainer).update(options)


def _as_built(callback: Callback) -> dict[str, Any]:
    """Return a callback's attributes without what a fit of another Trainer has left in them."""
    built, left = _KEPT.get(callback, ({}, {}))
    set_since = {n: value for n, value in vars(callback).items() if n not in left or not left[n](value)}
    return deepcopy({**built, **set_since})


def _recognizing(value: Any) -> Callable[[Any], bool]:
    """Return what tells this very value from others without keeping it: it may lead to a network."""
    try:
        held = ref(value)
    except TypeError:  # a number, a text, a list
        return lambda other: other is value
    return lambda other: other is not None and other is held()


def _waits(callback: Callback, others: Sequence[str]) -> bool:
    """Whether a callback monitors a metric of another phase."""
    monitor = getattr(callback, "monitor", None)
    names = [monitor] if isinstance(monitor, str) else monitor if isinstance(monitor, list | tuple) else []
    return any(str(name).partition("/")[0] in others and "/" in str(name) for name in names)


def _added(phase: Phase, trains_itself: bool) -> list[Callback]:
    """Build what a phase's settings ask for; the keeper is always first."""
    best = [] if phase.restore_best is None else [RestoreBest(phase)]  # what others measure in the end
    added: list[Callback] = [PhaseKeeper(), *best, *phase.callbacks]
    if phase.stop_at_training_loss is not None and not trains_itself:
        monitor = [f"{phase.name}/{task}/train_loss" for task in phase.stop_on or phase.tasks]
        single = phase.stop_on is None and len(phase.tasks) == 1
        added.append(StopAtTrainingLoss(phase.stop_at_training_loss, monitor=None if single else monitor))
    if phase.max_time is not None:
        added.append(pl.callbacks.Timer(phase.max_time))
    return added


def stop_reason(trainer: Trainer) -> str:
    """Say what ended the fit that has just run.

    Modules and callbacks that have a ``stop_reason`` speak for themselves; Lightning's own and the Trainer's
    limits are recognized.
    """
    told = phased(trainer.lightning_module).stop_reason
    if isinstance(told, str):
        return told
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        reason = getattr(callback, "stop_reason", None)
        if isinstance(reason, str):
            return reason
        if isinstance(callback, pl.callbacks.EarlyStopping) and (told := _early_stopping(trainer, callback)):
            return told
        if (
            isinstance(callback, pl.callbacks.Timer)
            and (callback.time_remaining() or 0.0) <= 0
            and callback._duration
        ):
            return f"max_time: {callback._duration:.0f} s passed"
    if trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps:
        return f"max_steps: {trainer.max_steps} reached"
    processed: int = trainer.current_epoch
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= processed:
        return f"max_epochs: {trainer.max_epochs} reached"
    return "stopped by a callback" if trainer.should_stop else "no training batches"


def _early_stopping(trainer: Trainer, callback: pl.callbacks.EarlyStopping) -> str | None:
    """Say why a callback has stopped the fit; None if it has not."""
    out_of_patience = trainer.should_stop and callback.wait_count >= callback.patience
    if not (callback.stopped_epoch > 0 or out_of_patience):
        return None
    if callback.wait_count >= callback.patience:
        return f"early stopping: {callback.monitor} did not improve for {callback.patience} checks"
    return f"early stopping: {callback.monitor} reached its threshold, or is not finite"


class PhaseRun(Protocol):
    """What the keeper asks of its Trainer."""

    phase_name: str
    phase_results: list[PhaseResult]

    @property
    def nothing_left(self) -> bool:
        """Whether nothing but the phase's end is done."""

    def begin_phase(self, model: pl.LightningModule) -> None:
        """See that a resumed run is the same; take the phase from the store where it was trained before."""

    def settle_phase(self) -> None:
        """Write down how the phase went."""

    def phase_info(self) -> dict[str, Any]:
        """Return what a checkpoint says about where the run is."""

    def newest_checkpoint(self) -> str | None:
        """Return the path that the phase's checkpoint callback wrote last."""


def _run(trainer: pl.Trainer) -> PhaseRun:
    """Return the Trainer as the keeper knows it."""
    return cast(PhaseRun, trainer)


class PhaseKeeper(Callback):
    """First of the callbacks in every fit of a :class:`~lit_aux.PhaseTrainer`; users never build one."""

    changes_training = False

    def __init__(self) -> None:
        self.trained = False
        self._random_state: dict[str, Any] | None = None
        self._bad: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give each ModelCheckpoint a folder of the phase's own."""
        if stage != "fit":
            return
        self.trained, self._bad = False, None
        phase = _run(trainer).phase_name
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, pl.callbacks.ModelCheckpoint):
                root = trainer.log_dir or trainer.default_root_dir
                callback.dirpath = f"{callback.dirpath or f'{root}/checkpoints'}/{phase}"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the phase from the store where it was trained before; see that a resumed run is the same."""
        _run(trainer).begin_phase(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the random state of the checkpoint, after all that start-up has drawn."""
        self.trained = True
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
            if not _run(trainer).nothing_left:  # else no epoch begins, which would draw one
                self._restart_loaders(trainer)

    @staticmethod
    def _restart_loaders(trainer: pl.Trainer) -> None:
        """Let shuffling loaders draw their order from the restored state: they have drawn one at start-up."""
        loop = trainer.fit_loop
        loaders: Any = getattr(loop._combined_loader, "flattened", [])
        if loop._data_fetcher is not None and not all(hasattr(dl, "load_state_dict") for dl in loaders):
            iter(loop._data_fetcher)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a loss that is not finite; look at once on the CPU, now and then where looking is slow."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        bad = loss.detach().isfinite().logical_not()
        self._bad = bad if self._bad is None else self._bad | bad
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if loss.device.type == "cpu" or trainer.global_step % every == 0:
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before anything is saved at the end of a validation."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before the epoch's checkpoint is saved."""
        self._check(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Settle the phase's ending and the network's statistics before anything is measured or saved."""
        _run(trainer).settle_phase()
        phased(pl_module).refresh_batchnorm()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the process that waits for this one know how the fit went."""
        if stage == "fit":
            bring_back(trainer, _run(trainer).phase_results[-1])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the phase and the random state; refuse to save weights that are not finite."""
        for name, parameter in pl_module.named_parameters():
            if not all_finite(parameter):
                raise NonFiniteLossError(self._message(trainer, f"the weights {name!r} are not finite"))
        info = _run(trainer).phase_info()
        checkpoint[CHECKPOINT_KEY] = {**info, "random_state": random_state()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the random state, to be set when training starts, and whether training was to stop."""
        if trainer.training:
            self._random_state = checkpoint[CHECKPOINT_KEY]["random_state"]
            if checkpoint[CHECKPOINT_KEY].get("should_stop"):
                trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the random state of a checkpoint of the phase's end."""
        if self._random_state is not None and not self.trained:
            restore_random_state(self._random_state)
            self._random_state = None

    def _check(self, trainer: pl.Trainer) -> None:
        if self._bad is not None and bool(self._bad.item()):
            raise NonFiniteLossError(self._message(trainer, "the training loss is NaN or infinite"))
        self._bad = None

    def _message(self, trainer: pl.Trainer, what: str) -> str:
        kept = _run(trainer).newest_checkpoint()
        remedy = "lower the learning rate or clip the gradients (--trainer.gradient_clip_val)"
        return (
            f"phase {_run(trainer).phase_name!r}, epoch {trainer.current_epoch}, step {trainer.global_step}: "
            f"{what}; {remedy}; last good checkpoint: {kept or 'none'}"
        )
