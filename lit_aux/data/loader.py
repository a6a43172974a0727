"""Batches of one task: which samples each holds, and loaders whose position can be saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.cores import ShortWork, at_most
from lit_aux.errors import ConfigurationError
from lit_aux.functional._labels import MISSING
from lit_aux.trees import selected


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else (stable over processes and
    versions).

    Args:
        *parts: Numbers and strings, for instance a seed, a purpose and a task's name.
    """
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded with :func:`derive_seed` of ``parts``."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def draw_balanced(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw samples with replacement, such that every class is equally likely.

    A smaller draw is the beginning of a larger one from a generator in the same state.

    Args:
        classes: Class of every sample, int64 (N,); -100 for those that are not drawn.
        count: How many to draw.
        generator: Random numbers.

    Returns:
        Indices of samples, int64 (count,).
    """
    known = (classes != MISSING).nonzero().flatten()
    _, place, sizes = torch.unique(classes[known], return_inverse=True, return_counts=True)
    by_class, starts = known[place.argsort(stable=True)], sizes.cumsum(0) - sizes
    drawn = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    chosen = (drawn[:, 0] * len(sizes)).long()
    return by_class[starts[chosen] + (drawn[:, 1] * sizes[chosen]).long()]


class BatchOrder:
    """The batches of one task on one process.

    In training every process has the same number of samples: the permutation is wrapped around to a multiple
    of ``world_size``, and a last batch of a single sample joins the one before it (batch normalization cannot
    take one sample). In evaluation every sample belongs to exactly one process and nothing is repeated, so
    that processes may differ in their number of batches and may have none.

    Args:
        size: Number of samples of the task, over all processes.
        batch_size: Samples per batch and process; a smaller task makes a single batch.
        training: Whether to pad and merge as said above.
        shuffle: Whether to draw a new permutation for every epoch and cycle; by default as ``training`` says.
        seed: Determines the permutations, together with epoch and cycle.
        classes: Class of every sample, int64 (N,). With them an order is no permutation, but as many
            independent draws with replacement: a class, all alike likely, then one of its samples. Those
            without a class (-100) are never drawn.
        rank: This process.
        world_size: Number of processes.
        device: Where index tensors are needed.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        training: bool,
        shuffle: bool | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        classes: Tensor | None = None,
    ) -> None:
        self.size, self.batch_size = size, batch_size
        self.classes = None if classes is None else classes.cpu()
        self.training, self.seed = training, seed
        self.shuffle = training if shuffle is None else shuffle
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        count = -(-size // world_size) if training else len(range(rank, size, world_size))
        stops = [*range(batch_size, count, batch_size), count] if count else []
        if training and len(stops) > 1 and batch_size > 1 and stops[-1] - stops[-2] == 1:
            del stops[-2]
        self.bounds = list(zip([0, *stops[:-1]], stops, strict=True)) if stops else []
        self._cached: tuple[tuple[int, int], Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of batches of one pass over this process's share."""
        return len(self.bounds)

    def undivided(self) -> "BatchOrder":
        """Return the batches that one process would have in place of all."""
        return BatchOrder(
            self.size,
            self.batch_size * (self.world_size if self.training else 1),  # a step is of the joint batch
            training=self.training,
            shuffle=self.shuffle,
            seed=self.seed,
            device=self.device,
            classes=self.classes,
        )

    def share(self, epoch: int, cycle: int = 0) -> Tensor:
        """Return this process's sample indices (int64) in the order of ``epoch`` and ``cycle``."""
        key = (epoch, cycle) if self.shuffle else (0, 0)
        if self._cached is None or self._cached[0] != key:
            order = self._order(key)
            self._cached = (key, order[self.rank :: self.world_size].to(self.device))
        return self._cached[1]

    def _order(self, key: tuple[int, int]) -> Tensor:
        """Return the sample indices of all processes."""
        padded = -(-self.size // self.world_size) * self.world_size
        if self.classes is not None:
            return draw_balanced(self.classes, padded, generator_for(self.seed, "balanced", *key))
        order = torch.arange(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator_for(self.seed, *key))
        return order.repeat(-(-padded // self.size))[:padded] if self.training else order

    def batch(self, epoch: int, number: int) -> Tensor:
        """Return the sample indices of batch ``number``, counted on through the cycles of the epoch."""
        cycle, index = divmod(number, len(self))
        start, stop = self.bounds[index]
        return self.share(epoch, cycle)[start:stop]


Batch = TypeVar("Batch")


class ResumableLoader(ABC, Generic[Batch]):
    """An iterable over batches that knows its epoch and its position in it.

    Lightning leaves iterables that are no ``DataLoader`` as they are, calls
    ``loader.sampler.set_epoch(epoch)`` before each training epoch and keeps ``state_dict()`` in its
    checkpoints, so that a run goes on in the middle of an epoch with the very batches that were left.
    Lightning creates the iterator *before* it says which epoch it is: nothing here is looked up until the
    first batch is asked for.

    Outside of Lightning each pass is one epoch: iterating again moves on to the next one.
    """

    batch_sampler: None = None
    """Lightning looks for it wherever there is a ``sampler``."""

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0
        self._pending = True  # the next pass begins at (_epoch, _position) instead of at the next epoch

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches per epoch on this process."""

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""

    @property
    def sampler(self) -> Self:
        """The object whose ``set_epoch`` Lightning calls: the loader itself."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch of the present pass, or of the next one when none has begun."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; keeps a position that was just restored for that same epoch."""
        if epoch != self._epoch or not self._pending:
            self._epoch, self._position, self._pending = epoch, 0, True

    def __iter__(self) -> Iterator[Batch]:
        if not self._pending:
            self._epoch, self._position = self._epoch + 1, 0
        self._pending = False
        start = self._position
        for number, batch in enumerate(self._batches(self._epoch, start), start + 1):
            self._position = number
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, number of batches handed out in it, and number of batches per epoch."""
        return {"epoch": self._epoch, "position": self._position, "length": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ConfigurationError: If the state is of the middle of an epoch with another number of batches.
        """
        position, length = int(state["position"]), int(state["length"])
        if 0 < position < length and length != len(self):
            raise ConfigurationError(
                f"--ckpt_path: it was saved after batch {position} of {length}, but an epoch now has "
                f"{len(self)} batches; resume with the same data options, or from the end of an epoch"
            )
        self._epoch, self._position, self._pending = int(state["epoch"]), min(position, len(self)), True


Transform = Callable[[Any], Any]
_COPYING = ShortWork()


class TaskLoader(ResumableLoader[tuple[Any, Tensor]]):
    """Batches ``(x, y)`` of one task; where the inputs come from is up to subclasses.

    Args:
        labels: Targets with a row a sample: of images int64 (N,), local to the task.
        **order: ``batch_size``, ``training`` and the other options of :class:`BatchOrder`.

    Attributes:
        names: What each sample is called; None where it is called by its number here.
    """

    names: Sequence[str] | NDArray[np.int64] | None = None

    def __init__(self, labels: Tensor, **order: Any) -> None:
        super().__init__()
        self.labels = labels
        self.order = BatchOrder(len(labels), device=labels.device, **order)

    @abstractmethod
    def fetch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""

    def __len__(self) -> int:
        return len(self.order)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Any, Tensor]]:
        for number in range(start, len(self)):
            yield self.fetch(self.order.batch(epoch, number))


class InMemoryLoader(TaskLoader):
    """Batches as index look-ups in tensors: no workers, no per-sample work.

    Args:
        images: Images, uint8 (N, C, H, W), or any collection of tensors with a row a sample; on any device,
            where batches are made.
        labels: Targets with a row a sample, on the same device.
        transform: From a batch of inputs as they are held to what the network takes; by default a tensor is
            cast to float32, a collection stays as it is.
        **order: ``batch_size``, ``training``, ``shuffle``, ``seed``, ``rank``, ``world_size``. Training pads
            over processes and merges a last batch of one; else every sample comes once over all processes, in
            the order given unless ``shuffle`` is true.
    """

    def __init__(self, images: Any, labels: Tensor, transform: Transform | None = None, **order: Any) -> None:
        super().__init__(labels, **order)
        self.images = images
        given = torch.Tensor.float if isinstance(images, Tensor) else unchanged
        self.transform = given if transform is None else transform

    @torch.no_grad()
    def fetch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""
        with at_most(_COPYING.threads()):
            return self.transform(selected(self.images, indices)), self.labels.index_select(0, indices)


def unchanged(x: Any) -> Any:
    """Return a batch of inputs as it is held."""
    return x


class BlockLoader(ResumableLoader[int]):
    """Hands out the numbers of the blocks of an epoch; what a block trains on stays with the data module.

    A network whose whole training set is one tensor takes many steps on it at a time: such a block of steps
    is one batch to Lightning. Its place within an epoch is saved and restored like that of other loaders.

    Args:
        blocks: Blocks per epoch.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def __len__(self) -> int:
        return self.blocks

    def _batches(self, epoch: int, start: int) -> Iterator[int]:
        yield from range(start, self.blocks)
