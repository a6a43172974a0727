"""A step of Adam and of SGD on ResNet-18's parameters: as the modules take it, against torch's default."""

import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

from lit_aux.models import TimmBackbone
from lit_aux.modules.optimization import choose_step

Row = tuple[str, float, str]
Clock = Callable[[], float]


def benchmark_optimizer(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> list[Row]:
    """Return milliseconds and ratios; choosing how to step counts as part of ours."""
    steps = 1 if quick else 10
    trainer: Any = SimpleNamespace(precision_plugin=None, callbacks=[])
    rows = []
    for kind, options in ((Adam, {}), (SGD, {"momentum": 0.9})):
        ours, plain = _optimizer(kind, options), _optimizer(kind, options)

        def fused(optimizer: Optimizer = ours) -> None:
            choose_step(optimizer, trainer)
            optimizer.step()

        for first in (fused, plain.step):  # which makes the states
            first()
        pairs = [
            (_seconds(fused, steps, clock), _seconds(plain.step, steps, clock)) for _ in range(repetitions)
        ]
        name = f"{kind.__name__}, ResNet-18"
        rows += [
            (f"{name}: ms a step, fused", 1e3 * median(a for a, _ in pairs), ""),
            (f"{name}: ms a step, torch's default", 1e3 * median(b for _, b in pairs), ""),
            (f"{name}: ratio", median(a / b for a, b in pairs), "<= 0.5" if kind is Adam else "<= 1.05"),
        ]
    return rows


def _optimizer(kind: type[Any], options: dict[str, float]) -> Any:
    network = TimmBackbone("resnet18")
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    return kind(network.parameters(), **options)


def _seconds(step: Callable[[], Any], count: int, clock: Clock) -> float:
    start = clock()
    for _ in range(count):
        step()
    return (clock() - start) / count
