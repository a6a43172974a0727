"""Metrics that somebody waits for: whether they are logged is said before training, not after an epoch."""

import re
from collections.abc import Iterable, Iterator, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from lit_aux.callbacks import StopAtTrainingLoss
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased, phased_data

Monitored = Iterator[tuple[str, str]]
"""Options and names of metrics."""
_LIBRARIES = ("lit_aux", "lightning", "pytorch_lightning")
_VALIDATION = re.compile(r"(^|[/_])val(id|idation)?([/_]|$)")
"""In the name of a metric; not in that of a task, ``value`` say."""
_COUNTS = ("epoch", "step")
"""What a ``ModelCheckpoint`` may monitor though nobody logs it."""


def restored_name(phase: Phase) -> str:
    """Return the name of a phase's metric ``restore_best``, with the phase's prefix."""
    name, prefix = str(phase.restore_best), f"{phase.name}/"
    return name if name.startswith(prefix) else f"{prefix}{name}"


def is_validated(name: str) -> bool:
    """Whether a metric is one of validation, and so there when that has ended."""
    told = name.partition("/")[2] if "/" in name else name
    return _VALIDATION.search(told) is not None


def check_monitors(module: LightningModule, phases: Sequence[Phase], own: Sequence[Callback]) -> None:
    """Refuse metrics that are not logged in their phase, as far as it is known what is.

    Where the module, or a callback that may log, is a user's own, this is found out when one looks for it.

    Args:
        module: The module.
        phases: Its phases.
        own: The Trainer's callbacks, which act in every phase.

    Raises:
        ConfigurationError: Naming the metric and those that there are.
    """
    for phase in phases:
        _check_averages(phase, own)
    every = [*own, *(callback for phase in phases for callback in phase.callbacks)]
    known = {phase.name: _known(module, phase) for phase in phases}
    closed = all(_of_library(type(thing)) for thing in (module, *every)) and not phased(module).trains_itself
    for phase in phases if closed else ():
        others = [each for each in phases if each is not phase]
        for option, name in _monitored(phase):
            _check_phase(option, name, phase, others)
            check_known(option, name, known[phase.name])
    together = [name for names in known.values() for name in names]
    for callback in own if closed else ():
        for option, name in _monitored_by(callback):
            check_known(f"--trainer.{option}", name, together)


def check_validation(trainer: Trainer, phases: Iterable[Phase], data: object, max_epochs: int | None) -> None:
    """Refuse metrics of validation where there is none; to be called when a fit has set up the data.

    Args:
        trainer: The Trainer.
        phases: The phase that begins, and those that are still to come.
        data: The data module.
        max_epochs: The Trainer's limit of each phase.

    Raises:
        ConfigurationError: Naming the metric and what is lacking.
    """
    every = trainer.check_val_every_n_epoch or 0
    for phase in phases:
        for option, name in _monitored(phase):
            _, _, rest = name.partition("/")
            if not is_validated(name) or not name.startswith(f"{phase.name}/"):
                continue
            limits = [n for n in (max_epochs, phase.max_epochs) if n is not None and n >= 0]
            if not trainer.limit_val_batches:
                raise ConfigurationError(f"{option}: {name!r} needs validation; limit_val_batches is 0")
            if option == "restore_best" and min(limits, default=every) < every:
                raise ConfigurationError(
                    f"{option}: {name!r} is never measured: check_val_every_n_epoch is {every}, and phase "
                    f"{phase.name!r} has {min(limits)} epochs"
                )
            task = rest.partition("/")[0]
            if task in phase.tasks and not phased_data(data).has_validation(task):
                raise ConfigurationError(
                    f"{option}: {name!r} needs validation data, of which task {task!r} has none; see "
                    "--data.n_val"
                )


def waits_for_validation(phase: Phase) -> bool:
    """Whether validation data decide how a phase ends."""
    return any(is_validated(name) for option, name in _monitored(phase) if "ModelCheckpoint" not in option)


def _known(module: LightningModule, phase: Phase) -> list[str]:
    return [f"{phase.name}/{name}" for name in phased(module).logged(phase)]


def _of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


def _monitored(phase: Phase) -> Monitored:
    """Yield what a phase itself waits for."""
    if phase.restore_best is not None:
        yield "restore_best", restored_name(phase)
    for callback in phase.callbacks:
        yield from _monitored_by(callback)


def _monitored_by(callback: Callback) -> Monitored:
    names: list[str | None] = []
    kind = next(k for k in type(callback).__mro__ if _of_library(k))
    option = f"callbacks: {kind.__name__}: monitor"
    if isinstance(callback, ModelCheckpoint) or (isinstance(callback, EarlyStopping) and callback.strict):
        names = [callback.monitor]
    elif isinstance(callback, StopAtTrainingLoss):
        names = list(callback.monitor or [])
    for name in names:
        # a LearningRateMonitor's begin with lr-
        if name is not None and name not in _COUNTS and not name.startswith("lr-"):
            yield option, name


def _check_phase(option: str, name: str, phase: Phase, others: Sequence[Phase]) -> None:
    """Refuse a metric of another phase."""
    given = phase.restore_best if option == "restore_best" else name
    for other in others:
        if str(given).startswith(f"{other.name}/") and other.name not in phase.tasks:
            raise ConfigurationError(
                f"{option}: {given!r} is of phase {other.name!r}, and would be waited for in phase "
                f"{phase.name!r}; name one of that phase"
            )


def _check_averages(phase: Phase, own: Sequence[Callback]) -> None:
    """Refuse averages of weights, which take the place of others at the end as well."""
    for callback in [*own, *phase.callbacks]:
        if phase.restore_best is not None and isinstance(
            callback, WeightAveraging | StochasticWeightAveraging
        ):
            raise ConfigurationError(
                f"restore_best: {type(callback).__name__} also decides which weights a phase ends with; "
                "leave one of the two out"
            )
