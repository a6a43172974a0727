"""Which classes each task has, which images of them are drawn, and how many train and validate."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.loader import generator_for
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import MOST, is_whole, whole

Classes = Mapping[str, int | list[int | str]]

_CLASSES = "--data.classes"


def assign_classes(
    classes: Mapping[str, int | Sequence[int | str]], class_names: Sequence[str], seed: int
) -> dict[str, list[int]]:
    """Give each task its classes.

    Listed classes are taken as they are. All other classes are permuted by the seed, and counts take
    consecutive slices of that permutation in the order of the mapping.

    Args:
        classes: For each task the number of its classes, or a list of class indices or names.
        class_names: The name of every class, by index.
        seed: Determines the permutation.

    Returns:
        For each task its class indices; a class's place in the list is its label within the task.

    Raises:
        ConfigurationError: For no tasks, a task of fewer than two classes, a name that cannot be a task's, an
            unknown class, a class in two tasks, or more classes than there are.

    Example:
        >>> from lit_aux.data import assign_classes
        >>> assign_classes({"main": ["cat", "dog"], "aux": 2}, ["ant", "bee", "cat", "dog"], seed=0)
        {'main': [2, 3], 'aux': [0, 1]}
    """
    if not classes:
        raise ConfigurationError(f"{_CLASSES} {{}}: name at least one task, as in {{main: 2, aux: 8}}")
    if not isinstance(classes, Mapping):
        raise ConfigurationError(
            f"{_CLASSES} {classes!r}: is no mapping of tasks to classes, as {{main: 2, aux: 8}}"
        )
    listed: dict[str, list[int]] = {}
    owner: dict[int, str] = {}
    for task, wanted in classes.items():
        _check_task(task, wanted)
        if not isinstance(wanted, int):
            listed[task] = [_class_index(entry, class_names) for entry in wanted]
            for index in listed[task]:
                if index in owner:
                    raise ConfigurationError(
                        f"{_CLASSES}: class {class_names[index]!r} is given twice, "
                        f"in {owner[index]!r} and {task!r}"
                    )
                owner[index] = task
    permutation = torch.randperm(len(class_names), generator=generator_for(seed, "classes")).tolist()
    free = [index for index in permutation if index not in owner]
    result: dict[str, list[int]] = {}
    for task, wanted in classes.items():
        if not isinstance(wanted, int):
            result[task] = listed[task]
            continue
        if wanted > len(free):
            raise ConfigurationError(
                f"{_CLASSES}: {task!r} asks for {wanted} classes, but of {len(class_names)} "
                f"only {len(free)} are left"
            )
        result[task], free = free[:wanted], free[wanted:]
    return result


def check_task_name(option: str, task: Any) -> None:
    """Refuse what cannot be the name of a module or in a log.

    Raises:
        ConfigurationError: Beginning with the option.
    """
    if not isinstance(task, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", task):
        raise ConfigurationError(
            f"{option} {task!r} cannot name a task; use letters, digits, _ and -, a letter first"
        )


def _check_task(task: str, wanted: int | Sequence[int | str]) -> None:
    """Refuse names that cannot be module or log names, and tasks that need no deciding."""
    check_task_name(f"{_CLASSES}:", task)
    if isinstance(wanted, str | bool):
        raise ConfigurationError(f"{_CLASSES}: {task!r} needs a number of classes or a list, not {wanted!r}")
    count = wanted if isinstance(wanted, int) else len(wanted)
    if count < 2:
        raise ConfigurationError(f"{_CLASSES}: {task!r} has {count} classes, but a task needs at least 2")


def _class_index(entry: int | str, class_names: Sequence[str]) -> int:
    """Find a class by its name or index."""
    if isinstance(entry, str):
        check_known(_CLASSES, entry, class_names)
        return class_names.index(entry)
    if isinstance(entry, bool) or not 0 <= entry < len(class_names):
        raise ConfigurationError(
            f"{_CLASSES}: class {entry} is unknown; indices go from 0 to {len(class_names) - 1}"
        )
    return entry


def draw_samples(
    labels: Tensor, classes: Sequence[int], n: int | None, generator: torch.Generator, balanced: bool = True
) -> Tensor:
    """Draw ``n`` of the samples that belong to ``classes``, at random.

    A smaller draw is the beginning of a larger one from a generator in the same state.

    Args:
        labels: int64 (N,), the class of every sample.
        classes: Which classes to draw from.
        n: How many; ``None`` for all of them.
        generator: Random numbers.
        balanced: Draw the classes in turn, so that the counts of classes with enough samples differ by one at
            most and ten images of two classes are five each. ``False`` draws uniformly from all the samples,
            as in the published experiments, where a class may be missing from a small draw.

    Returns:
        int64 indices into ``labels``, in the order in which they were drawn.

    Raises:
        ValueError: If there are fewer than ``n`` samples.

    Example:
        >>> import torch
        >>> from lit_aux.data import draw_samples
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> chosen = draw_samples(labels, [0, 1], 2, torch.Generator().manual_seed(0))
        >>> labels[chosen].sort().values
        tensor([0, 1])
    """
    wanted = torch.as_tensor(list(classes))
    candidates = torch.isin(labels, wanted).nonzero().flatten()
    candidates = candidates[torch.randperm(len(candidates), generator=generator)]
    if balanced:
        ties = torch.rand(len(candidates), generator=generator, dtype=torch.float64)
        turns = torch.zeros(len(candidates), dtype=torch.float64)
        for index in classes:
            mine = labels[candidates] == index
            turns[mine] = torch.arange(int(mine.sum()), dtype=torch.float64)
        candidates = candidates[torch.argsort(turns + ties, stable=True)]
    if n is not None and n > len(candidates):
        raise ValueError(f"{n} samples asked for, {len(candidates)} exist")
    return candidates[:n]


# How many images, as the options say it


def at_least(option: str, value: Any, least: int, most: float = MOST) -> None:
    """Refuse what is given but no whole number from ``least`` to ``most``.

    Raises:
        ConfigurationError: Naming the option and the value.
    """
    if value is not None:
        whole(option, value if is_whole(value) else repr(value), least, most)


def resolve_seed(seed: Any) -> int:
    """Return the seed given, else that of ``seed_everything``, else 0.

    Raises:
        ConfigurationError: If it is no seed that torch's generators take.
    """
    at_least("--data.seed", seed, 0, 2**63 - 1)
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
        check_known("--data.n", task, tasks)
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


def split_sizes(
    task: str, n: int | None, n_val: int | None, available: int, what: str = "images"
) -> tuple[int, int]:
    """Return how many samples of the pool train and how many validate.

    Args:
        task: For the error message.
        n: Training samples; ``None`` for all but ``n_val``.
        n_val: Validation samples; ``None`` for what is left, 1000 at most.
        available: Samples of the task in the pool.
        what: What samples are, for the error message.

    Raises:
        ConfigurationError: If the pool is too small.
    """
    if n is None:
        if n_val is not None and n_val >= available:
            raise ConfigurationError(
                f"--data.n_val {n_val}: task {task!r} has {available} {what}; leave some to train on"
            )
        n = available - (n_val or 0)
    if n > available:
        raise ConfigurationError(f"{option_for(task)} {n}: task {task!r} has {available} training {what}")
    left = available - n
    if n_val is not None and n_val > left:
        raise ConfigurationError(
            f"--data.n_val {n_val}: of {available} {what} of task {task!r}, {n} train and {left} are left"
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
            f"least one of each; give {classes} or more, or --data.balanced false"
        )


def described(data: Any) -> str:
    """Return what ``print`` shows of a data module; Lightning's own text knows its ``DataLoader`` alone."""
    outputs = ", ".join(f"{task}: {count}" for task, count in data.num_classes.items())
    return f"{type(data).__name__}, outputs of its tasks: {outputs}"
