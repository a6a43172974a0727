"""Which samples a batch holds, as a pure function of seed, epoch and batch number."""

from hashlib import blake2b

import torch
from torch import Tensor


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
        shuffle: Whether to draw a new permutation for every epoch and cycle.
        seed: Determines the permutations, together with epoch and cycle.
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
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size, self.batch_size = size, batch_size
        self.training, self.shuffle, self.seed = training, shuffle, seed
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
        )

    def share(self, epoch: int, cycle: int = 0) -> Tensor:
        """Return this process's sample indices (int64) in the order of ``epoch`` and ``cycle``."""
        key = (epoch, cycle) if self.shuffle else (0, 0)
        if self._cached is None or self._cached[0] != key:
            if self.shuffle:
                order = torch.randperm(self.size, generator=generator_for(self.seed, *key))
            else:
                order = torch.arange(self.size)
            if self.training:
                padded = -(-self.size // self.world_size) * self.world_size
                order = order.repeat(-(-padded // self.size))[:padded]
            self._cached = (key, order[self.rank :: self.world_size].to(self.device))
        return self._cached[1]

    def batch(self, epoch: int, number: int) -> Tensor:
        """Return the sample indices of batch ``number``, counted on through the cycles of the epoch."""
        cycle, index = divmod(number, len(self))
        start, stop = self.bounds[index]
        return self.share(epoch, cycle)[start:stop]
