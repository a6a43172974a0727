"""What a phase is: which tasks train, which parameters train, how, and when it is over."""

import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_aux.errors import ConfigurationError, check_known, unknown_name
from lit_aux.integrators import INTEGRATORS, Descent, Integrator
from lit_aux.models.low_rank import LoRA
from lit_aux.phases.limits import check_callbacks, check_reached, check_time, is_list_of
from lit_aux.ranges import (
    COUNT,
    FACTOR,
    INDEX,
    LIMIT,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    WHOLE,
    Range,
    check,
    check_all,
    whole,
)

OptimizerCallable = Callable[[Iterable[Tensor]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
RANGES: dict[str, Range] = {
    "layer_decay": Range(above=0, most=1),
    "max_epochs": LIMIT,
    "max_steps": Range(least=1, also={-1: "no limit"}),
    "stop_at_training_loss": POSITIVE,
    "max_evaluations": LIMIT,
    "max_flow_time": POSITIVE,
    "block": COUNT,
    "chunk": INDEX,
    "test_every": LIMIT,
    "test_unit": RATE,
    "test_thinning": LIMIT,
    "patience": WHOLE,
}
"""Numbers that options of a phase may have."""


_TEXTS: dict[str, tuple[str | None, ...]] = {
    "lr_interval": ("epoch", "step"),
    "readout": ("keep", "reset"),
    "order": ("interleaved", "sequential"),
    "restore_mode": ("min", "max", None),
}
_LISTS = ("stop_on", "tasks")
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""What Lightning keeps the global seed in."""
_SANE = Range(least=-1e10, most=1e10)
"""Of what optimizers take; torch lets infinities and NaN pass in many places."""
_PERIODS = ("step_size", "T_max", "T_0", "total_steps", "total_iters")
"""What schedules call how long something of theirs takes."""


def _check_kinds(settings: Any) -> None:
    """Raise for options that are of another kind than they say: the command line has seen to it, Python not.

    Raises:
        ConfigurationError: Naming option and value.
    """
    for option, value in vars(settings).items():
        if option in _TEXTS and value not in _TEXTS[option]:
            raise unknown_name(option, value, _TEXTS[option])
        if option in _LISTS and not (value is None or is_list_of(value, str)):
            raise ConfigurationError(f"{option}: {value!r} is no list of names")
        if option == "callbacks" and value is not None:
            check_callbacks(value)
        if option == "trainable" and isinstance(value, str) and value not in ("all", "readout"):
            raise ConfigurationError(f"trainable: {value!r} must be all, readout or a list of patterns")
        if option == "task_weights" and not isinstance(value, dict | None):
            raise ConfigurationError(f"task_weights: {value!r} is no mapping of tasks to weights")
        if option == "lora" and not isinstance(value, LoRA | None):
            raise ConfigurationError(
                f"lora: {value!r} is no LoRA; give lit_aux.models.LoRA(r=8), or its options"
            )
        if option == "restore_best" and not (value is None or (isinstance(value, str) and value)):
            raise ConfigurationError(f"restore_best: {value!r} is no name of a metric, such as main/val_loss")
        if option == "name" and not isinstance(value, str):
            raise ConfigurationError(f"name: {value!r} is no text")


def _check_unfreeze(given: Any) -> None:
    """Raise unless it maps epochs to patterns of names, the first epoch among them.

    Raises:
        ConfigurationError: Naming what is amiss.
    """
    if given is None:
        return
    example = "such as {0: [net.readout.*], 5: [net.*]}"
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError(f"unfreeze: {given!r} is no mapping of epochs to names, {example}")
    for epoch, patterns in given.items():
        whole("unfreeze: epoch", epoch)
        if isinstance(patterns, str) or not is_list_of(patterns, str) or not patterns:
            raise ConfigurationError(
                f"unfreeze: {patterns!r} of epoch {epoch} is no list of names, {example}"
            )
    if 0 not in given:
        raise ConfigurationError(
            f"unfreeze: nothing would train before epoch {min(given)}; say under 0 what trains from the "
            f"beginning, {example}"
        )


@dataclass(kw_only=True)
class PhaseSettings:
    """How a phase is optimized and when it ends.

    Args:
        optimizer: Builds the optimizer from the parameters that train; a new one for every phase. Adam with
            learning rate 1e-3 by default. Torch's Adam, AdamW, SGD and Adagrad take fused steps where torch
            can, unless ``fused``, ``foreach``, ``capturable`` or ``differentiable`` is given, the precision
            scales gradients, or ``L2SP`` adds to them.
        lr_scheduler: Builds the learning-rate schedule from the optimizer; constant by default.
        lr_interval: Whether the schedule moves every epoch or every step.
        layer_decay: The learning rate of each layer is that of the next one times this, up to the readout,
            which has the optimizer's (layer-wise learning-rate decay, as timm's
            ``param_groups_layer_decay``); for networks of timm and transformers. None leaves all alike.
        max_epochs: Most epochs of this phase. A limit given to the Trainer holds as well, for every phase.
        max_steps: Most optimizer steps of this phase; -1 for no limit.
        max_time: Longest duration as ``DD:HH:MM:SS``.
        stop_at_training_loss: The phase ends when the training loss of an epoch falls below this.
        stop_on: The tasks whose loss must be below the threshold; all tasks of the phase by default.
        unfreeze: Gradual unfreezing: patterns of parameter names, as in ``trainable``, by the epoch of the
            phase from which they train, as ``{0: [net.readout.*], 5: [net.backbone.network.layer4.*]}``. What
            no pattern names stays frozen: without gradient, weight decay or state of the optimizer, its
            layers in eval mode. None trains what ``trainable`` says from the beginning.
        restore_best: A metric, as ``main/val_accuracy``, with the phase's prefix or without: the phase ends
            with the weights and buffers of the epoch in which it was best, the first of equal ones. They are
            tested, saved, stored and go into the next phase. None ends with the last ones.
        restore_mode: Whether ``"min"`` or ``"max"`` is best; by default as the metric says itself.
        callbacks: Callbacks that are present in this phase only, ``EarlyStopping`` say; ``WeightRescaling``
            here acts as it starts.
        integrator: How student networks move (``lit_aux.models.StudentNet``): ``"gradient_flow"``,
            ``"gradient_descent"``, ``"exact"`` (solved; one output of a diagonal network), or an integrator
            with options. By default the ``optimizer`` where one is given, else gradient flow. What follows
            concerns students alone.
        max_evaluations: Most gradient evaluations of a replica.
        max_flow_time: Latest flow time; for descent, the sum of learning rates.
        block: Gradient evaluations of a replica in one batch of Lightning's.
        chunk: Most replicas in one product; 0 for what is fastest.
        test_every: Steps (with mini-batches epochs) between two looks at the test loss of the main task,
            whose smallest value is kept; None never looks.
        test_unit: What gradient flow takes for a step there: the learning rate of the published runs.
        test_thinning: By which factor the later of gradient flow's looks grow apart.
        patience: Descent also ends for a replica whose smallest test loss has not improved for as many epochs
            as came before it, and for at least so many; an improvement below .5 % counts as none. An epoch
            without mini-batches is a step. None never ends so.

    Example:
        >>> from functools import partial
        >>> from torch.optim import SGD
        >>> from lit_aux.phases import PhaseSettings
        >>> PhaseSettings(optimizer=partial(SGD, lr=0.1), max_epochs=5).max_epochs
        5
    """

    optimizer: OptimizerCallable | None = None
    lr_scheduler: LRSchedulerCallable | None = None
    lr_interval: Literal["epoch", "step"] = "epoch"
    layer_decay: float | None = None
    max_epochs: int | None = None
    max_steps: int = -1
    max_time: str | None = None
    stop_at_training_loss: float | None = None
    stop_on: list[str] | None = None
    integrator: Integrator | str | None = None
    max_evaluations: int | None = None
    max_flow_time: float | None = None
    block: int = 200
    chunk: int = 0
    test_every: int | None = 50
    test_unit: float = 0.1
    test_thinning: float = 1.1
    patience: int | None = None
    unfreeze: dict[int, list[str]] | None = None
    restore_best: str | None = None
    restore_mode: Literal["min", "max"] | None = None
    callbacks: list[Callback] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_kinds(self)
        check_all(RANGES, vars(self))
        check_time("max_time", self.max_time)
        _check_unfreeze(self.unfreeze)
        check_reached(self.unfreeze, self.max_epochs)
        if self.restore_mode is not None and self.restore_best is None:
            raise ConfigurationError(
                f"restore_mode: {self.restore_mode!r} of what? Give restore_best, the name of a metric"
            )
        if self.stop_on is not None and not self.stop_on:
            raise ConfigurationError("stop_on: [] names no task; leave it out for all of the phase")
        if isinstance(self.integrator, str):
            check_known("integrator", self.integrator, INTEGRATORS)
            self.integrator = INTEGRATORS[self.integrator]()
        elif self.integrator is not None and not isinstance(self.integrator, Integrator):
            raise ConfigurationError(f"integrator: {self.integrator!r} is no Integrator, nor the name of one")
        if self.patience is not None:
            self._check_patience()
        self._try_optimizer()

    def _check_patience(self) -> None:
        """Raise where nothing would ever run out of it."""
        if self.test_every is None:
            raise ConfigurationError(
                f"patience: {self.patience} needs test_every, when the test loss is looked at"
            )
        by_optimizer = self.integrator is None and self.optimizer is not None
        if not (by_optimizer or isinstance(self.integrator, Descent)):
            raise ConfigurationError(
                f"patience: {self.patience} epochs are counted by descent; choose integrator gradient_descent"
            )

    def _try_optimizer(self) -> None:
        """Build optimizer and schedule for nothing, to know a later phase's mistake before the first."""
        if self.optimizer is None:
            return
        option = "optimizer"
        parameters = [nn.Parameter(torch.zeros(1, 1)) for _ in range(2)]
        scales = (self.layer_decay, 1.0)
        groups = [{"params": [p], "lr_scale": s} for p, s in zip(parameters, scales, strict=True)]
        try:
            optimizer = self.build_optimizer(parameters if self.layer_decay is None else groups)
            _check_optimizer(optimizer)
            if self.lr_scheduler is not None:
                option = "lr_scheduler"
                _check_schedule(self.build_scheduler(optimizer), optimizer, self.lr_scheduler)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise ConfigurationError(f"{option}: {_spelled(getattr(self, option))}: {error}") from error

    def build_optimizer(self, parameters: Sequence[Any]) -> Optimizer:
        """Build the optimizer.

        Args:
            parameters: Parameters, or groups of them that say by ``lr_scale`` what multiplies their learning
                rate. The optimizer's groups do not have this key: timm's schedulers would apply it once more.
        """
        scales = [entry.get("lr_scale", 1.0) if isinstance(entry, dict) else 1.0 for entry in parameters]
        given: list[Any] = [
            {k: v for k, v in entry.items() if k != "lr_scale"} if isinstance(entry, dict) else entry
            for entry in parameters
        ]
        optimizer = self.optimizer(given) if self.optimizer else torch.optim.Adam(given)
        if any(scale != 1.0 for scale in scales):
            if len(optimizer.param_groups) != len(scales):
                raise ConfigurationError(
                    f"layer_decay: {type(optimizer).__name__} does not keep groups of parameters apart; "
                    "choose another optimizer"
                )
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] *= scale
        return optimizer

    def build_scheduler(self, optimizer: Optimizer) -> Any:
        """Build the schedule.

        Raises:
            ConfigurationError: If it gives all groups one learning rate where they had different ones.
        """
        assert self.lr_scheduler is not None
        before = [group["lr"] for group in optimizer.param_groups]
        scheduler = self.lr_scheduler(optimizer)
        after = [group["lr"] for group in optimizer.param_groups]
        if len({*before}) > 1 and len({*after}) == 1 and after[0] != 0:
            raise ConfigurationError(
                f"layer_decay: {type(scheduler).__name__} gives every layer the same learning rate; choose a "
                "schedule that multiplies the optimizer's own, such as CosineAnnealingLR"
            )
        return scheduler


@dataclass(kw_only=True)
class Phase(PhaseSettings):
    """One stage of a run: some tasks, some parameters, one optimizer, one ending.

    Args:
        name: Names the phase in logs, checkpoints and tables.
        tasks: The tasks that train; a batch holds only these.
        trainable: ``"all"`` parameters, the ``"readout"`` alone (a linear probe), or patterns of parameter
            names such as ``net.backbone.network.layer4.*``.
        readout: Whether the readout of the phase's tasks is kept or drawn anew when the phase starts.
        readout_scale: Multiplies a readout that is drawn anew; students take one for each replica as well.
        order: ``"interleaved"``: every step holds a batch of every task. ``"sequential"``: all batches of the
            first task, then all of the next.
        task_weights: Weight of each task's loss; 1 by default.
        lora: Trains low-rank updates of the backbone's weights in place of the weights themselves, beside the
            readout and what ``trainable`` names: see :class:`~lit_aux.models.LoRA`. The updates are merged
            into the weights when the next phase starts.
        balance_tasks: In sequential order, weigh each task by the number of batches of the first task over
            its own, so that every task has the same say in an epoch.
    """

    name: str
    tasks: list[str]
    trainable: Literal["all", "readout"] | list[str] = "all"
    readout: Literal["keep", "reset"] = "keep"
    readout_scale: float | list[float] = 1.0
    order: Literal["interleaved", "sequential"] = "interleaved"
    task_weights: dict[str, float] | None = None
    balance_tasks: bool = False
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigurationError(f"phases: name {self.name!r} must be letters, digits, '-' and '_'")
        if not self.tasks:
            raise ConfigurationError(f"phases: phase {self.name!r} names no task")
        if self.unfreeze is not None and self.trainable != "all":
            raise ConfigurationError(
                f"unfreeze: phase {self.name!r} has trainable {self.trainable!r}, which says what trains all "
                "the time; give one of the two"
            )
        if self.unfreeze is not None and self.lora is not None:
            raise ConfigurationError(
                f"unfreeze: phase {self.name!r} has lora, whose updates train from its first epoch on; give "
                "one of the two"
            )
        check("readout_scale", self.readout_scale, FACTOR)
        if self.lora is not None and self.trainable == "readout":
            raise ConfigurationError(
                "trainable: 'readout' trains no low-rank update; leave lora out, or trainable"
            )
        for task, weight in (self.task_weights or {}).items():
            check(f"task_weights: {task}", weight, NOT_NEGATIVE)
        if self.task_weights and not any(self.weight(task) for task in self.tasks):
            raise ConfigurationError(f"task_weights: {self.task_weights}: no task has a weight above 0")
        for option, names in (("stop_on", self.stop_on or []), ("task_weights", self.task_weights or {})):
            unknown = [name for name in names if name not in self.tasks]
            if unknown:
                raise ConfigurationError(f"{option}: {unknown[0]!r} is not a task of phase {self.name!r}")

    def weight(self, task: str) -> float:
        """Return the weight of a task's loss."""
        return 1.0 if self.task_weights is None else self.task_weights.get(task, 1.0)

    def seed(self) -> int | None:
        """Derive the phase's seed from the global one and its name; None where there is no global seed.

        A phase that follows another thus draws the same numbers whether that one was trained, resumed or
        reused.
        """
        seed = os.environ.get("PL_GLOBAL_SEED")
        return None if seed is None else (int(seed) + zlib.crc32(self.name.encode())) % 2**32

    def seed_everything(self) -> None:
        """Seed every generator for the phase and leave the global seed's variables as they are."""
        seed = self.seed()
        if seed is None:
            return
        kept = {name: os.environ[name] for name in SEED_VARIABLES if name in os.environ}
        pl.seed_everything(seed, verbose=False)
        os.environ.update(kept)


def check_phases(phases: Sequence[Any], tasks: Iterable[str]) -> None:
    """Raise unless phases have different names and hold known tasks.

    Raises:
        ConfigurationError: If there is no phase, two share a name, or one names an unknown task.
    """
    for phase in phases:
        if not isinstance(phase, PhaseSettings):
            raise ConfigurationError(f"phases: {phase!r} is no Phase")
    if not phases:
        raise ConfigurationError("phases: the list is empty; give at least one phase")
    names = [phase.name for phase in phases]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"phases: the name {name!r} is used twice; every phase needs its own")
    known = list(tasks)
    for phase in phases:
        for task in phase.tasks:
            if task not in known:
                raise ConfigurationError(
                    f"phases: phase {phase.name!r} names task {task!r}; the data has {', '.join(known)}"
                )


def _check_optimizer(optimizer: Optimizer) -> None:
    """Raise for an optimizer with options after which no weight would be a number.

    Raises:
        ConfigurationError: Naming the option and its value.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            for one in value if isinstance(value, tuple | list) else [value]:
                if isinstance(one, float | int) and not isinstance(one, bool):
                    check(f"optimizer.{name}", one, _SANE)
        check("optimizer.dampening", group.get("dampening"), Range(least=0, most=1))
        if "betas" in group and group.get("eps") == 0:
            raise ConfigurationError(f"optimizer.eps: {group['eps']} must be above 0")


def _spelled(given: Any, name: str = "") -> str:
    """Return what builds an optimizer or a schedule in words, with the options that it was given.

    Args:
        given: A function, or a partial one.
        name: Of the class, where it is known.
    """
    kinds = [one for one in getattr(given, "args", ()) if isinstance(one, type)]
    name = name or (kinds[0].__name__ if kinds else getattr(given, "__name__", "it"))
    options = ", ".join(f"{k} {v!r}" for k, v in getattr(given, "keywords", {}).items() if v is not None)
    return f"{name} ({options})" if options else name


def _check_schedule(scheduler: Any, optimizer: Optimizer, given: Any) -> None:
    """Let a schedule take a step, and raise where the learning rate is none any more.

    Args:
        scheduler: A new schedule.
        optimizer: Its optimizer.
        given: What built it.

    Raises:
        ConfigurationError: For a learning rate below 0 or without number.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        return
    for name in _PERIODS:
        value = getattr(scheduler, name, None)
        if isinstance(value, int | float):
            check(f"lr_scheduler.{name}", value, LIMIT)
    with warnings.catch_warnings():  # torch's, that the optimizer has not moved before
        warnings.simplefilter("ignore")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(0.0)
        else:
            scheduler.step()
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        if not 0 <= rate <= 1e10:
            raise ConfigurationError(
                f"lr_scheduler: {_spelled(given, type(scheduler).__name__)} makes the learning rate {rate}; "
                "it must stay 0 or more"
            )
