"""Numbers as their owners have them, in tensors, arrays, data frames and lists, brought to tensors."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._labels import MISSING


def tensor_of(given: Any, what: str) -> Tensor:
    """Return numbers of any kind as a tensor on the CPU.

    Args:
        given: A tensor, an array, or a list of either or of numbers.
        what: What they are, for the error.

    Raises:
        ConfigurationError: If they are no real numbers, or have no common shape.
    """
    if isinstance(given, Tensor) and given.is_complex():
        raise ConfigurationError(f"{what} of type {given.dtype}; give real numbers")
    if isinstance(given, Tensor):
        wide = given.dtype in (torch.uint16, torch.uint32, torch.uint64)
        return given.detach().cpu().long() if wide else given.detach().cpu()
    if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor):
        given = [tensor.detach().cpu().numpy() for tensor in given]
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        shapes = sorted({np.shape(one) for one in given}) if isinstance(given, list | tuple) else []
        found = f"of shapes {shapes[0]}, {shapes[1]}" if len(shapes) > 1 else f"of type {array.dtype}"
        raise ConfigurationError(f"{what} {found} make no array of numbers; give all one shape and type")
    if array.dtype.kind == "u" and array.itemsize > 1:
        array = array.astype(np.int64)  # torch can do next to nothing with wide unsigned numbers
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def array_of(given: Any) -> Any:
    """Return a tensor as it is, and all else as an array: of objects where its members are of several types.

    Args:
        given: Also a data frame, or whatever else has ``to_numpy``.
    """
    if isinstance(given, Tensor):
        return given
    to_numpy = getattr(given, "to_numpy", None)
    if callable(to_numpy):
        return np.asarray(to_numpy())
    if isinstance(given, list | tuple) and any(isinstance(one, Tensor) for one in given):
        return list(given)
    try:
        return np.asarray(given)
    except ValueError:  # rows of different lengths
        return given


def is_missing(value: Any) -> bool:
    """Whether a member of an array of objects stands for nothing: None, NaN, and what pandas has for it."""
    if isinstance(value, float | np.floating):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def from_objects(array: Any, *, missing: int | None) -> Any:
    """Return an array of numbers where one of objects holds nothing else; others as they are.

    Args:
        array: An array.
        missing: Put in the place of what is missing among whole numbers; None makes floats with NaN of them.
    """
    if getattr(getattr(array, "dtype", None), "kind", "") != "O":
        return array
    values = array.ravel().tolist()
    there = [not is_missing(value) for value in values]
    known = [value for value, is_there in zip(values, there, strict=True) if is_there]
    if not known or not all(isinstance(value, Real | np.bool_) for value in known):
        return array
    whole = all(isinstance(value, Integral | np.bool_) for value in known)
    kind, filler = (np.int64, missing) if whole and missing is not None else (np.float64, np.nan)
    whole_or_not = [value if is_there else filler for value, is_there in zip(values, there, strict=True)]
    return np.array(whole_or_not, dtype=kind).reshape(array.shape)


def names_in(array: Any) -> list[str] | None:
    """Return the names among the members of an array, sorted; None where there is none."""
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind == "U":
        return sorted({*array.ravel().tolist()})
    if kind != "O":
        return None
    names = {value for value in array.ravel().tolist() if not is_missing(value)}
    return sorted(names) if names and all(isinstance(name, str) for name in names) else None


def numbered(array: Any, names: Iterable[str]) -> Any:
    """Return the places of names in a list of them, int64 in the array's shape; -100 for what is missing.

    Raises:
        KeyError: For a name that is not in the list.
    """
    numbers = {name: number for number, name in enumerate(names)}
    values = [MISSING if is_missing(value) else numbers[value] for value in array.ravel().tolist()]
    return np.array(values, dtype=np.int64).reshape(array.shape)
