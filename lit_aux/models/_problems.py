"""The regression problems that a batch of students is given."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lit_aux.errors import ConfigurationError


@dataclass
class Problems:
    """What each replica has to fit.

    Attributes:
        tasks: The tasks that count.
        key: Of a replica and a task: equal where the inputs are the same.
        load: Of a replica and a task: inputs (n, D) and targets (n, o).
        weights: Weight of each task's rows; 1 by default.
        cache: What was worked out of inputs and targets, kept from one batch to the next.
        moments: What was worked out of inputs alone.
        whole: Whether no mini-batches are taken, so that the inputs themselves need not be kept.
    """

    tasks: Sequence[str]
    key: Callable[[int, str], Hashable]
    load: Callable[[int, str], tuple[Tensor, Tensor]]
    weights: dict[str, float] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)
    moments: dict[Any, Any] = field(default_factory=dict)
    whole: bool = False


def neighbours(keys: Sequence[Hashable]) -> list[slice]:
    """Return the stretches of equal neighbours."""
    starts = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(keys)], strict=True)]


def split_rows(chosen: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Divide indices of rows, counted over tasks of these sizes one after another, among the tasks."""
    parts, start = [], 0
    for size in sizes:
        inside = (chosen >= start) & (chosen < start + size)
        parts.append(chosen[inside] - start)
        start += size
    return parts


def equal_sizes(sizes: Sequence[Sequence[int]]) -> list[int]:
    """Return each task's number of rows.

    Args:
        sizes: For each task, the numbers of its groups of replicas.

    Raises:
        ConfigurationError: If replicas differ, so that they have no mini-batches in common.
    """
    for some in sizes:
        if len(set(some)) > 1:
            raise ConfigurationError(
                f"batch_size: replicas with {min(some)} and with {max(some)} rows share no mini-batches; "
                "train them in separate runs, or on all rows at once"
            )
    return [some[0] for some in sizes]


def narrow(groups: Sequence[slice], keep: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Tell, for each group of rows that keeps some, its number and which of its rows they are."""
    chosen = []
    for number, group in enumerate(groups):
        inside = [i - group.start for i in keep if group.start <= i < group.stop]
        if inside:
            chosen.append((number, inside))
    return chosen
