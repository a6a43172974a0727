"""Matching what a batch holds with what a network's ``forward`` takes."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from lit_aux.callbacks._inputs import Inputs


def as_inputs(found: Any, network: nn.Module | None) -> Inputs:
    """Return what was given as the arguments that the network takes.

    A dictionary is passed by name and a tuple or list in order where the network takes them so; anything is
    one argument otherwise.
    """
    if isinstance(found, Inputs):
        return found
    if network is not None and isinstance(found, Mapping) and _binds(network, (), found):
        return Inputs((), {str(key): value for key, value in found.items()})
    if network is not None and isinstance(found, tuple | list) and len(found) > 1:
        required, _, several = _parameters(network)
        if (len(required) > 1 or several) and _binds(network, tuple(found), {}):
            return Inputs(tuple(found))
    return Inputs((found,))


def matching(batch: Any, network: nn.Module) -> Inputs | None:
    """Return the members of a batch that have the names of a network's arguments, or come first in it."""
    required, names, _ = _parameters(network)
    members = members_of(batch)
    if members and required and all(name in members for name in required):
        return Inputs((), {name: members[name] for name in names if name in members})
    if isinstance(batch, tuple | list) and 1 < len(required) <= len(batch):
        return Inputs(tuple(batch[: len(required)]))
    return None


def _parameters(network: nn.Module) -> tuple[list[str], list[str], bool]:
    """Return the names that a network's ``forward`` needs, all its names, and whether it takes any number."""
    try:
        known = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return [], [], False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    plain = [p for p in known if p.kind not in variable]
    required = [p.name for p in plain if p.default is inspect.Parameter.empty]
    return required, [p.name for p in plain], any(p.kind is variable[0] for p in known)


def _binds(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[Any, Any]) -> bool:
    """Whether a network's ``forward`` takes these arguments."""
    try:
        inspect.signature(network.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def members_of(batch: Any) -> dict[str, Any]:
    """Return what a batch holds by name."""
    if isinstance(batch, Mapping):
        return {str(key): value for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if is_dataclass(batch) and not isinstance(batch, type):
        return {one.name: getattr(batch, one.name, None) for one in fields(batch)}
    if isinstance(batch, list | tuple):  # a dictionary beside its labels
        return {k: v for inner in batch if isinstance(inner, Mapping) for k, v in members_of(inner).items()}
    return {}


def named_arguments(found: Inputs, network: nn.Module | None) -> dict[str, Any]:
    """Return the arguments of a call by the names that the network gives them, and what they hold by name."""
    if found.step or network is None:
        return {}
    try:
        named = dict(inspect.signature(network.forward).bind(*found.args, **found.kwargs).arguments)
    except (TypeError, ValueError):
        named = dict(found.kwargs)
    for value in [*named.values()]:
        named |= members_of(value) if not isinstance(value, list) else {}
    return named
