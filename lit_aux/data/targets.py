"""Targets of a user's own: what task they are of, and their form for it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.data.numbers import array_of, from_objects, is_missing, names_in, numbered, tensor_of
from lit_aux.errors import ConfigurationError, listed
from lit_aux.finite import all_finite
from lit_aux.functional._labels import MISSING, known_labels
from lit_aux.tasks import Task

_MANY = 20
_ROWS_A_CLASS = 5


@dataclass
class Given:
    """Targets as tensors.

    Attributes:
        y: Whole numbers, truth values or floats, with a row a sample.
        names: The names of classes, in the order of their numbers; None where there were numbers.
        what: What they are, for errors.
    """

    y: Tensor
    names: list[str] | None
    what: str


def given_targets(given: Any, what: str, names: list[str] | None = None) -> Given:
    """Bring targets to a tensor; names of classes are numbered in the order of the alphabet.

    Args:
        given: An array, a series or data frame, or a list.
        what: What they are, for errors.
        names: The names of classes that are known already.

    Raises:
        ConfigurationError: For what is neither numbers nor names, for no row at all, and names that are not
            known.
    """
    array = array_of(given)
    found = names_in(array)
    if found is not None:
        known = found if names is None else names
        if new := [name for name in found if name not in known]:
            raise ConfigurationError(f"{what}: {new[0]!r} is none of the training labels, {listed(known)}")
        array, names = numbered(array, known), known
    else:
        mixed = getattr(getattr(array, "dtype", None), "kind", "") == "O"
        array, names = _as_whole(given, from_objects(array, missing=MISSING)), None
        if mixed and any(isinstance(value, str) for value in array.ravel().tolist() if not is_missing(value)):
            raise ConfigurationError(f"{what} hold names and numbers; give names alone, or numbers alone")
    y = tensor_of(array, what)
    if not y.ndim or not y.numel():
        raise ConfigurationError(f"{what} of shape {tuple(y.shape)} are empty; give a row a sample")
    return Given(y, names, what)


def _as_whole(given: Any, array: Any) -> Any:
    """Return floats as the whole numbers that a series with gaps says it holds: pandas' Int64, say."""
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    if isinstance(given, np.ndarray) or kind not in ("i", "u", "b") or array.dtype.kind != "f":
        return array
    return np.where(np.isnan(array), MISSING, array).astype(np.int64)


def known_targets(y: Tensor, task: Task) -> Tensor:
    """Return which targets of a task are there, bool in their shape."""
    known = known_labels(task.without_ignored(y))
    return torch.ones_like(known) if task.kind == "regression" and not y.is_floating_point() else known


def task_of(given: Given, outputs: int | None = None) -> Task:
    """Tell what a task is by its targets.

    ============================================  ==================================
    targets                                       task
    ============================================  ==================================
    whole numbers, truth values, names (N,)       classification
    floats (N,), (N, C)                           regression
    truth values, or zeros and ones, (N, C)       multilabel
    ============================================  ==================================

    Args:
        given: The targets.
        outputs: The number of outputs, where it is known.

    Raises:
        ConfigurationError: Where they may mean several things, naming what would say it.
    """
    y = given.y.squeeze(1) if given.y.ndim == 2 and given.y.shape[1] == 1 else given.y
    known = y[known_labels(y)]
    if not len(known):
        raise ConfigurationError(
            f"{given.what}: all are missing; give some, or say what the task is by tasks="
        )
    if y.ndim == 1:
        task = _of_column(given, y, known, outputs)
    elif y.ndim == 2:
        task = _of_columns(given, y, known)
    else:
        kind = "dense" if y.ndim == 3 and not y.is_floating_point() else ""
        most = int(known.max()) + 1 if kind else "C"
        remedy = f"Task({most}, kind='dense')" if kind else "Task(C, kind=..., loss=...)"
        raise ConfigurationError(
            f"{given.what} of shape {tuple(y.shape)} may be of several kinds; say which by tasks="
            f"{{...: {remedy}}}"
        )
    if outputs is not None and (
        task.outputs > outputs or (task.kind != "classification" and task.outputs != outputs)
    ):
        raise ConfigurationError(
            f"{given.what} are a {task.kind} of {task.outputs} outputs, and tasks= says {outputs}"
        )
    return task


def _of_column(given: Given, y: Tensor, known: Tensor, outputs: int | None) -> Task:
    """Return the task of targets (N,)."""
    if given.names is not None:
        if outputs is None and len(given.names) < 2:
            raise ConfigurationError(
                f"{given.what} are all {given.names[0]!r}; a classification needs two classes"
            )
        return Task(max(outputs or 0, len(given.names)))
    if y.dtype == torch.bool:
        return Task(max(outputs or 0, 2))
    if y.is_floating_point():
        return _of_floats(given, known, outputs)
    low, high = int(known.min()), int(known.max())
    if outputs == 1:
        raise ConfigurationError(
            f"{given.what} are whole numbers, and one output is no classification; give "
            "Task(1, kind='regression'), or floats"
        )
    if low < 0 or (low == 1 and (outputs is None or high == outputs)):
        remedy = "subtract 1" if low == 1 else f"number classes from 0, {MISSING} stands for no label"
        raise ConfigurationError(f"{given.what} are whole numbers from {low} to {high}; {remedy}")
    if outputs is None and high == 0:
        raise ConfigurationError(f"{given.what} are all 0; a classification needs two classes")
    if outputs is None and high >= _MANY and len(known) < _ROWS_A_CLASS * (high + 1):
        raise ConfigurationError(
            f"{given.what} are whole numbers from {low} to {high} over {len(known)} rows, and may be classes "
            f"or values; say which: tasks={{...: Task({high + 1})}}, or Task(1, kind='regression')"
        )
    return Task(max(outputs or 0, high + 1))


def _of_floats(given: Given, known: Tensor, outputs: int | None) -> Task:
    """Return the task of floats (N,): values, or numbers of classes some of which are missing."""
    whole = bool((known == known.round()).all())
    high = int(known.max()) if whole else 0
    if outputs is not None and outputs > 1 and whole and bool((known >= 0).all()):
        return Task(max(outputs, high + 1))
    numbered_from_0 = whole and high < _MANY and torch.unique(known).tolist() == [*range(high + 1)]
    if outputs is None and numbered_from_0:
        raise ConfigurationError(
            f"{given.what} are floats, and all whole numbers from 0 to {high}; say what they are: "
            f"tasks={{...: Task({max(2, high + 1)})}} for classes, or Task(1, kind='regression')"
        )
    return Task(1, kind="regression")


def _of_columns(given: Given, y: Tensor, known: Tensor) -> Task:
    """Return the task of targets (N, C)."""
    count = y.shape[1]
    binary = bool(((known == 0) | (known == 1)).all())
    one_hot = binary and bool(known_labels(y).all()) and bool((y.double().sum(1) == 1).all())
    shares = y.is_floating_point() and bool((known >= 0).all()) and bool(known_labels(y).all())
    shares = shares and bool(((y.double().sum(1) - 1).abs() < 1e-4).all())
    if one_hot or shares:
        what, remedy = ("one-hot rows", ", or numbers of classes by argmax(1)") if one_hot else ("shares", "")
        second = "multilabel" if one_hot else "regression"
        raise ConfigurationError(
            f"{given.what} of shape {tuple(y.shape)} are {what}; say what is meant: tasks={{...: "
            f"Task({count})}}{remedy}, or Task({count}, kind={second!r})"
        )
    if binary and not y.is_floating_point():
        return Task(count, kind="multilabel")
    if binary:
        raise ConfigurationError(
            f"{given.what} are floats, and all 0 or 1; say what they are: tasks={{...: Task({count}, "
            f"kind='multilabel')}}, or Task({count}, kind='regression')"
        )
    if y.is_floating_point():
        return Task(count, kind="regression")
    raise ConfigurationError(
        f"{given.what} are whole numbers of shape {tuple(y.shape)}, and may be tokens or values; say which: "
        f"tasks={{...: Task({int(known.max()) + 1}, kind='tokens')}}, or Task({count}, kind='regression')"
    )


def targets_for(task: Task, given: Given) -> Tensor:
    """Bring targets to the form that the loss of a task's kind takes; those of a loss of its own stay.

    Returns:
        Whole numbers, -100 where one is missing, for classes; else floats, NaN where one is missing.

    Raises:
        ConfigurationError: If they do not fit.
    """
    y, floats = given.y, torch.get_default_dtype()
    if task.loss is not None:
        y = task.without_ignored(y.to(floats) if y.is_floating_point() else y)
        return y.long() if y.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) else y
    if task.kind in ("regression", "multilabel"):
        return _values(task, given).to(floats)
    rank = {"classification": 1, "tokens": 2, "dense": 3}[task.kind]
    if task.kind == "classification" and y.ndim == 2 and y.shape[1] == task.outputs and task.outputs > 1:
        return _distributions(task, given)
    y = y.squeeze(1) if y.ndim == rank + 1 and y.shape[1] == 1 else y
    if y.ndim != rank:
        form = {1: "(N,)", 2: "(N, T)", 3: "(N, H, W)"}[rank]
        raise _misfit(task, given, f"takes numbers of classes {form}, and they have shape {tuple(y.shape)}")
    if y.is_floating_point():
        odd = y[~y.isnan() & (y != y.round())]
        if len(odd):
            raise _misfit(task, given, f"takes whole numbers, and {float(odd[0]):g} is among them")
        y = torch.where(y.isnan(), torch.full_like(y, MISSING), y)
    y = task.without_ignored(y.long())
    known = y[y != MISSING]
    if len(known) and (int(known.min()) < 0 or int(known.max()) >= task.outputs):
        low, high = int(known.min()), int(known.max())
        remedy = "subtract 1" if low == 1 and high == task.outputs else f"{MISSING} stands for no label"
        raise _misfit(
            task, given, f"takes classes 0 to {task.outputs - 1}, and they go from {low} to {high}; {remedy}"
        )
    return y


def _values(task: Task, given: Given) -> Tensor:
    """Return values, or yes and no, as floats."""
    y = task.without_ignored(given.y)
    rows = y.reshape(len(y), -1)
    if given.names is not None or y.ndim > 2 or rows.shape[1] != task.outputs:
        found = "names" if given.names is not None else f"of shape {tuple(y.shape)}"
        raise _misfit(task, given, f"takes {task.outputs} numbers a row, and they are {found}")
    if not y.is_floating_point() and y.dtype != torch.bool and bool((y == MISSING).any()):
        if task.kind == "regression":
            raise _misfit(task, given, f"takes {MISSING} for a value; give floats, NaN where one is missing")
        y = torch.where(y == MISSING, torch.nan, y.double())
    known = y[known_labels(y)]
    if task.kind == "multilabel":
        known = known[known != MISSING]
        y = torch.where(y == MISSING, torch.nan, y) if y.is_floating_point() else y
    if not all_finite(known):
        raise _misfit(task, given, "takes finite numbers; NaN stands for a missing one")
    if task.kind == "multilabel" and not bool(((known >= 0) & (known <= 1)).all()):
        raise _misfit(task, given, f"takes 0 to 1, and they go from {known.min():g} to {known.max():g}")
    return y


def _distributions(task: Task, given: Given) -> Tensor:
    """Return shares of classes (N, C): of one-hot rows the classes (N,)."""
    y = given.y
    sums = y.double().sum(1)
    if not bool(((sums - 1).abs() < 1e-2).all()) or not bool((y >= 0).all()):
        raise _misfit(
            task,
            given,
            f"takes numbers of classes (N,), and they have shape {tuple(y.shape)}; where a row has several "
            f"classes give Task({task.outputs}, kind='multilabel')",
        )
    one = bool(((y == 0) | (y == 1)).all())
    return y.long().argmax(1) if one else y.to(torch.get_default_dtype())


def _misfit(task: Task, given: Given, why: str) -> ConfigurationError:
    return ConfigurationError(f"{given.what}: kind {task.kind!r} {why}")
