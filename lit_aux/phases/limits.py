"""Limits of a Trainer and of phases: what makes no sense is refused before anything trains."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import COUNT, INDEX, LIMIT, MOST, NOT_NEGATIVE, Range, check, check_all

_NONE = {-1: "no limit"}
_SHARE_OR_COUNT = Range(above=0, most=MOST)
TRAINER: dict[str, Range] = {
    "max_epochs": Range(least=1, also=_NONE),
    "min_epochs": Range(least=0),
    "max_steps": Range(least=1, also=_NONE),
    "min_steps": Range(least=0),
    "limit_train_batches": Range(above=0),
    "limit_val_batches": NOT_NEGATIVE,
    "limit_test_batches": NOT_NEGATIVE,
    "limit_predict_batches": NOT_NEGATIVE,
    "overfit_batches": NOT_NEGATIVE,
    "check_val_every_n_epoch": LIMIT,
    "num_sanity_val_steps": Range(least=0, also={-1: "all batches"}),
    "log_every_n_steps": Range(least=0),
    "accumulate_grad_batches": COUNT,
    "gradient_clip_val": NOT_NEGATIVE,
    "reload_dataloaders_every_n_epochs": INDEX,
    "num_nodes": Range(least=1, most=10_000),
}
"""Numbers that options of a Trainer may have. Lightning takes others too: a negative number to clip gradients
at, or no epoch at all, after which an untrained network would be tested like any other."""


def check_trainer(options: Mapping[str, Any]) -> None:
    """Raise for options of a Trainer that make no sense.

    Args:
        options: Its arguments.

    Raises:
        ConfigurationError: Naming option and value.
    """
    check_all(TRAINER, options)
    check_time("max_time", options.get("max_time"))
    for unit in ("epochs", "steps"):
        least, most = options.get(f"min_{unit}"), options.get(f"max_{unit}")
        if least is not None and most not in (None, -1) and least > most:
            raise ConfigurationError(f"min_{unit}: {least} must be at most max_{unit}, which is {most}")
    given = options.get("callbacks") or []
    check_callbacks(given if isinstance(given, list | tuple) else [given])
    fast = options.get("fast_dev_run")
    if not isinstance(fast, bool):
        check("fast_dev_run", fast, INDEX)
    interval = options.get("val_check_interval")
    if isinstance(interval, int | float):
        check("val_check_interval", interval, _SHARE_OR_COUNT)
    _check_devices(options.get("devices"))


def check_callbacks(callbacks: Any) -> None:
    """Raise for a list of callbacks that is none, and for one of Lightning's that would end training at once.

    Raises:
        ConfigurationError: Naming what is amiss.
    """
    if not is_list_of(callbacks, Callback):
        raise ConfigurationError(f"callbacks: {callbacks!r} is no list of callbacks")
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            check("callbacks.patience", callback.patience, INDEX)


def is_list_of(value: Any, kind: type) -> bool:
    """Return whether a value is a list of things of a kind."""
    return isinstance(value, list | tuple) and all(isinstance(one, kind) for one in value)


def check_reached(unfreeze: Mapping[int, Any] | None, max_epochs: int | None) -> None:
    """Raise where something would be unfrozen after the last epoch.

    Args:
        unfreeze: What is unfrozen, by epoch.
        max_epochs: Most epochs; None and -1 for no limit.

    Raises:
        ConfigurationError: Naming the epoch.
    """
    last = max(unfreeze or [0])
    if max_epochs is not None and 0 <= max_epochs <= last and unfreeze:
        raise ConfigurationError(
            f"unfreeze: epoch {last} is never reached: epochs go from 0 to {max_epochs - 1} (max_epochs "
            f"{max_epochs})"
        )


def _check_devices(devices: Any) -> None:
    """Raise for more devices than any machine has: each is a process."""
    most = max(64, 4 * (os.cpu_count() or 1))
    try:
        count = int(devices) if isinstance(devices, str | int | float) else 0
    except (ValueError, OverflowError):  # "auto", "0,1", infinite
        count = most + 1 if isinstance(devices, float) else 0
    if count > most:
        raise ConfigurationError(
            f"devices: {devices} must be at most {most} on this machine, which has {os.cpu_count()} cores"
        )


def check_time(option: str, given: Any) -> None:
    """Raise for a duration that is none, or no time at all.

    Args:
        option: Its name.
        given: ``DD:HH:MM:SS``, or what else Lightning's ``Timer`` takes.

    Raises:
        ConfigurationError: Naming option and value.
    """
    if given is None:
        return
    try:
        seconds = Timer(given)._duration
    except (MisconfigurationException, TypeError, ValueError, OverflowError, AttributeError):
        seconds = None
    if not seconds or seconds < 0:
        raise ConfigurationError(
            f"{option}: {given!r} must be a time above 0 as DD:HH:MM:SS, such as 00:01:30:00"
        )
