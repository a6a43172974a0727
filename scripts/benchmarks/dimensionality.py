"""Time and memory of the dimensionality measures on the seven layers of a ResNet-18 at 32 x 32 pixels.

Run ``python scripts/benchmarks/dimensionality.py``. The comparison is the textbook way, D x D second moments
of both networks followed by traces, with the matrices computed once and shared by the three measures. All
times are processor seconds of one thread, medians of interleaved repetitions.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SAMPLES = 1000
# The ImageNet stem after its pooling, the four stages, the pooled features and the logits.
SHAPES = {
    "stem": (64, 8, 8),
    "layer1": (64, 8, 8),
    "layer2": (128, 4, 4),
    "layer3": (256, 2, 2),
    "layer4": (512, 1, 1),
    "pooled": (512,),
    "logits": (100,),
}

Row = tuple[str, float, str]


def layer_pair(name: str) -> tuple[Tensor, Tensor]:
    """Return float32 activations of a layer before and after, flattened."""
    generator = torch.Generator().manual_seed(0)
    before, change = (torch.randn(SAMPLES, *SHAPES[name], generator=generator).relu() for _ in range(2))
    return before.flatten(1), (before + 0.5 * change).flatten(1)


def moments(x: Tensor, y: Tensor, dtype: torch.dtype, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return PR, PR and feature-paired ENSD from D x D matrices; ``product`` is the trace of a product."""
    x, y = x.to(dtype), y.to(dtype)
    x, y = x - x.mean(0), y - y.mean(0)
    cx, cy = x.T @ x, y.T @ y
    tx, ty, xx, yy = cx.trace(), cy.trace(), product(cx, cx), product(cy, cy)
    return torch.stack((tx * tx / xx, ty * ty / yy, product(cx, cy) * tx * ty / (xx * yy)))


def elementwise(a: Tensor, b: Tensor) -> Tensor:
    """Return the trace of the product of symmetric matrices from their entries."""
    return (a * b).sum()


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Return the trace of the product after computing it."""
    return (a @ b).trace()


def time_layers(repetitions: int) -> dict[str, float]:
    """Return processor seconds for all layers, by method; the slow one runs once."""
    from lit_aux.functional import shared_dimensionality

    methods: dict[str, Callable[[Tensor, Tensor], object]] = {
        "ours": shared_dimensionality,
        "elementwise": lambda x, y: moments(x, y, torch.float64, elementwise),
        "float32": lambda x, y: moments(x, y, torch.float32, elementwise),
        "multiplied": lambda x, y: moments(x, y, torch.float64, multiplied),
    }
    totals = dict.fromkeys(methods, 0.0)
    for name in SHAPES:
        x, y = layer_pair(name)
        times: dict[str, list[float]] = {method: [] for method in methods}
        for repetition in range(repetitions):
            for method, run in methods.items():
                if method == "multiplied" and repetition:
                    continue
                start = time.process_time()
                run(x, y)
                times[method].append(time.process_time() - start)
        for method, seconds in times.items():
            totals[method] += statistics.median(seconds)
    return totals


def peak_memory() -> tuple[float, float]:
    """Return a fresh process's peak while it measures all layers, in MB, and what it held before that."""
    answer = subprocess.run(
        [sys.executable, __file__, "--measure-memory"], check=True, capture_output=True, text=True
    )
    peak, held = (float(word) for word in answer.stdout.split())
    return peak, held


def print_memory() -> None:
    """Hold the activations of all layers, measure each; print the peak and what was held (Linux), in MB."""
    from lit_aux.functional import shared_dimensionality

    torch.set_num_threads(1)
    pairs = [layer_pair(name) for name in SHAPES]
    shared_dimensionality(torch.randn(8, 4), torch.randn(8, 4))  # what the libraries need at their first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    held = memory("VmRSS")
    for x, y in pairs:
        shared_dimensionality(x, y)
    print(memory("VmHWM"), held)


def memory(field: str) -> float:
    """Return a field of this process's status in MB; unlike ``ru_maxrss`` it knows nothing of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1000


def benchmark_dimensionality(repetitions: int = 5) -> list[Row]:
    """Return rows of what was measured, its value, and the target."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = time_layers(repetitions)
    finally:
        torch.set_num_threads(threads)
    peak, held = peak_memory()
    return [
        ("seconds for all seven layers", seconds["ours"], ""),
        (
            "times faster than D x D float64, elementwise traces",
            seconds["elementwise"] / seconds["ours"],
            ">= 2.5",
        ),
        (
            "times faster than D x D float64, traces of products",
            seconds["multiplied"] / seconds["ours"],
            ">= 8",
        ),
        (
            "times faster than D x D float32, elementwise traces",
            seconds["float32"] / seconds["ours"],
            "(less exact)",
        ),
        ("peak memory of the process, MB", peak, "<= 1500"),
        ("  of it beyond libraries and activations, MB", peak - held, ""),
    ]


def main() -> None:
    """Print the table, or what the process that measures memory has to say."""
    if sys.argv[1:] == ["--measure-memory"]:
        print_memory()
        return
    for what, value, target in benchmark_dimensionality():
        print(f"{what:55s} {value:10.2f}  {target}")


if __name__ == "__main__":
    main()
