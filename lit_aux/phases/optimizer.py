"""Optimizers and schedules of phases, with learning rates that differ by layer."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import LIMIT, Range, check

if TYPE_CHECKING:
    from lit_aux.phases.phase import PhaseSettings


def optimizer_of(settings: "PhaseSettings", parameters: Sequence[Any]) -> Optimizer:
    """Build a phase's optimizer.

    Args:
        settings: The phase's.
        parameters: Parameters, or groups of them that say by ``lr_scale`` what multiplies their learning
            rate. The optimizer's groups do not have this key: timm's schedulers would apply it once more.
    """
    scales = [entry.get("lr_scale", 1.0) if isinstance(entry, dict) else 1.0 for entry in parameters]
    given: list[Any] = [
        {k: v for k, v in entry.items() if k != "lr_scale"} if isinstance(entry, dict) else entry
        for entry in parameters
    ]
    optimizer = settings.optimizer(given) if settings.optimizer else torch.optim.Adam(given)
    if any(scale != 1.0 for scale in scales):
        if len(optimizer.param_groups) != len(scales):
            raise ConfigurationError(
                f"layer_decay: {type(optimizer).__name__} does not keep groups of parameters apart; choose "
                "another optimizer"
            )
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] *= scale
    return optimizer


_SANE = Range(least=-1e10, most=1e10)
"""Of what optimizers take; torch lets infinities and NaN pass in many places."""


def check_optimizer(optimizer: Optimizer) -> None:
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


def spelled(given: Any, name: str = "") -> str:
    """Return what builds an optimizer or a schedule in words, with the options that it was given.

    Args:
        given: A function, or a partial one.
        name: Of the class, where it is known.
    """
    kinds = [one for one in getattr(given, "args", ()) if isinstance(one, type)]
    name = name or (kinds[0].__name__ if kinds else getattr(given, "__name__", "it"))
    options = ", ".join(f"{k} {v!r}" for k, v in getattr(given, "keywords", {}).items() if v is not None)
    return f"{name} ({options})" if options else name


_PERIODS = ("step_size", "T_max", "T_0", "total_steps", "total_iters")
"""What schedules call how long something of theirs takes."""


def check_schedule(scheduler: Any, optimizer: Optimizer, given: Any) -> None:
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
                f"lr_scheduler: {spelled(given, type(scheduler).__name__)} makes the learning rate {rate}; "
                "it must stay 0 or more"
            )


def scheduler_of(settings: "PhaseSettings", optimizer: Optimizer) -> Any:
    """Build a phase's schedule.

    Raises:
        ConfigurationError: If it gives all groups one learning rate where they had different ones.
    """
    assert settings.lr_scheduler is not None
    before = [group["lr"] for group in optimizer.param_groups]
    scheduler = settings.lr_scheduler(optimizer)
    after = [group["lr"] for group in optimizer.param_groups]
    if len({*before}) > 1 and len({*after}) == 1 and after[0] != 0:
        raise ConfigurationError(
            f"layer_decay: {type(scheduler).__name__} gives every layer the same learning rate; choose a "
            "schedule that multiplies the optimizer's own, such as CosineAnnealingLR"
        )
    return scheduler
