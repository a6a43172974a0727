"""Samples per second of the in-memory loader against a DataLoader over a TensorDataset."""

import time
from collections.abc import Iterable
from statistics import median

import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_aux.data.loader import InMemoryLoader
from lit_aux.data.transforms import BatchTransform


def _rate(loader: Iterable[object], samples: int) -> float:
    start = time.perf_counter()
    for _ in loader:
        pass
    return samples / (time.perf_counter() - start)


def benchmark_loader(
    samples: int = 12_800, repetitions: int = 15, threads: int = 2
) -> list[tuple[str, float, str]]:
    """Return (what, value, target) rows; both loaders give the same float32 batches of 128 x 3 x 32 x 32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (samples,))
        transform = BatchTransform(0.5, 0.5)
        ours = InMemoryLoader(images, labels, transform, batch_size=128, training=True)
        theirs = DataLoader(TensorDataset(transform(images), labels), batch_size=128, shuffle=True)
        rates = [(_rate(ours, samples), _rate(theirs, samples)) for _ in range(repetitions)]
    finally:
        torch.set_num_threads(before)
    mine, other = (median(column) for column in zip(*rates, strict=True))
    return [
        ("in-memory loader, samples/s", mine, ""),
        ("DataLoader(TensorDataset, shuffle=True), samples/s", other, ""),
        ("ratio", median(a / b for a, b in rates), ">= 5"),
    ]


if __name__ == "__main__":
    for row in benchmark_loader():
        print(*row, sep="\t")
