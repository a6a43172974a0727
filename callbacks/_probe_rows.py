"""Rows of a task's probe that make a batch."""

import zlib

import torch
from torch import Tensor


def permuted_batches(total: int, size: int, *, seed: str) -> list[Tensor]:
    """Cut a random order of ``total`` examples into whole batches; one of all if there are fewer than that.

    Data may lie sorted by class, and batches are to be draws from all of them.

    Args:
        total: Number of examples.
        size: Examples in a batch.
        seed: A text that determines the order, on every process and machine.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(zlib.crc32(seed.encode())))
    return [order[start : start + size] for start in range(0, max(total - size, 0) + 1, size)]
