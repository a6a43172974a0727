"""Images and labels as their owners have them, checked once and brought to what the loaders expect."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.data.files import ImageFiles
from lit_aux.data.numbers import tensor_of
from lit_aux.data.samples import Images
from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional._labels import MISSING


def checked(load: Callable[[], Any], class_names: Sequence[str]) -> tuple[Images, Tensor]:
    """Bring images and labels of any usual kind to uint8 (N, C, H, W) and int64 (N,).

    Images are tensors, numpy arrays or lists of either: (N, C, H, W); (N, H, W), which is gray; or (N, H, W,
    C) where the second dimension cannot be that of channels. Whole numbers are pixels from 0 to 255, bool
    and floats go from 0 to 1 and are multiplied by 255. Labels are the numbers or names of classes, or one
    row of zeros and a one for each image. Images without a label (-100, NaN, None) are left out, and their
    number is said.

    Args:
        load: A data module's method that returns images and labels.
        class_names: The name of every class, by number.

    Raises:
        ConfigurationError: For what could mean several things, or nothing.
    """
    source = f"{type(getattr(load, '__self__', None)).__name__}.{getattr(load, '__name__', 'load')}"
    given, marks = pair_of(load(), source, "image")
    images = given if isinstance(given, ImageFiles) else _pixels(given, source)
    labels, kept = checked_labels(marks, len(images), class_names, source, "image")
    if kept is None:
        return images, labels
    return images.select(kept) if isinstance(images, ImageFiles) else images[kept], labels


def pair_of(data: Any, source: str, item: str) -> tuple[Any, Any]:
    """Return what a method returned as the items and their labels, neither checked yet.

    Raises:
        ConfigurationError: If it is no pair.
    """
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise ConfigurationError(f"{source}: {type(data).__name__}; return a pair of {item}s and labels")
    return data[0], data[1]


def checked_labels(
    given: Any, count: int, class_names: Sequence[str], source: str, item: str
) -> tuple[Tensor, Tensor | None]:
    """Bring the labels of items to int64 (N,); those of items without a label are left out, which is said.

    Args:
        given: Numbers or names of classes, or one row of zeros and a one for each item.
        count: Of the items.
        class_names: The name of every class, by number.
        source: What returned them, for messages.
        item: What one of them is, ``image`` say, for messages.

    Returns:
        The labels, and the numbers of the items that have them, None for all.

    Raises:
        ConfigurationError: For labels that are none, or not one for each item.
    """
    labels = _labels(given, class_names, source, item)
    if count != len(labels):
        raise ConfigurationError(
            f"{source}: {count} {item}s and {len(labels)} labels; return one label for each {item}, "
            f"{MISSING} where there is none"
        )
    known = labels != MISSING
    if bool(known.all()) and len(labels):
        return labels, None
    if not bool(known.any()):
        raise ConfigurationError(f"{source}: no {item} with a label; return at least one for each class")
    rank_zero_warn(f"{source}: {int((~known).sum())} of {len(labels)} {item}s have no label and are left out")
    return labels[known], known.nonzero().flatten()


# Images


def _pixels(given: Any, source: str) -> Tensor:
    images = tensor_of(given, f"{source}: images")
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4:
        raise ConfigurationError(
            f"{source}: images of shape {tuple(images.shape)}; return (N, C, H, W), or (N, H, W) in gray"
        )
    if not images.numel():
        raise ConfigurationError(f"{source}: images of shape {tuple(images.shape)} hold no pixel")
    return _to_bytes(images, source).contiguous()


def _to_bytes(images: Tensor, source: str) -> Tensor:
    """Return uint8 pixels; what they are is told by their type and range."""
    if images.dtype == torch.bool:
        return images.byte() * 255
    if not all_finite(images):
        bad = int((~images.flatten(1).isfinite().all(1)).sum())
        raise ConfigurationError(
            f"{source}: {bad} of {len(images)} images hold NaN or infinite pixels; leave them out"
        )
    low, high = float(images.min()), float(images.max())
    if images.is_floating_point() and low >= 0 and high <= 1:
        return images.float().mul(255).round_().byte()
    whole = not images.is_floating_point() or bool((images == images.round()).all())
    if whole and low >= 0 and high <= 255 and high != 1:
        return images.byte()
    kind, remedy = "whole numbers" if whole else "floats", "scale them"
    if whole and low >= 0 and high == 1:
        remedy = "multiply them by 255, or give bool or floats"
    elif low < 0:
        remedy = "undo their normalization, for which there are the options mean and std"
    raise ConfigurationError(
        f"{source}: images of {kind} from {low:g} to {high:g}; return uint8 from 0 to 255 or floats from 0 "
        f"to 1: {remedy}"
    )


# Labels


def _labels(given: Any, class_names: Sequence[str], source: str, item: str) -> Tensor:
    """Return int64 class numbers, -100 where there is none."""
    labels = tensor_of(_numbered(given, class_names, source, item), f"{source}: labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.flatten()
    if labels.ndim == 2:
        labels = _from_one_hot(labels, class_names, source, item)
    if labels.ndim != 1:
        raise ConfigurationError(f"{source}: labels of shape {tuple(labels.shape)}; return (N,)")
    if labels.is_floating_point():
        labels = torch.where(labels.isnan(), torch.full_like(labels, MISSING), labels)
        if len(odd := labels[labels != labels.round()]):
            raise ConfigurationError(f"{source}: labels such as {odd[0]:g}; return numbers of classes")
    labels = labels.long()
    found = labels[labels != MISSING]
    low, high = (int(found.min()), int(found.max())) if len(found) else (0, 0)
    count = len(class_names)
    if low < 0 or high >= count:
        an = f"an {item}" if item[0] in "aeiou" else f"a {item}"
        remedy = "subtract 1" if low == 1 and high == count else f"{an} without a label has {MISSING}"
        raise ConfigurationError(
            f"{source}: labels from {low} to {high}, but the {count} classes have the numbers 0 to "
            f"{count - 1}; {remedy}"
        )
    return labels


def _numbered(given: Any, class_names: Sequence[str], source: str, item: str) -> Any:
    """Replace names of classes by their numbers, and None by the number that stands for no label."""
    if isinstance(given, Tensor) or getattr(given, "dtype", np.dtype(object)).kind in "biuf":
        return given
    if not hasattr(given, "__iter__"):
        raise ConfigurationError(f"{source}: labels {given!r}; return one for each {item}")
    values = list(given)
    if not any(value is None or isinstance(value, str) for value in values):
        return values
    numbers: dict[Any, int] = {name: number for number, name in enumerate(class_names)} | {None: MISSING}
    unknown = next((v for v in values if not (v in numbers or isinstance(v, int | np.integer))), None)
    if unknown is not None:
        raise ConfigurationError(f"{source}: label {unknown!r} is none of the class_names")
    return [numbers.get(value, value) for value in values]


def _from_one_hot(labels: Tensor, class_names: Sequence[str], source: str, item: str) -> Tensor:
    one = ((labels == 0) | (labels == 1)).all(1) & (labels.sum(1) == 1)
    if labels.shape[1] != len(class_names) or not bool(one.all()):
        raise ConfigurationError(
            f"{source}: labels of shape {tuple(labels.shape)} for {len(class_names)} classes; return the "
            f"number of one class for each {item} (N,)"
        )
    return labels.long().argmax(1)
