"""Collections of tensors with a row a sample: what a network is called with, and the targets."""

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def mapped(
    value: Any, function: Callable[[Any], Any], leaf: Callable[[Any], bool] = lambda value: False
) -> Any:
    """Apply a function to every tensor (and packed sequence) in a collection, whatever holds them.

    Args:
        value: The collection.
        function: What to apply.
        leaf: Which collections it is applied to as they are.
    """
    if isinstance(value, Tensor | PackedSequence) or leaf(value):
        return function(value)
    if isinstance(value, Mapping):
        return _rebuilt(value, {key: mapped(inner, function, leaf) for key, inner in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(inner, function, leaf) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(inner, function, leaf) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for one in fields(value):
            if hasattr(value, one.name):  # also where the class is frozen
                object.__setattr__(made, one.name, mapped(getattr(value, one.name), function, leaf))
        return made
    if not isinstance(value, type) and callable(getattr(value, "to", None)):
        return function(value)  # somebody's batch object, which knows how to move
    return value


def _rebuilt(like: Mapping[Any, Any], members: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with other members."""
    if type(like) is dict:
        return members
    with suppress(Exception):
        return type(like)(members)  # type: ignore[call-arg]
    with suppress(Exception):  # a class with arguments of its own
        made: Any = copy.copy(like)
        made.update(members)
        return made
    return members


def tensors_of(value: Any) -> list[Tensor]:
    """List the tensors in a collection; of a packed sequence, its data."""
    found: list[Any] = []
    mapped(value, found.append)
    leaves = (leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def count_rows(value: Any) -> int:
    """Return the number of samples in a collection whose tensors have a row a sample; 0 without a tensor."""
    if isinstance(value, Tensor):
        return len(value)
    leaves = tensors_of(value)
    return len(leaves[0]) if leaves else 0


def form_of(value: Any) -> Hashable:
    """Return what two collections must share to be joined: members, shapes of rows, dtypes and devices."""
    if isinstance(value, Tensor):
        return (value.shape[1:], value.dtype, value.device)
    if isinstance(value, Mapping):
        return tuple((key, form_of(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return tuple(form_of(inner) for inner in value)
    return (type(value), id(value))  # no part of two batches


def concatenated(values: Sequence[Any]) -> Any:
    """Join the samples of collections of one form, see :func:`form_of`."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {key: concatenated([value[key] for value in values]) for key in first}
    return type(first)(concatenated(parts) for parts in zip(*values, strict=True))


def selected(value: Any, rows: Tensor | slice) -> Any:
    """Take some samples of a collection.

    Args:
        value: The collection, every tensor of which has a row a sample.
        rows: Their numbers, int64 on the device of the tensors, or a slice.
    """

    def take(leaf: Tensor) -> Tensor:
        return leaf[rows] if isinstance(rows, slice) else leaf.index_select(0, rows)

    return take(value) if isinstance(value, Tensor) else mapped(value, take)
