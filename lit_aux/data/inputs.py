"""Inputs of a user's own: arrays, or dicts or tuples of them, brought to collections of tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.numbers import array_of, from_objects, names_in, tensor_of
from lit_aux.errors import ConfigurationError, listed
from lit_aux.finite import all_finite
from lit_aux.trees import mapped, tensors_of

Scale = list[tuple[Tensor, Tensor] | None]
"""Mean and deviation of each tensor of a collection, in its order; None for those that stay as they are."""


def inputs_of(given: Any, what: str) -> Any:
    """Bring inputs to a tensor, or to a dict or tuple of tensors, each with a row a sample.

    Floats become torch's default type. Whole numbers and truth values stay what they are, for they may be
    tokens or masks. A single column of floats, (N,), becomes (N, 1).

    Args:
        given: An array, a data frame, or a dict (by the names that the backbone gives its arguments) or tuple
            (in their order) of such.
        what: What they are, for errors.

    Raises:
        ConfigurationError: For what are no numbers, NaN and infinities, and rows that differ in number.
    """
    if not isinstance(given, Mapping | tuple):
        x = _numbers(given, what)
        return x.unsqueeze(1) if x.ndim == 1 and x.is_floating_point() else x
    if not given:
        raise ConfigurationError(
            f"{what} are an empty {type(given).__name__}; give an array of each argument"
        )
    named = isinstance(given, Mapping)
    if named and (odd := [key for key in given if not isinstance(key, str)]):
        raise ConfigurationError(f"{what}: {odd[0]!r} is no name of an argument of the backbone")
    members = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    found = {key: _numbers(value, f"{what} {key!r}") for key, value in members.items()}
    if len({len(x) for x in found.values()}) > 1:
        sizes = listed(f"{key}: {len(x)}" for key, x in found.items())
        raise ConfigurationError(
            f"{what} differ in their number of rows ({sizes}); give a row a sample in each"
        )
    return found if named else tuple(found.values())


def _numbers(given: Any, what: str) -> Tensor:
    if isinstance(given, Tensor) and (given.layout != torch.strided or given.is_nested):
        raise ConfigurationError(f"{what} are a sparse or nested tensor; give a dense one, padded if need be")
    array = array_of(given)
    if names := names_in(array):
        columns = [f"column {name!r}" for name in _named_columns(given)]
        where = f" (in {listed(columns, 3)})" if columns else ""
        raise ConfigurationError(
            f"{what} hold text such as {names[0]!r}{where}; encode it as numbers, one column a category, say"
        )
    array = from_objects(array, missing=None)
    if getattr(getattr(array, "dtype", None), "kind", "") == "O" and _named_columns(given):
        columns = [f"column {name!r}" for name in _named_columns(given)]
        raise ConfigurationError(
            f"{what} hold what is no number (in {listed(columns, 3)}); encode it as numbers"
        )
    x = tensor_of(array, what)
    if not x.ndim or not x.numel():
        raise ConfigurationError(f"{what} of shape {tuple(x.shape)} are empty; give a row a sample")
    if not x.is_floating_point():
        return x if x.dtype in (torch.bool, torch.uint8) else x.long()
    x = x.to(torch.get_default_dtype())
    if not all_finite(x):
        bad = int((~x.reshape(len(x), -1).isfinite()).any(1).sum())
        raise ConfigurationError(
            f"{what}: {bad} of {len(x)} rows hold NaN or infinite numbers; leave them out, or fill them in"
        )
    return x


def _named_columns(frame: Any) -> list[str]:
    """Return the names of the columns of a data frame that are not numbers; nothing for anything else."""
    names = getattr(frame, "columns", None)
    if names is None:
        return []
    kinds = [getattr(array_of(frame[name]).dtype, "kind", "O") for name in names]
    return [str(name) for name, kind in zip(names, kinds, strict=True) if kind not in "biuf"]


def scale_of(inputs: Sequence[Any]) -> Scale:
    """Return mean and deviation of each column, over the rows of collections of one form together.

    Columns that never change are left in their place: their deviation is taken to be 1.
    """
    found: Scale = []
    for parts in zip(*(tensors_of(x) for x in inputs), strict=True):
        floats = parts[0].is_floating_point()
        found.append(mean_and_deviation(torch.cat(parts).double()) if floats else None)
    return found


def mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation over the rows of values (N, ...), NaN left out, in double precision."""
    mean = values.nanmean(0)
    deviation = (values - mean).square().nanmean(0).sqrt()
    tiny = deviation <= 1e-12 * mean.abs().clamp(min=1)  # the rounding of a column that never changes
    return mean, torch.where(tiny, torch.ones_like(deviation), deviation)


def scaled(inputs: Any, scale: Scale) -> Any:
    """Return inputs less the mean and divided by the deviation of their columns."""
    each = iter(scale)

    def scaled_one(x: Tensor) -> Tensor:
        found = next(each)
        return x if found is None else standardized(x, found)

    return mapped(inputs, scaled_one)


def standardized(values: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Return values less the mean and divided by the deviation, in their own type."""
    mean, deviation = scale
    return ((values.double() - mean) / deviation).to(values.dtype)
