"""The examples of each task, as callbacks want them: in a fixed order, with targets, not augmented."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.modules.loss import _Loss
from torch.utils.data import DataLoader, Dataset

from lit_aux.callbacks._no_trace import fixed_rng
from lit_aux.callbacks._options import asked
from lit_aux.errors import ConfigurationError
from lit_aux.functional._labels import known_labels
from lit_aux.trees import concatenated, form_of

Pair = tuple[Any, Any]
Splits = Mapping[str, Mapping[str, Any]]
TaskData = Splits | Callable[[Trainer], Splits] | None
"""Where examples come from. ``{split: {task: (x, y)}}``, with a data set, or an iterable of such batches (a
loader), in place of a pair; a function of the Trainer that returns this; or None for the data module's own
``task_batches(split, task)``."""

WHAT = "{split: {task: (x, y)}} or function of the Trainer that returns it"
_BATCH = 256
_HINT = "give data={'train': {task: (x, y), ...}, ...}, or the data module a task_batches(split, task)"


def _splits(trainer: Trainer, data: TaskData) -> Splits | None:
    """Return what was given, or what a function gives.

    Raises:
        ConfigurationError: If that is no mapping of splits.
    """
    found = asked("data", data, trainer) if callable(data) else data
    if found is not None and not isinstance(found, Mapping):
        raise ConfigurationError(f"data: {found!r} is no {WHAT}")
    return found


def phase_tasks(trainer: Trainer, module: LightningModule, data: TaskData, user: str) -> list[str]:
    """Return the tasks that are trained: those of the module's phase, else those that ``data`` names.

    Raises:
        ConfigurationError: If neither is known.
    """
    phase = getattr(module, "phase", None)
    if phase is not None:
        return list(phase.tasks)
    splits = _splits(trainer, data)
    if splits is not None:
        return list(splits.get("train", {}))
    named = getattr(module, "tasks", None) or getattr(trainer.datamodule, "tasks", None)  # type: ignore[attr-defined]
    if not named:
        raise ConfigurationError(f"{user}: data: the tasks are not known; {_HINT}")
    return list(named)


def task_batches(trainer: Trainer, data: TaskData, split: str, task: str, user: str) -> Iterator[Pair]:
    """Yield batches ``(x, y)`` of one task in a fixed order; nothing where the split has none of it.

    To be consumed under a random state of its own, such as that of :func:`undisturbed`.

    Args:
        trainer: The Trainer, inside a fit.
        data: Where they come from.
        split: ``"train"``, ``"val"`` or ``"test"``.
        task: The task's name.
        user: Who asks, for the error.

    Raises:
        ConfigurationError: If nobody knows the task's examples.
    """
    splits = _splits(trainer, data)
    if splits is None:
        own = getattr(trainer.datamodule, "task_batches", None)  # type: ignore[attr-defined]
        if own is None:
            raise ConfigurationError(f"{user}: data: there are no examples by task; {_HINT}")
        batches: Iterable[Any] = own(split, task)
    else:
        found = splits.get(split, {}).get(task, [])
        batches = _batches(found)
    for x, y in batches:
        if len(y):
            yield x, y


def _batches(found: Any) -> Iterable[Any]:
    """Return what a user gave for one task as batches."""
    if isinstance(found, Dataset):
        return DataLoader(found, batch_size=_BATCH)
    # A pair, also as a list; a list of two batches holds pairs.
    is_pair = isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Tensor)
    return [found] if is_pair or isinstance(found, tuple) else found


def task_probe(trainer: Trainer, data: TaskData, tasks: list[str], n: int, user: str) -> dict[str, Any]:
    """Return the first ``n`` training examples of each task as one batch ``(x, y)`` in CPU memory.

    Examples without a target are passed over. The others depend on the data alone: single- and multi-task
    runs, and all processes, get the same ones.

    Raises:
        ConfigurationError: If a task has no training example.
    """
    with fixed_rng():
        return {task: _first(trainer, data, task, n, user) for task in tasks}


def _first(trainer: Trainer, data: TaskData, task: str, n: int, user: str) -> Pair:
    pieces: list[Pair] = []
    count = 0
    module = trainer.lightning_module
    for batch in task_batches(trainer, data, "train", task, user):
        x, y = labelled_rows(module, task, batch)
        if not len(y):
            continue
        size = min(extract_batch_size(y), n - count)
        pieces.append(_cpu((x, y), slice(0, size)))
        count += size
        if count >= n:
            break
    if not pieces:
        raise ConfigurationError(f"{user}: task {task!r} has no training examples with a target")
    if len(pieces) == 1:
        return pieces[0]
    first, *_ = pieces
    if len({form_of(piece) for piece in pieces}) > 1:
        raise ConfigurationError(
            f"{user}: data: batches of inputs of type {type(first[0]).__name__} cannot be joined; give "
            "tensors, or dicts or tuples of tensors, of one shape and type"
        )
    return tuple(concatenated(pieces))


def _cpu(batch: Any, rows: slice) -> Any:
    return apply_to_collection(batch, Tensor, lambda tensor: tensor[rows].detach().cpu().clone())


def seeded(text: str) -> torch.Generator:
    """Return a generator whose draws a text determines, on every process and machine."""
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def permuted_batches(total: int, size: int, *, seed: str) -> list[Tensor]:
    """Cut a random order of ``total`` examples into whole batches; one of all if there are fewer than that.

    Data may lie sorted by class, and batches are to be draws from all of them.

    Args:
        total: Number of examples.
        size: Examples in a batch.
        seed: A text that determines the order, on every process and machine.
    """
    order = torch.randperm(total, generator=seeded(seed))
    return [order[start : start + size] for start in range(0, max(total - size, 0) + 1, size)]


def labels_in(module: LightningModule | None, y: Tensor, task: str | None = None) -> Tensor:
    """Return which targets are there, bool in the shape of ``y``.

    The module's ``task_labels(task, y)`` says it; else NaN is missing, and so are the class numbers -100 and
    the ``ignore_index`` of the module's losses.

    Args:
        module: The module of a fit.
        y: Targets.
        task: The task whose they are, where it is known.
    """
    own = getattr(module, "task_labels", None)
    if task is not None and callable(own):
        known: Tensor = own(task, y)
        return known
    known = known_labels(y)
    if not y.is_floating_point() and module is not None:
        losses = [part for part in module.modules() if isinstance(part, _Loss)]
        for number in {getattr(loss, "ignore_index", None) for loss in losses} - {None}:
            known = known & (y != number)
    return known


def labelled_rows(module: LightningModule | None, task: str, batch: Pair) -> Pair:
    """Return the examples ``(x, y)`` of a batch of one task that have a target."""
    y = batch[1]
    if not isinstance(y, Tensor) or not y.ndim:
        return batch
    rows = labels_in(module, y, task).reshape(len(y), -1).any(1)
    if bool(rows.all()):
        return batch
    x, y = apply_to_collection(batch, Tensor, lambda tensor: tensor[rows.to(tensor.device)])
    return x, y
