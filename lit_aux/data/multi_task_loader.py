"""One loader over several tasks."""

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_aux.data.loader import ResumableLoader, TaskLoader, derive_seed
from lit_aux.errors import ConfigurationError, check_known

TaskBatch = dict[str, tuple[Any, Tensor]]
Order = Literal["interleaved", "sequential"]
ORDERS = ("interleaved", "sequential")


def phase_tasks(tasks: Sequence[str] | None, known: Collection[str], order: str) -> list[str]:
    """Return the tasks that a phase or a loader holds, all that are known for None.

    Raises:
        ConfigurationError: For no task, an unknown task or an unknown order.
    """
    names = list(known if tasks is None else tasks)
    for name in names:
        check_known("tasks", name, known)
    if not names:
        raise ConfigurationError("tasks []: give at least one task")
    check_known("order", order, ORDERS)
    return names


class MultiTaskLoader(ResumableLoader[TaskBatch]):
    """Batches ``{task: (x, y)}``, holding only the tasks of the step.

    Orders of training batches:

    * ``interleaved``: every step holds one batch of every task; the epoch is as long as the longest task, and
      shorter tasks cycle through their samples, in a new order in every cycle.
    * ``sequential``: one task a step; all batches of the first task, then all of the second, and so on.

    In evaluation no task cycles: a step holds a batch of each task that still has one. A process without a
    single sample gets one empty batch, ``{}``, so that it enters the evaluation loop, and its collective
    calls, as the other processes do.

    Args:
        tasks: The loader of each task, all of them for training or all for evaluation.
        order: ``interleaved`` or ``sequential``; evaluation ignores it.
        first_epoch: The number of the epoch that counts as the first: with it, the order of batches in a
            later phase does not depend on how long the earlier ones took.
        num_workers: Processes that fetch batches ahead; for images that are read from files.
        pin_memory: Whether batches of workers go to page-locked memory, for a faster way to a GPU.

    Raises:
        ConfigurationError: For an unknown order or no tasks.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskLoader],
        order: Order = "interleaved",
        *,
        first_epoch: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.tasks = {name: tasks[name] for name in phase_tasks(None, tasks, order)}
        self.training = all(task.order.training for task in self.tasks.values())
        self.order: Order = order if self.training else "interleaved"
        self.first_epoch = first_epoch
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._start_workers()

    def _start_workers(self) -> None:
        """Have batches fetched by other processes, if that is wanted."""
        self._requests: _Requests | None = None
        if self.num_workers == 0:
            return
        self._requests = _Requests(self)
        self._workers: DataLoader[Any] = DataLoader(
            _Steps(self.tasks),
            sampler=self._requests,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            persistent_workers=True,
            # without an own generator each pass would advance the global one, even in evaluation
            generator=torch.Generator(),
        )

    @property
    def _iterator(self) -> Any:
        """What Lightning looks for at the end of a loop, to end its workers and to set it to None."""
        return None if self._requests is None else self._workers._iterator

    @_iterator.setter
    def _iterator(self, none: None) -> None:
        if self._requests is not None:
            self._workers._iterator = none

    def __copy__(self) -> Self:
        """Return a loader over the same data, at the same place, whose passes leave this one's alone."""
        clone = type(self).__new__(type(self))
        vars(clone).update(vars(self))
        clone._start_workers()
        return clone

    def undivided(self) -> Self:
        """Return a loader of what all processes have together, in the order in which one would serve it."""
        clone = copy(self)
        clone.tasks = {name: copy(task) for name, task in self.tasks.items()}
        for task in clone.tasks.values():
            task.order = task.order.undivided()
        clone._start_workers()
        return clone

    def __len__(self) -> int:
        lengths = [len(task) for task in self.tasks.values()]
        return sum(lengths) if self.order == "sequential" else max(1, *lengths)

    def plan(self, step: int) -> dict[str, int]:
        """Return which batch of which task a step holds, counted on through the cycles."""
        if self.order == "sequential":
            for name, task in self.tasks.items():
                if step < len(task):
                    return {name: step}
                step -= len(task)
            raise IndexError("step beyond the end of the epoch")
        return {name: step for name, task in self.tasks.items() if self.training or step < len(task)}

    def indices(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the sample indices of each task in a step."""
        epoch = max(0, epoch - self.first_epoch)
        return {name: self.tasks[name].order.batch(epoch, number) for name, number in self.plan(step).items()}

    def _batches(self, epoch: int, start: int) -> Iterator[TaskBatch]:
        if self._requests is None:
            for step in range(start, len(self)):
                yield {name: self.tasks[name].fetch(rows) for name, rows in self.indices(epoch, step).items()}
            return
        self._requests.epoch, self._requests.start = epoch, start
        for batch in self._workers:
            if isinstance(batch, _Failure):
                raise ConfigurationError(batch.message)
            yield batch


@dataclass
class _Failure:
    """An error on its way out of a worker; torch would wrap it in that worker's traceback."""

    message: str


@dataclass
class _Request:
    """What a worker is to fetch, and the seed of the random numbers it may draw for it."""

    indices: dict[str, Tensor]
    seed: int


class _Requests:
    """The steps of an epoch, as the sampler of a ``DataLoader``."""

    def __init__(self, loader: MultiTaskLoader) -> None:
        # in a circle of references, workers would not be told of the end and be waited for, five seconds each
        self.loader: MultiTaskLoader = weakref.proxy(loader)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.loader) - self.start

    def __iter__(self) -> Iterator[_Request]:
        some = next(iter(self.loader.tasks.values())).order
        for step in range(self.start, len(self.loader)):
            seed = derive_seed(some.seed, some.rank, self.epoch - self.loader.first_epoch, step)
            yield _Request(self.loader.indices(self.epoch, step), seed)


class _Steps(Dataset[Any]):
    """Fetches a step in a worker."""

    def __init__(self, tasks: dict[str, TaskLoader]) -> None:
        self.tasks = tasks

    def __getitem__(self, request: _Request) -> TaskBatch | _Failure:
        # a worker's random state is its own: with this the augmentation depends on the step alone
        torch.manual_seed(request.seed)
        try:
            return {name: self.tasks[name].fetch(index) for name, index in request.indices.items()}
        except ConfigurationError as error:
            return _Failure(str(error))


def _as_it_is(batch: Any) -> Any:
    return batch
