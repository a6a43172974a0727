"""What a network is called with: any collection of tensors, ragged ones too, cut into rows and joined."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


@dataclass
class Inputs:
    """The arguments of one call of a network.

    Attributes:
        args: Positional arguments; the batch itself where a step of the module is run.
        kwargs: Arguments by name.
        size: Number of samples.
        masks: What may say which positions are real, by name, as found in the batch.
        step: The step of the module that is run with the batch, as ``"validation_step"``; empty where the
            network is called.
        loader: Which loader the batch is of, for that step.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    step: str = ""
    loader: int = 0


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every tensor (and packed sequence) in a collection, whatever holds them."""
    if isinstance(value, Tensor | PackedSequence):
        return function(value)
    if isinstance(value, Mapping):
        return rebuilt(value, {key: mapped(inner, function) for key, inner in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(inner, function) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(inner, function) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _with_fields(value, lambda inner: mapped(inner, function))
    if not isinstance(value, type) and callable(getattr(value, "to", None)):
        return function(value)  # somebody's batch object, which knows how to move
    return value


def rebuilt(like: Mapping[Any, Any], members: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with other members."""
    if type(like) is dict:
        return members
    try:
        return type(like)(members)  # type: ignore[call-arg]
    except Exception:  # a class with arguments of its own
        made = copy.copy(like)
        try:
            for key, value in members.items():
                made[key] = value  # type: ignore[index]
        except Exception:
            return members
        return made


def _with_fields(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a copy of a dataclass instance, frozen ones too, with every field changed."""
    made = copy.copy(value)
    for one in fields(value):
        if hasattr(value, one.name):
            object.__setattr__(made, one.name, function(getattr(value, one.name)))
    return made


def tensors_of(value: Any) -> list[Tensor]:
    """List the tensors in a collection; of a packed sequence, its data."""
    found: list[Tensor] = []

    def note(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            found.append(leaf.data)
        elif isinstance(leaf, Tensor):
            found.append(leaf)
        return leaf

    mapped(value, note)
    return found


def moved(value: Any, device: torch.device | str) -> Any:
    """Return a copy of a collection on a device; never the same memory, since networks may work in place."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf = leaf.detach()
            return leaf.clone() if leaf.device == torch.device(device) else leaf.to(device)
        return leaf.to(device)

    return mapped(value, move)


def size_of(value: Any) -> int:
    """Return the number of samples in a batch: the first dimension that most of its members have; 0 if none.

    A list counts by its length where its members are no tensors with a common first dimension.
    """
    votes = Counter(first_sizes(value))
    return max(votes, key=lambda size: votes[size]) if votes else 0


def first_sizes(value: Any) -> Iterator[int]:
    """Yield the first dimension of each member of a batch: what it says of the number of samples."""
    if isinstance(value, PackedSequence):
        yield int(value.batch_sizes[0])
    elif isinstance(value, Tensor):
        if value.ndim:
            yield value.size(0)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from first_sizes(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from first_sizes(getattr(value, one.name, None))
    elif isinstance(value, list | tuple):
        inside = [size for inner in value for size in first_sizes(inner)]
        ragged = isinstance(value, list) and len({*inside}) > 1 and len(inside) == len(value)
        if inside and not ragged:
            yield from inside
        elif isinstance(value, list) and value:
            yield len(value)


def rows(value: Any, total: int, start: int, stop: int) -> Any:
    """Return some samples of a collection; what has another first dimension than ``total`` stays whole."""
    if start <= 0 and stop >= total:
        return value
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        chosen, sizes = padded[start:stop], lengths[start:stop]
        return pack_padded_sequence(chosen, sizes, batch_first=True, enforce_sorted=False)
    if isinstance(value, Tensor):
        if not value.ndim or value.size(0) != total:
            return value
        if value.is_nested:
            return torch.nested.as_nested_tensor(list(value.unbind())[start:stop], layout=value.layout)
        return value[start:stop]
    if isinstance(value, Mapping):
        return rebuilt(value, {key: rows(inner, total, start, stop) for key, inner in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(rows(inner, total, start, stop) for inner in value))
    if isinstance(value, list | tuple):
        if isinstance(value, list) and len(value) == total and total not in {*first_sizes(value[0])}:
            return value[start:stop]  # one member a sample
        return type(value)(rows(inner, total, start, stop) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _with_fields(value, lambda inner: rows(inner, total, start, stop))
    return value


def slices(inputs: Any, size: int) -> list[Any]:
    """Cut :class:`Inputs`, or a collection with a common first dimension, into near-equal pieces."""
    total = inputs.size if isinstance(inputs, Inputs) else size_of(inputs)
    count = max(1, -(-total // size))
    bounds = [total * i // count for i in range(count + 1)]
    return [part(inputs, total, a, b) for a, b in pairwise(bounds)]


def part(inputs: Any, total: int, start: int, stop: int) -> Any:
    """Return some samples of :class:`Inputs` or of a collection."""
    if not isinstance(inputs, Inputs):
        return rows(inputs, total, start, stop)
    size = max(0, min(stop, total) - max(start, 0))
    cut = [rows(value, total, start, stop) for value in (inputs.args, inputs.kwargs, inputs.masks)]
    return Inputs(cut[0], cut[1], size, cut[2], inputs.step, inputs.loader)


def joined(pieces: list[Inputs]) -> list[Inputs]:
    """Make one piece of many where all are tensors of samples of one shape; else return them as they are.

    So measures do not depend on how a loader cuts its batches.
    """
    if len(pieces) < 2 or not all(_plain(piece) for piece in pieces):
        return pieces
    first = pieces[0]
    shapes = {(tuple(t.shape[1:] for t in _flat(p)), tuple(p.kwargs), tuple(p.masks)) for p in pieces}
    if len(shapes) > 1:
        return pieces
    args = tuple(torch.cat(column) for column in zip(*(p.args for p in pieces), strict=True))
    kwargs = {name: torch.cat([p.kwargs[name] for p in pieces]) for name in first.kwargs}
    masks = {name: torch.cat([p.masks[name] for p in pieces]) for name in first.masks}
    return [Inputs(args, kwargs, sum(p.size for p in pieces), masks)]


def _flat(piece: Inputs) -> list[Any]:
    """Return the arguments and masks of a call."""
    return [*piece.args, *piece.kwargs.values(), *piece.masks.values()]


def _plain(piece: Inputs) -> bool:
    """Whether a call has nothing but tensors with a row a sample."""
    return not piece.step and all(
        isinstance(t, Tensor) and not t.is_nested and t.ndim > 0 and len(t) == piece.size
        for t in _flat(piece)
    )
