"""Steps per second of ``lit-aux fit`` against a bare PyTorch loop with the same network, data in memory.

The fit is the command line's own, in process, with its default settings: CSV log, progress bar, metrics,
checkpoint. Steady steps are all that follow the first epoch, ends of epochs included. Beside them stands what
a whole fit takes beyond its steps, from parsing the options to the report.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_aux.models import TimmBackbone

from .random_images import CLASSES

Row = tuple[str, float, str]
Clock = Callable[[], float]
BATCH = 128


class StepClock(Callback):
    """Notes the time after every step, and how long the phase took."""

    clock: Clock = time.perf_counter
    last: "StepClock"

    def __init__(self) -> None:
        self.times: list[float] = []
        type(self).last = self

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.times.append(_now(type(self).clock))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainer = trainer


def _now(clock: Clock) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock()


def fit(folder: Path, images: int, epochs: int, clock: Clock, on_gpu: bool) -> tuple[list[float], float]:
    """Run ``lit-aux fit``; return the time after each step and the seconds of the whole phase."""
    from lit_aux.cli import main

    StepClock.clock = staticmethod(clock)
    trainer = (
        {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"} if on_gpu else {"accelerator": "cpu"}
    )
    model = {
        "backbone": {"class_path": "lit_aux.models.TimmBackbone", "init_args": {"name": "resnet18"}},
        "settings": {
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-3, "momentum": 0.9}},
            "max_epochs": epochs,
        },
        "compile": on_gpu,
    }
    config = {
        "trainer": {
            **trainer,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": f"{__name__}.StepClock"}],
        },
        "model": {"class_path": "lit_aux.modules.SingleTaskModule", "init_args": model},
        "data": {
            "class_path": f"{__package__}.random_images.RandomImagesDataModule",
            "init_args": {"images": images, "batch_size": BATCH},
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    start = _now(clock)
    if main(["fit", "--config", str(path)]):
        raise RuntimeError("the fit failed")
    return StepClock.last.times, _now(clock) - start


class Plain(nn.Module):
    """The same network as a user would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = TimmBackbone("resnet18").network
        self.readout = nn.Linear(self.backbone.num_features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.backbone(x))  # type: ignore[no-any-return]


def bare_loop(images: int, epochs: int, clock: Clock, on_gpu: bool) -> list[float]:
    """Train without any framework; return the time after each step."""
    device = torch.device("cuda" if on_gpu else "cpu")
    x = torch.rand(images, 3, 32, 32, device=device) * 2 - 1
    y = torch.arange(images, device=device) % CLASSES
    network: nn.Module = Plain().to(device)
    if on_gpu:
        network.compile()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    times = []
    for _ in range(epochs):
        for index in torch.split(torch.randperm(images, device=device), BATCH):
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = nn.functional.cross_entropy(network(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(_now(clock))
    return times


class Figures(NamedTuple):
    """What one run says: steps per second by two accounts, and the seconds that are not steps."""

    typical: float
    steady: float
    beyond: float


def _figures(times: list[float], epochs: int, whole: float = 0.0) -> Figures:
    """Leave the first epoch out; ends of epochs are the odd steps that the median does not see."""
    kept = times[len(times) // epochs - 1 :]
    steady = (len(kept) - 1) / (kept[-1] - kept[0])
    return Figures(1 / median(b - a for a, b in pairwise(kept)), steady, whole - len(times) / steady)


def _repeat(
    repetitions: int, images: int, epochs: int, clock: Clock, on_gpu: bool
) -> list[tuple[Figures, Figures]]:
    """Return the figures of ours and of the bare loop, run in turns."""

    def ours() -> Figures:
        with TemporaryDirectory() as folder:
            times, whole = fit(Path(folder), images, epochs, clock, on_gpu)
        return _figures(times, epochs, whole)

    def theirs() -> Figures:
        return _figures(bare_loop(images, epochs, clock, on_gpu), epochs)

    results = []
    for number in range(repetitions):
        if number % 2:  # neither is always the one that finds the processor cool
            bare = theirs()
            results.append((ours(), bare))
        else:
            mine = ours()
            results.append((mine, theirs()))
    return results


def benchmark_training(repetitions: int = 5, clock: Clock = time.perf_counter) -> list[Row]:
    """Return rows for ResNet-18 on 32 x 32 pixels, batch 128, float32, on the CPU."""
    return _rows("", "steps", 1, _repeat(repetitions, 10 * BATCH, 4, clock, on_gpu=False))


def benchmark_gpu(repetitions: int = 5, clock: Clock = time.perf_counter) -> list[Row]:
    """Return rows for the same in bf16, compiled, on the GPU; none where there is no GPU."""
    if not torch.cuda.is_available():
        return [("no GPU here: images per second in bf16 not measured", float("nan"), "")]
    return _rows("GPU, ", "images", BATCH, _repeat(repetitions, 380 * BATCH, 6, clock, on_gpu=True))


def _rows(prefix: str, unit: str, factor: int, results: list[tuple[Figures, Figures]]) -> list[Row]:
    def rate(of: int) -> float:
        return factor * median(pair[of].steady for pair in results)

    return [
        (f"{prefix}lit-aux fit, {unit}/s after the first epoch", rate(0), ""),
        (f"{prefix}bare PyTorch loop, {unit}/s", rate(1), ""),
        (f"{prefix}ratio, typical step", median(a.typical / b.typical for a, b in results), ">= 0.95"),
        (
            f"{prefix}ratio, ends of epochs and checkpoints included",
            median(a.steady / b.steady for a, b in results),
            ">= 0.95",
        ),
        (
            f"{prefix}seconds of a fit beyond its steps (start, statistics, test, report)",
            median(a.beyond for a, _ in results),
            "",
        ),
    ]
