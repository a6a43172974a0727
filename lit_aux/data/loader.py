"""The loader of one task whose images are in memory."""

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lit_aux.data.order import BatchOrder
from lit_aux.data.resumable import ResumableLoader

Transform = Callable[[Tensor], Tensor]


class TaskLoader(ResumableLoader[tuple[Tensor, Tensor]]):
    """Batches ``(x, y)`` of one task; where the images come from is up to subclasses.

    Args:
        labels: int64 labels, local to the task.
        batch_size: Samples per batch and process.
        training: Shuffle, pad over processes and merge a last batch of one (see ``BatchOrder``); otherwise
            every sample comes exactly once over all processes, in the order given.
        shuffle: Overrides whether to shuffle; by default as ``training`` says.
        seed: Determines the order, together with the epoch.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        batch_size: int,
        training: bool,
        shuffle: bool | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.order = BatchOrder(
            len(labels),
            batch_size,
            training=training,
            shuffle=training if shuffle is None else shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=labels.device,
        )

    @abstractmethod
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""

    def __len__(self) -> int:
        return len(self.order)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(start, len(self)):
            yield self.fetch(self.order.batch(epoch, number))


class InMemoryLoader(TaskLoader):
    """Batches as index look-ups in one tensor: no workers, no per-sample work.

    Args:
        images: uint8 (N, C, H, W) on any device; batches are made on that device.
        labels: int64 (N,), on the same device.
        transform: From a uint8 batch to what the network takes; by default a cast to float32.
        batch_size: Samples per batch and process.
        training: See :class:`TaskLoader`.
        shuffle: See :class:`TaskLoader`.
        seed: See :class:`TaskLoader`.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        transform: Transform | None = None,
        *,
        batch_size: int,
        training: bool,
        shuffle: bool | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            labels,
            batch_size=batch_size,
            training=training,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.images = images
        self.transform = transform if transform is not None else torch.Tensor.float

    @torch.no_grad()
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""
        return self.transform(self.images.index_select(0, indices)), self.labels.index_select(0, indices)
