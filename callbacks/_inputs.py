"""What a network is called with: any collection of tensors, ragged and padded ones too, cut and joined."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.trees import mapped

Mask = str | Callable[[Any], Tensor] | Literal[False] | None
"""Where the mask of padded inputs comes from: found in the batch (None), the name that it has there, a
function of the batch that returns (n, positions), True where an input is real, or False for none."""

GIVEN = "mask="
_NAME = re.compile(r"(^|_)(masks?|pad|padding)$")
_OF_SCORES = re.compile(r"^(src|tgt|memory|attn)_mask$|causal")
_LENGTHS = re.compile(r"^(\w+_)?(lengths?|lens?)$|^lengths?_\w+$")
_REAL = re.compile(r"(^|_)(attention|attn|valid|token|input|pixel)_mask(s)?$")
_PADDING = re.compile(r"key_padding_mask$")


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


def parts_of(value: Any) -> list[Any]:
    """Return what a collection holds: values of a mapping, fields of a dataclass, members of a list."""
    if isinstance(value, Mapping):
        return list(value.values())
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, one.name, None) for one in fields(value)]
    return list(value) if isinstance(value, list | tuple) else []


def first_sizes(value: Any) -> Iterator[int]:
    """Yield the first dimension of each member of a batch: what it says of the number of samples."""
    if isinstance(value, PackedSequence):
        yield int(value.batch_sizes[0])
    elif isinstance(value, Tensor):
        if value.ndim:
            yield value.size(0)
    else:
        inside = [size for inner in parts_of(value) for size in first_sizes(inner)]
        ragged = isinstance(value, list) and len({*inside}) > 1 and len(inside) == len(value)
        if inside and not ragged:
            yield from inside
        elif isinstance(value, list) and value:
            yield len(value)


def rows(value: Any, total: int, start: int, stop: int) -> Any:
    """Return some samples of a collection; what has another first dimension than ``total`` stays whole."""
    if start <= 0 and stop >= total:
        return value

    def a_member_a_sample(part: Any) -> bool:
        return isinstance(part, list) and len(part) == total and total not in {*first_sizes(part[0])}

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf, batch_first=True)
            chosen, sizes = padded[start:stop], lengths[start:stop]
            return pack_padded_sequence(chosen, sizes, batch_first=True, enforce_sorted=False)
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.size(0) == total:
            if leaf.is_nested:
                return torch.nested.as_nested_tensor(list(leaf.unbind())[start:stop], layout=leaf.layout)
            return leaf[start:stop]
        return leaf[start:stop] if isinstance(leaf, list) else leaf

    return mapped(value, cut, a_member_a_sample)


def slices(inputs: Any, size: int) -> list[Any]:
    """Cut :class:`Inputs`, or a collection with a common first dimension, into near-equal pieces."""
    total = inputs.size if isinstance(inputs, Inputs) else size_of(inputs)
    count = max(1, -(-total // size))
    bounds = [total * i // count for i in range(count + 1)]
    return [part(inputs, total, a, b) for a, b in pairwise(bounds)]


def part(inputs: Any, total: int, start: int, stop: int) -> Any:
    """Return some samples of :class:`Inputs` or of a collection."""
    cut = rows(inputs, total, start, stop)
    size = max(0, min(stop, total) - max(start, 0))
    return replace(cut, size=size) if isinstance(cut, Inputs) else cut


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


def candidates(named: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Return what may be a mask, or the lengths of sequences, among named members of a batch or call.

    Args:
        named: The members.
        size: Number of samples.
    """
    found: dict[str, Tensor] = {}
    for name, value in named.items():
        if not isinstance(value, Tensor) or value.is_nested or not value.ndim or len(value) != size:
            continue
        if _NAME.search(name) and value.ndim > 1:
            if _OF_SCORES.search(name) and value.shape[0] == value.shape[1]:
                continue  # (positions, positions), by chance as many as samples
            inner = [d for d in value.shape[1:] if d != 1] if value.ndim > 2 else list(value.shape[1:])
            found[name] = value.reshape(size, *inner)
        elif _LENGTHS.search(name) and value.ndim == 1 and not value.is_floating_point():
            found[name] = value
    return found


def resolved(found: Iterable[Mapping[str, Tensor]], mask: Mask) -> list[dict[str, Tensor]]:
    """Say of every candidate which positions are real, in the same way for all pieces of a probe.

    Names with a fixed meaning are believed: ``attention_mask`` is true where an input is real, torch's
    ``..._key_padding_mask`` where it is padding. Others are read off the data: no sample is all padding.

    Args:
        found: The candidates of every piece, see :func:`candidates`.
        mask: The option.

    Returns:
        For every piece the masks by name, boolean and true where an input is real; lengths stay as they are.

    Raises:
        ConfigurationError: If ``mask`` names what is not there, or what may mean either.
    """
    pieces = [dict(each) for each in found]
    names = list(dict.fromkeys(name for piece in pieces for name in piece))
    if mask is False:
        return [{} for _ in pieces]
    if mask is not None and not callable(mask) and not isinstance(mask, str):
        raise ConfigurationError(f"mask: {mask!r} is no name, no function of a batch, and not false")
    if isinstance(mask, str):
        check_known("mask", mask, names)
        names = [mask]
    elif mask is not None:
        names = [GIVEN]
    for name in names:
        having = [piece for piece in pieces if name in piece]
        if having[0][name].ndim == 1:
            continue
        meant = True if name == GIVEN else _meaning(name, [piece[name] for piece in having])
        if meant is None:
            how = f"mask: {name!r} may be true for what is real or for padding"
            if isinstance(mask, str):
                raise ConfigurationError(f"{how}; give a function of the batch that returns what is real")
            rank_zero_warn(f"{how}, so that it is not used; give mask= (or False)")
        for piece in having:
            value = piece.pop(name)
            if meant is not None:
                piece[name] = _true(value) == meant
    return [{name: value for name, value in piece.items() if name in names} for piece in pieces]


def _true(mask: Tensor) -> Tensor:
    """Return where a mask is set; an additive one is set where it takes something away."""
    return mask < 0 if mask.is_floating_point() and bool((mask < 0).any()) else mask != 0


def _meaning(name: str, masks: list[Tensor]) -> bool | None:
    """Return whether a mask is set where inputs are real (True) or padding (False); None if either may be."""
    if any(m.is_floating_point() and bool((m < 0).any()) for m in masks):
        return False  # added to the scores of attention
    if any(bool(((m != 0) & (m != 1)).any()) for m in masks):
        return None
    if _PADDING.search(name):
        return False
    if _REAL.search(name):
        return True
    rows = [_true(mask).flatten(1) for mask in masks]
    full, empty = any(bool(r.all(1).any()) for r in rows), any(bool((~r).all(1).any()) for r in rows)
    if full != empty:
        return full
    return False if "pad" in name and not full else None


def pads(mask: Tensor) -> bool:
    """Whether a mask, or lengths, say that something is padding."""
    return bool(mask.min() < mask.max()) if mask.ndim == 1 else not bool(mask.all())


def lengths_mask(lengths: Tensor, positions: int) -> Tensor:
    """Return (n, positions), true for the first positions of every sample."""
    return torch.arange(positions, device=lengths.device)[None] < lengths[:, None]


def fitting(masks: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """Return the mask of a shape (n, positions, ...), if there is one and no other that says otherwise."""
    fits = [mask for mask in masks.values() if tuple(mask.shape) == shape]
    if not fits and len(shape) == 2:
        lengths = [m for m in masks.values() if m.ndim == 1 and len(m) == shape[0]]
        fits = [lengths_mask(m, shape[1]) for m in lengths if 0 <= int(m.min()) <= int(m.max()) <= shape[1]]
    return fits[0] if fits and all(torch.equal(fits[0], other) for other in fits[1:]) else None
