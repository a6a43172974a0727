"""Which tensor of a file is which of a network: either may hold the other's within something."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from lit_aux.errors import ConfigurationError, listed, some

Prefix = str | Mapping[str, str]
_COUNTERS = "num_batches_tracked"
"""Files from before PyTorch 0.4.1 lack these, which nothing reads as long as momentum is set."""


class Match(NamedTuple):
    """How far a file's names are a network's.

    Attributes:
        weights: The file's tensors by the network's names.
        missing: The network's names that the file lacks.
        left_over: The file's names that the network lacks.
        prefix: What stands before the network's names in the file.
    """

    weights: dict[str, Tensor]
    missing: list[str]
    left_over: list[str]
    prefix: str


def matched(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], prefix: Prefix | None, source: str
) -> Match:
    """Find a network's tensors in a file.

    Where names do not fit as they are, the one prefix is taken off with which all of them do: a network may
    have been part of another (``model.backbone.``), or be wrapped itself.

    Args:
        own: The network's tensors by name.
        weights: The file's.
        prefix: What to take off the file's names, of which others are left over, or new beginnings of names
            by old ones; None finds out.
        source: The file, for the error.

    Raises:
        ConfigurationError: If a prefix begins no name, or several fit.
    """
    named = _renamed(weights, prefix, source)
    plain = {name.replace("_orig_mod.", ""): name for name in own}
    needed = [name for name in plain if not name.endswith(_COUNTERS)] or list(plain)
    before, within = _places(needed, plain, own, named, weights, prefix, source)
    keys = {plain[name]: named.get(before + name.removeprefix(within)) for name in plain}
    found = {name: weights[key] for name, key in keys.items() if key is not None}
    found |= {name: value for name, value in own.items() if name.endswith(_COUNTERS) and name not in found}
    present = {own[name].data_ptr() for name in found}  # tied parameters are written once by some
    missing = [n for n, v in own.items() if n not in found and not (v.numel() and v.data_ptr() in present)]
    used = {key for key in keys.values() if key is not None}
    return Match(found, missing, [key for key in weights if key not in used], before)


def _renamed(weights: Mapping[str, Tensor], prefix: Prefix | None, source: str) -> dict[str, str]:
    """Return the file's names by the names that they are given."""
    given = {"": ""} if prefix is None else {prefix: ""} if isinstance(prefix, str) else prefix
    new = {old.replace("_orig_mod.", ""): name for old, name in given.items()}
    for old in new:
        if not any(key.startswith(old) for key in weights):
            raise ConfigurationError(
                f"pretrained_prefix: {old!r} begins no name in {source!r}; names begin with "
                f"{listed((key.partition('.')[0] for key in weights), 5)}"
            )
    found: dict[str, str] = {}
    for key in weights:
        begins = sorted((old for old in new if key.startswith(old)), key=len)
        if not begins and isinstance(prefix, str):
            continue
        name = new[begins[-1]] + key.removeprefix(begins[-1]) if begins else key
        if name in found:
            raise ConfigurationError(
                f"pretrained_prefix: {found[name]!r} and {key!r} in {source!r} would both be {name!r}"
            )
        found[name] = key
    return found


def _places(
    needed: Sequence[str],
    plain: Mapping[str, str],
    own: Mapping[str, Tensor],
    named: Mapping[str, str],
    weights: Mapping[str, Tensor],
    prefix: Prefix | None,
    source: str,
) -> tuple[str, str]:
    """Return what stands before the names in the file, and what of the network's own is to be taken off.

    Raises:
        ConfigurationError: If several places fit.
    """
    votes = Counter(_votes(needed, named))
    if prefix is not None:
        votes = Counter({place: count for place, count in votes.items() if place[0] == ""})
    if not votes:
        return "", ""
    fits = {
        place[0] + needed[0].removeprefix(place[1]): place
        for place, count in votes.items()
        if count == len(needed)
    }
    if len(fits) > 1:
        alike = {
            key: (before, within)
            for key, (before, within) in fits.items()
            if all(
                weights[named[before + name.removeprefix(within)]].shape == own[plain[name]].shape
                for name in needed
            )
        }
        fits = alike or fits
    if len(fits) > 1:
        raise ConfigurationError(
            f"pretrained_prefix: nothing is given, and in {source!r} the network's names stand behind "
            f"{some([repr(before) for before, _ in fits.values()])}; give one of these"
        )
    return next(iter(fits.values())) if fits else max(votes, key=lambda place: (votes[place], -len(place[0])))


def _votes(needed: Sequence[str], named: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield for each name of the network, and each in the file that ends so, what is before either."""
    ends: dict[str, list[str]] = {}
    for key in named:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    for within in _common(needed):
        for name in needed:
            end = name.removeprefix(within)
            for key in ends.get(end.rpartition(".")[2], ()):
                if key == end or key.endswith(f".{end}"):
                    yield key.removesuffix(end), within


def _common(names: Sequence[str]) -> Iterator[str]:
    """Yield the beginnings, in whole words, that all names share, the empty one first."""
    within = ""
    while True:
        yield within
        words = {name.removeprefix(within).partition(".")[:2] for name in names}
        if len(words) > 1 or not all(dot for _, dot in words):
            return
        within += "".join(next(iter(words)))
