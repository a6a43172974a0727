"""How many images each task trains on, as the options say it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.ranges import MOST, is_whole


def at_least(option: str, value: Any, least: int) -> None:
    """Refuse a number below ``least``, and one above all that is counted here.

    Raises:
        ConfigurationError: Naming the option and the value.
    """
    if value is not None and not is_whole(value):
        raise ConfigurationError(f"{option} {value!r}: is not a whole number")
    if value is not None and value < least:
        raise ConfigurationError(f"{option} {value}: must be at least {least}")
    if value is not None and value > MOST:
        raise ConfigurationError(f"{option} {value}: must be at most {MOST}")


def resolve_seed(seed: Any) -> int:
    """Return the seed given, else that of ``seed_everything``, else 0.

    Raises:
        ConfigurationError: If it is negative.
    """
    if seed is not None and not is_whole(seed):
        raise ConfigurationError(f"--data.seed {seed!r}: is not a whole number")
    if seed is not None and not 0 <= seed < 2**63:  # what torch's generators take
        raise ConfigurationError(f"--data.seed {seed}: must be at least 0 and at most {2**63 - 1}")
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


def option_for(task: str) -> str:
    """Return the option that sets a task's number of images."""
    return f"--data.n_{task}" if task in ("main", "aux") else f"--data.n.{task}"


def resolve_counts(
    tasks: Sequence[str], n_main: int | None, n_aux: int | None, n: Mapping[str, int] | None
) -> dict[str, int | None]:
    """Bring the three ways to set the number of training images together; ``None`` stands for all.

    Raises:
        ConfigurationError: For an unknown task, a number below 1 or two different numbers for one task.
    """
    counts: dict[str, int | None] = dict.fromkeys(tasks)
    if n is not None and not isinstance(n, Mapping):
        raise ConfigurationError(f"--data.n {n!r}: is no mapping of tasks to numbers, as {{main: 20}}")
    for task, value in (n or {}).items():
        if task not in counts:
            raise unknown_name("--data.n", task, tasks)
        at_least(f"--data.n.{task}", value, 1)
        counts[task] = value
    for task, short in (("main", n_main), ("aux", n_aux)):
        if short is None:
            continue
        at_least(f"--data.n_{task}", short, 1)
        if task not in counts:
            raise ConfigurationError(
                f"--data.n_{task} {short}: there is no task {task!r} among {list(tasks)}"
            )
        if counts[task] not in (None, short):
            raise ConfigurationError(
                f"--data.n_{task} {short}: --data.n.{task} says {counts[task]}; give one of them"
            )
        counts[task] = short
    return counts


def split_sizes(task: str, n: int | None, n_val: int | None, available: int) -> tuple[int, int]:
    """Return how many images of the pool train and how many validate.

    Args:
        task: For the error message.
        n: Training images; ``None`` for all but ``n_val``.
        n_val: Validation images; ``None`` for what is left, 1000 at most.
        available: Images of the task in the pool.

    Raises:
        ConfigurationError: If the pool is too small.
    """
    if n is None:
        if n_val is not None and n_val >= available:
            raise ConfigurationError(
                f"--data.n_val {n_val}: task {task!r} has {available} images; leave some to train on"
            )
        n = available - (n_val or 0)
    if n > available:
        raise ConfigurationError(f"{option_for(task)} {n}: task {task!r} has {available} training images")
    left = available - n
    if n_val is not None and n_val > left:
        raise ConfigurationError(
            f"--data.n_val {n_val}: of {available} images of task {task!r}, {n} train and {left} are left"
        )
    return n, min(left, 1000) if n_val is None else n_val


def check_classes_covered(task: str, n: int | None, classes: int, balanced: bool) -> None:
    """Refuse a balanced draw that is too small to hold every class.

    Raises:
        ConfigurationError: With the remedy.
    """
    if balanced and n is not None and n < classes:
        raise ConfigurationError(
            f"{option_for(task)} {n}: task {task!r} has {classes} classes, and a balanced draw holds at "
            f"least one image of each; give {classes} or more, or --data.balanced false"
        )
