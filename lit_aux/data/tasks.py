"""Classes and images of each task."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_aux.data.order import generator_for
from lit_aux.errors import ConfigurationError, unknown_name

Classes = Mapping[str, int | list[int | str]]

_OPTION = "--data.classes"


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
        raise ConfigurationError(f"{_OPTION} {{}}: name at least one task, as in {{main: 2, aux: 8}}")
    if not isinstance(classes, Mapping):
        raise ConfigurationError(
            f"{_OPTION} {classes!r}: is no mapping of tasks to classes, as {{main: 2, aux: 8}}"
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
                        f"{_OPTION}: class {class_names[index]!r} is given twice, "
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
                f"{_OPTION}: {task!r} asks for {wanted} classes, but of {len(class_names)} "
                f"only {len(free)} are left"
            )
        result[task], free = free[:wanted], free[wanted:]
    return result


def _check_task(task: str, wanted: int | Sequence[int | str]) -> None:
    """Refuse names that cannot be module or log names, and tasks that need no deciding."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", task):
        raise ConfigurationError(
            f"{_OPTION}: {task!r} cannot name a task; use letters, digits, _ and -, a letter first"
        )
    if isinstance(wanted, str | bool):
        raise ConfigurationError(f"{_OPTION}: {task!r} needs a number of classes or a list, not {wanted!r}")
    count = wanted if isinstance(wanted, int) else len(wanted)
    if count < 2:
        raise ConfigurationError(f"{_OPTION}: {task!r} has {count} classes, but a task needs at least 2")


def _class_index(entry: int | str, class_names: Sequence[str]) -> int:
    """Find a class by its name or index."""
    if isinstance(entry, str):
        if entry in class_names:
            return class_names.index(entry)
        raise unknown_name(_OPTION, entry, class_names)
    if isinstance(entry, bool) or not 0 <= entry < len(class_names):
        raise ConfigurationError(
            f"{_OPTION}: class {entry} is unknown; indices go from 0 to {len(class_names) - 1}"
        )
    return entry


def draw_samples(
    labels: Tensor,
    classes: Sequence[int],
    n: int | None,
    generator: torch.Generator,
    balanced: bool = True,
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
