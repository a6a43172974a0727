"""Which positions of padded sequences are real."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.errors import ConfigurationError, unknown_name

Mask = str | Callable[[Any], Tensor] | Literal[False] | None
"""Where the mask of padded inputs comes from: found in the batch (None), the name that it has there, a
function of the batch that returns (n, positions), True where an input is real, or False for none."""

GIVEN = "mask="
_NAME = re.compile(r"(^|_)(masks?|pad|padding)$")
_OF_SCORES = re.compile(r"^(src|tgt|memory|attn)_mask$|causal")
_LENGTHS = re.compile(r"^(\w+_)?(lengths?|lens?)$|^lengths?_\w+$")
_REAL = re.compile(r"(^|_)(attention|attn|valid|token|input|pixel)_mask(s)?$")
_PADDING = re.compile(r"key_padding_mask$")


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
        if mask not in names:
            raise unknown_name("mask", mask, names)
        names = [mask]
    elif mask is not None:
        names = [GIVEN]
    for name in names:
        values = [piece[name] for piece in pieces if name in piece]
        if values[0].ndim == 1:
            continue
        meant = True if name == GIVEN else _meaning(name, values)
        if meant is None:
            how = f"mask: {name!r} may be true for what is real or for padding"
            if isinstance(mask, str):
                raise ConfigurationError(f"{how}; give a function of the batch that returns what is real")
            rank_zero_warn(f"{how}, so that it is not used; give mask= (or False)")
        for piece in pieces:
            if name in piece:
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
    rows = torch.cat(
        [torch.stack([_true(m).flatten(1).all(1), ~_true(m).flatten(1).any(1)]) for m in masks], 1
    )
    full, empty = rows.any(1).tolist()
    if full != empty:
        return bool(full)
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
        lengths = [
            m for m in masks.values() if m.ndim == 1 and len(m) == shape[0] and int(m.max()) <= shape[1]
        ]
        exact = [m for m in lengths if int(m.min()) >= 0]
        fits = [lengths_mask(m, shape[1]) for m in exact]
    if not fits or any(not torch.equal(fits[0], other) for other in fits[1:]):
        return None
    return fits[0]
