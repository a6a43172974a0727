"""What a phase, and a run, depend on: for the store of first phases, and for checkpoints."""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from lit_aux.identity.configuration import LIMITS, OF_PLACE
from lit_aux.identity.encoder import HOOKS, TENSOR_HOOKS, Encoder, Tree, UnidentifiedError
from lit_aux.identity.source import attributes_set
from lit_aux.phases.monitors import waits_for_validation
from lit_aux.phases.phase import Phase, PhaseSettings
from lit_aux.phases.phased import Fingerprinted, FingerprintedValidation, phased

_LATER = frozenset({"patience", "lora", "unfreeze", "restore_best", "restore_mode"})
"""Options of phases that came later; where they are not given, phases are the same as before."""
_LIBRARIES = {"torch": str(torch.__version__), "lightning": lightning.__version__}
_PASSIVE = (
    pl.callbacks.Checkpoint,
    pl.callbacks.DeviceStatsMonitor,
    pl.callbacks.LearningRateMonitor,
    pl.callbacks.ModelSummary,
    pl.callbacks.ProgressBar,
    SaveConfigCallback,
    pl.callbacks.ThroughputMonitor,
)
_OF_LIGHTNING = frozenset(vars(LightningModule())) - {"_automatic_optimization"}
_RUNNING = frozenset({"_hparams", "_hparams_initial", "_hparams_name", "phase"})
FOREIGN = "foreign."
"""In the names of callbacks that are nobody's library: what they are may change where a run is resumed."""
OWN = "own "
"""In the names of their options, which must not change; whether there is such a callback may."""
_FIRST: WeakKeyDictionary[LightningModule, Tree] = WeakKeyDictionary()
_GIVEN: WeakKeyDictionary[Callback, Tree] = WeakKeyDictionary()
_OF_TRAINER = (
    *("precision", "world_size", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "reload_dataloaders_every_n_epochs"),
)


def changes_training(callback: Callback) -> bool:
    """Whether a fit with a callback may end otherwise than without it.

    A callback whose class has ``changes_training = False`` says that it does not: it measures, draws or
    saves. A class derived from one of lit_aux's or Lightning's must say so itself.
    """
    kind = type(callback)
    teller = next((base for base in kind.__mro__ if "changes_training" in vars(base)), None)
    teller = teller or next((base for base in kind.__mro__ if base in _PASSIVE), None)
    if teller is None or (_of_library(teller) and not _of_library(kind)):
        return True
    return bool(vars(teller).get("changes_training", False))


def describe_phase(
    trainer: pl.Trainer, module: LightningModule, phase: Phase, seed: int, hooks: Iterable[int]
) -> Encoder:
    """Describe everything that decides how a first phase ends: its key is the digest of it all.

    Weights, layers, losses and their options, the optimizer and the schedule as built, the limits, the data,
    the seed, the callbacks that change training, the code, and the versions of the libraries. What concerns
    later phases only does not enter, so that all runs that differ in those share the phase.

    Args:
        trainer: In ``on_fit_start``: optimizers are built and limits set.
        module: At the start of the phase.
        phase: The phase.
        seed: The seed of the phase.
        hooks: ``id`` of the forward hooks that the module had before the fit: others are callbacks'.

    Raises:
        UnidentifiedError: If a part of it cannot be told from others.
    """
    import lit_aux

    later = phased(module).later_phase_options
    kept = set(hooks)

    def omit(owner: Any, name: str, value: Any) -> bool:
        if owner is module and (name in later or _is_elsewhere(module, name, value)):
            return True
        return name.endswith("_hooks") and isinstance(owner, nn.Module | Tensor) and id(value) not in kept

    encoder = Encoder(omit, stand_in)
    encoder.versions |= {**_LIBRARIES, "lit_aux": lit_aux.__version__}
    encoder.add("seed", seed).add("model", module)
    _add_phase(encoder, phase)
    for number, optimizer in enumerate(trainer.optimizers):
        encoder.add(f"optimizer.{number}", optimizer)
    _add_schedules(encoder, trainer)
    _add_trainer(encoder, trainer)
    limits = (trainer.fit_loop.max_epochs, trainer.fit_loop.min_epochs, trainer.max_steps, trainer.min_steps)
    encoder.add("trainer.limits", limits)
    _add_callbacks(encoder, "callbacks", trainer.callbacks)  # type: ignore[attr-defined]
    _add_data(encoder, trainer.datamodule, [phase])  # type: ignore[attr-defined]
    if waits_for_validation(phase):
        _add_validation(encoder, trainer.datamodule, phase)  # type: ignore[attr-defined]
    return encoder


def describe_run(
    trainer: pl.Trainer, module: LightningModule, phases: Sequence[Phase], data: Any, own: Sequence[Callback]
) -> dict[str, Tree]:
    """Describe what the numbers of a run depend on, as far as it is known before it starts.

    Args:
        trainer: Before its fit.
        module: Before the fit.
        phases: Its phases.
        data: Its data module, if any.
        own: The callbacks of the Trainer.

    Returns:
        Values and digests by name: ``options`` of module, phases, Trainer and callbacks; ``data``; ``code``
        and ``versions``. Weights, and the limits of phases, are not among them.
    """
    losses = {id(part) for part in phased(module).evaluation.modules()}

    def omit(owner: Any, name: str, value: Any) -> bool:
        if owner is module and _is_elsewhere(module, name, value):
            return True
        weights = isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and id(owner) not in losses)
        passing = weights or name in ("training", "requires_grad") or name.endswith("_hooks")
        return isinstance(owner, nn.Module | Tensor) and passing

    encoder = Encoder(omit, stand_in, strict=False).add("model", module)
    for phase in phases:
        _add_phase(encoder, phase)
        _add_built(encoder, phase)
        _add_callbacks(encoder, f"phase {phase.name}.callbacks", phase.callbacks, running=False)
    _add_trainer(encoder, trainer)
    _add_callbacks(encoder, "callbacks", own, running=False)
    options, encoder.tree = encoder.tree, {}
    _add_data(encoder, data, ())
    versions = {**_LIBRARIES, **encoder.versions}
    return {"options": options, "data": encoder.tree, "code": encoder.code, "versions": versions}


def as_built(module: LightningModule, description: dict[str, Tree]) -> dict[str, Tree]:
    """Return a run's description with the module's options as they were when its first fit began.

    A module that was trained before in this process may have counted or kept something since.

    Args:
        module: The module.
        description: Of the run that begins.
    """
    now = description["options"]
    first = _FIRST.setdefault(module, now)
    options = {name: value for name, value in first.items() if name.startswith("model.")}
    options |= {name: value for name, value in now.items() if not name.startswith("model.")}
    return {**description, "options": options}


def own_parts(description: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return what a run's description has of its user's own beside the options of lit_aux.

    That is the code, attributes of data modules that lit_aux does not know, optimizers, schedules and
    callbacks of phases (but for the rescale factor, which is a column of the results table).

    Args:
        description: As :func:`describe_run` returns it.
    """
    built = re.compile(r"phase [\w-]+\.(optimizer|lr_scheduler|callbacks\.(?!WeightRescaling))|data\.own\.")
    named = {**description["options"], **description["data"]}
    found = {"own": {name: value for name, value in named.items() if built.match(name)}}
    found["code"] = description["code"]
    return {name: part for name, part in found.items() if part}


def own_network_options(net: nn.Module, description: Mapping[str, Tree]) -> Tree:
    """Return what a run's description has of the attributes that a network's class adds to lit_aux's.

    Args:
        net: The network of the module that was described.
        description: As :func:`describe_run` returns it.
    """
    added = _added_attributes(type(net), _of_library)
    return beneath(description["options"], {f"model.net.{name}" for name in added})


def beneath(tree: Tree, names: Collection[str]) -> Tree:
    """Return the entries of a description that have one of some names, or are parts of what has.

    Args:
        tree: Values and digests by name; a part is named as in ``data.own.rates.0.size``.
        names: The names.
    """
    return {
        name: value
        for name, value in tree.items()
        if any(name == whole or name.startswith(f"{whole}.") for whole in names)
    }


def describe_data(data: Any, phases: Sequence[Phase]) -> Tree:
    """Return the fingerprint of each phase's training data; to be called when a fit has set them up."""
    encoder = Encoder(stand_in=stand_in, strict=False)
    if isinstance(data, Fingerprinted):
        _add_fingerprints(encoder, data, phases)
    return encoder.tree


def describe_schedules(trainer: pl.Trainer) -> Tree:
    """Describe the schedules of a phase as they were built: lengths that come from the limits show here."""
    encoder = Encoder(stand_in=lambda value: stand_in(value) or _optimizer_word(value), strict=False)
    _add_schedules(encoder, trainer)
    return encoder.tree


def limits_of(
    phases: Sequence[Phase], max_epochs: int | None, max_steps: int, own: Iterable[Callback]
) -> Tree:
    """Return how long each phase may take: the smaller of its own limits and the Trainer's.

    Args:
        phases: The phases.
        max_epochs: The Trainer's.
        max_steps: The Trainer's.
        own: The Trainer's callbacks, a timer among them where it has a ``max_time``.
    """
    durations = [callback._duration for callback in own if isinstance(callback, pl.callbacks.Timer)]
    found = {}
    for phase in phases:
        given: dict[str, list[Any]] = {"max_epochs": [max_epochs, phase.max_epochs]}
        given["max_steps"] = [max_steps, phase.max_steps]
        given["max_time"] = [
            *durations,
            None if phase.max_time is None else pl.callbacks.Timer(phase.max_time)._duration,
        ]
        for name, values in given.items():
            held = [value for value in values if value is not None and value >= 0]
            found[f"phase {phase.name}.{name}"] = str(min(held)) if held else "none"
    return found


def stand_in(value: Any) -> str | None:
    """Return the word for what is described elsewhere, or does not decide a number."""
    for kind, word in ((pl.Trainer, "trainer"), (LightningDataModule, "data"), (Logger, "logger")):
        if isinstance(value, kind):
            return word
    return type(value).__name__ if isinstance(value, Strategy) else None


def hooks_of(module: nn.Module) -> set[int]:
    """Return the ``id`` of every forward and backward hook of a module, and of its parameters."""
    parts: list[Any] = [*module.modules(), *module.parameters()]
    kinds = (*HOOKS, *TENSOR_HOOKS)
    return {id(h) for part in parts for kind in kinds for h in (getattr(part, kind, None) or {}).values()}


def _is_elsewhere(module: LightningModule, name: str, value: Any) -> bool:
    """Whether a module's attribute is Lightning's, state of a fit, or told by the phases themselves."""
    if name in _OF_LIGHTNING | _RUNNING or name in phased(module).running_state:
        return True
    members = value if isinstance(value, list) else [value]
    return all(isinstance(member, PhaseSettings | Callback) for member in members)


def _optimizer_word(value: Any) -> str | None:
    return "optimizer" if isinstance(value, torch.optim.Optimizer) else None


def _of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("lit_aux", "lightning", "pytorch_lightning")


def _add_phase(encoder: Encoder, phase: Phase) -> None:
    """Write a phase's own options; its callbacks, what it builds and its limits are written elsewhere."""
    elsewhere = {"callbacks", "optimizer", "lr_scheduler", *LIMITS}
    for name, value in vars(phase).items():
        if name not in elsewhere and not (name in _LATER and value is None):
            encoder.add(f"phase {phase.name}.{name}", value)


def _add_built(encoder: Encoder, phase: Phase) -> None:
    """Write optimizer and schedule as built for a parameter of their own, and the code that builds them."""
    if phase.optimizer is None:
        return
    optimizer = phase.optimizer([nn.Parameter(torch.zeros(1, 1))])
    encoder.add(f"phase {phase.name}.optimizer", optimizer)
    encoder.add(f"phase {phase.name}.optimizer.made by", phase.optimizer)
    if phase.lr_scheduler is not None:
        encoder.add(f"phase {phase.name}.lr_scheduler", phase.lr_scheduler(optimizer))
        encoder.add(f"phase {phase.name}.lr_scheduler.made by", phase.lr_scheduler)


def _add_schedules(encoder: Encoder, trainer: pl.Trainer) -> None:
    for number, config in enumerate(trainer.lr_scheduler_configs):
        for name, value in vars(config).items():
            encoder.add(f"schedule.{number}.{name}", value)


def _add_trainer(encoder: Encoder, trainer: pl.Trainer) -> None:
    encoder.add("trainer.class", type(trainer))
    for name in _OF_TRAINER:
        encoder.add(f"trainer.{name}", getattr(trainer, name, None))


def _add_callbacks(
    encoder: Encoder, name: str, callbacks: Iterable[Callback], *, running: bool = True
) -> None:
    """Write the callbacks that change training; of libraries', unless they are running, options alone."""
    acting = [
        c for c in callbacks if changes_training(c) and not isinstance(c, pl.callbacks.Timer)
    ]  # which is a limit
    words: list[str] = []
    for callback in acting:
        kind = type(callback).__name__
        number = 1 + sum(one.partition("-")[0] == kind for one in words)
        word = kind if number == 1 else f"{kind}-{number}"
        words.append(word)
        library = _of_library(type(callback))
        if running or not library:
            encoder.add(f"{name}.{'' if library else FOREIGN}{word}", callback)
        if not running:
            where = f"{name}.{'' if library else OWN}{word}"
            encoder.tree |= {where + option: text for option, text in _as_given(callback).items()}
    if running:
        encoder.add(f"{name}.order", words)


def _as_given(callback: Callback) -> Tree:
    """Return a callback's class and options, as they were when it was first seen: some count in them."""
    if callback not in _GIVEN:
        encoder = Encoder(stand_in=stand_in, strict=False)
        kind = encoder.add_class(type(callback)) if _of_library(type(callback)) else type(callback).__name__
        encoder.tree = {"": kind}
        for option, value in _arguments_of(callback).items():
            encoder.add(f".{option}", value)
        code = ("class ", "global ")
        _GIVEN[callback] = {n: text for n, text in encoder.tree.items() if not n.startswith(code)}
    return _GIVEN[callback]


def _arguments_of(thing: Any) -> dict[str, Any]:
    """Return the attributes that are named as an argument of the object's class, or of a base, is."""
    names: set[str] = set()
    for base in type(thing).__mro__:
        if "__init__" in vars(base):
            names |= {*inspect.signature(vars(base)["__init__"]).parameters}
    return {name.lstrip("_"): value for name, value in vars(thing).items() if name.lstrip("_") in names}


def _add_data(encoder: Encoder, data: Any, phases: Sequence[Phase]) -> None:
    """Write a data module: its class, what it says of the phases' data, and options that this leaves out."""
    if data is None:
        return
    encoder.add("data.class", type(data))
    if not phases:
        for name, value in _data_options(data).items():
            encoder.add(f"data.{name}", value)
    for name, value in _own_attributes(data).items():
        encoder.add(f"data.own.{name}", value)
    _add_fingerprints(encoder, data, phases)


def _add_fingerprints(encoder: Encoder, data: Any, phases: Sequence[Phase]) -> None:
    for phase in phases:
        encoder.add(f"data of phase {phase.name}", data.fingerprint(phase.tasks, phase.order))


def _add_validation(encoder: Encoder, data: Any, phase: Phase) -> None:
    """Write what validates, where that decides which weights a phase ends with."""
    if not isinstance(data, FingerprintedValidation):
        raise UnidentifiedError(f"what validates it is not known: {type(data).__name__} does not tell")
    encoder.add(f"validation data of phase {phase.name}", data.validation_fingerprint(phase.tasks))


def _data_options(data: Any) -> Mapping[str, Any]:
    """Return a data module's options by the names under which they are given.

    Those attributes count that are named as an argument is; lit_aux's data modules tell the others.
    """
    named = _arguments_of(data)
    told = getattr(data, "options", None)
    named |= told() if callable(told) else {}
    return {name: value for name, value in named.items() if name not in OF_PLACE | {"root"}}


def _own_attributes(data: Any) -> dict[str, Any]:
    """Return the attributes that a class has added to one with a fingerprint, which does not know them."""
    added = _added_attributes(type(data), lambda base: "fingerprint" in vars(base))
    return {name: value for name, value in vars(data).items() if name in added}


def _added_attributes(kind: type, knows: Callable[[type], bool]) -> frozenset[str]:
    """Return the attributes that classes set below the first base that knows its own."""
    mro = kind.__mro__
    teller = next((base for base in mro if knows(base)), None)
    if teller is None:
        return frozenset()
    below = mro[: mro.index(teller)]
    known = frozenset().union(*(attributes_set(base) for base in mro[mro.index(teller) :]))
    return frozenset(n for base in below if not _of_library(base) for n in attributes_set(base)) - known
