"""What looking at trajectories costs, beside the training of a ResNet-18 on two tasks of 32 x 32 images.

Fits with and without a callback take turns. A callback measures far more often than by default, so that few
steps tell what one measurement costs in steps; its share of training time at the default period follows. The
memory of ``GradientConflict`` is that of all tensors which are alive when two gradients are compared, less
those alive between steps, over the size of one gradient.
"""

import gc
from collections.abc import Callable, Iterator
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.func import functional_call

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.callbacks import FisherTrace, GradientCoherence, GradientConflict, Sharpness
from lit_aux.functional import fisher_trace, gradient_cosine
from lit_aux.modules import MultiTaskModule

from .random_images import RandomImagesDataModule

Row = tuple[str, float, str]
Clock = Callable[[], float]


class Clocked(Callback):
    """Notes the time at the start and the end of training, and what tensors hold between steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seconds, self.bytes = clock, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds -= self.clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.bytes == 0:
            self.bytes = alive_bytes()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += self.clock()


def alive_bytes() -> int:
    """Return the bytes of all tensors that are alive, every storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    grads = [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*tensors, *grads)}
    return sum(storages.values())


def fit(clock: Clock, steps: int, size: int, *callbacks: Callback) -> Clocked:
    """Train for some steps, with callbacks that see nothing but them."""
    watch = Clocked(clock)
    classes = {"main": 5, "aux": 5}
    data = RandomImagesDataModule(steps * size, classes=classes, batch_size=size, seed=0)
    settings = PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), max_epochs=1)
    module = MultiTaskModule("resnet18", data.num_classes, settings=settings, reestimate_batchnorm=True)
    with TemporaryDirectory() as folder:
        trainer = PhaseTrainer(
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            callbacks=[watch, *callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            test_after_phase=False,
        )
        trainer.fit(module, datamodule=data)
    return watch


def one_by_one(clock: Clock, size: int) -> float:
    """Return the time of a backward pass for each example over that of their norms from layers."""
    net = timm.create_model("resnet18", num_classes=10).eval()
    parameters, x = dict(net.named_parameters()), torch.randn(size, 3, 32, 32)

    def logits_of(held: Any, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = functional_call(net, dict(held), (x,))
        return logits

    seconds = []
    for module in (None, net):
        start = clock()
        fisher_trace(logits_of, parameters, x, module=module)
        seconds.append(clock() - start)
    return seconds[0] / seconds[1]


def gradients_held(size: int) -> float:
    """Return what is alive while two gradients are compared, in gradients of the shared weights."""
    most = 0

    def watched(a: Any, b: Any) -> Any:
        nonlocal most
        most = max(most, alive_bytes())
        return gradient_cosine(a, b)

    conflict = GradientConflict(every_n_steps=2, pairwise_every=1)
    with patch("lit_aux.callbacks.gradient_conflict.gradient_cosine", watched):
        watch = fit(lambda: 0.0, 2, size, conflict)
    shared = sum(p.numel() * 4 for p in MultiTaskModule("resnet18", {"main": 5}).net.backbone_parameters())
    return float((most - watch.bytes) / shared)


def benchmark_diagnostics(repetitions: int, clock: Clock, quick: bool) -> Iterator[Row]:
    """Yield what, value and target."""
    steps, size = (2, 8) if quick else (8, 128)
    period = 1 if quick else 2
    default = GradientConflict()
    often: dict[str, Callable[[], Callback]] = {
        "GradientConflict": lambda: GradientConflict(every_n_steps=period, pairwise_every=2, num_samples=256),
        "GradientCoherence, 512 examples": lambda: GradientCoherence(
            num_samples=512 if not quick else 16, batch_size=32 if not quick else 4
        ),
        "FisherTrace, 128 examples": lambda: FisherTrace(num_samples=size),
        "Sharpness, 128 examples": lambda: Sharpness(num_samples=size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("", *often)}
    for _ in range(repetitions):
        seconds[""].append(fit(clock, steps, size).seconds)
        for name, build in often.items():
            seconds[name].append(fit(clock, steps, size, build()).seconds)
    for name in often:
        count = steps // period if name == "GradientConflict" else 1
        extra = [(a - b) / b * steps / count for a, b in zip(seconds[name], seconds[""], strict=True)]
        yield f"one measurement of {name} of each of two tasks, in training steps", median(extra), ""
        if name == "GradientConflict":
            share = median(extra) / (default.every_n_steps or 1)
            yield "GradientConflict at the default period, over training time", share, "<= 0.1"
    ratios = [one_by_one(clock, size) for _ in range(repetitions)]
    yield "FisherTrace: a backward pass an example over norms of layers, time", median(ratios), ">= 5"
    yield "GradientConflict: memory beyond training's, in gradients", gradients_held(size), "<= 2.01"
