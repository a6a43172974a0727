"""Gradients of two tasks combined by PCGrad and by UPGrad: ``lit-aux fit`` against TorchJD's engine by hand.

Data, network and weights are those of ``multi_task.py``; the optimizer is SGD. Both take the aggregators of
TorchJD, pass both tasks through the network together, and log loss and accuracy of both in training and
validation. By hand is a bare loop over torch's loaders, with ``mtl_backward`` and ``jac_to_grad``; TorchJD's
default differentiates all losses at once, ``parallel_chunk_size=1`` one after another. Ours pays for
Lightning and for checkpoints besides, and re-estimates the statistics of batch normalization at validation.
Counted is what follows the first step up to the last one. Losses at the end are compared; readouts and orders
of images are drawn by each in its own way.
"""

import csv
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.silence import in_silence
from benchmarks.training import StepClock
from torch import Tensor, nn

from .comparison import OURS, Clock, Outcome, Row, Way, compare
from .fitting import fit, mean_step, settings, use
from .multi_task import BATCH, CLASSES, data
from .tasks import Network, Samples, loader, tensors, write_weights

SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
TORCHJD = dict.fromkeys(("TorchJD by hand", "TorchJD, chunks of 1"), "torchjd")
AGREEMENT = ("last losses", "<= 1.5")


def ours(folder: Path, weights: Path, images: int, epochs: int, clock: Clock, aggregator: str) -> Outcome:
    """Run ``lit-aux fit``."""
    use(clock)
    model = {
        "pretrained": str(weights),
        "aggregator": aggregator,
        "settings": settings("SGD", SGD, epochs),
    }
    fit(folder, "MultiTaskModule", model, data(images))
    metrics = StepClock.last.trainer.callback_metrics
    loss = sum(float(metrics[f"train/{task}/train_loss"]) for task in CLASSES)
    return Outcome(mean_step(StepClock.last.times), loss)


def by_hand(
    folder: Path,
    weights: Path,
    images: int,
    epochs: int,
    clock: Clock,
    aggregator: str,
    chunk: int | None,
) -> Outcome:
    """Train in a bare loop with TorchJD's engine.

    Args:
        folder: Where the log goes.
        weights: Of the backbone.
        images: How many of each task.
        epochs: How many.
        clock: Tells the time.
        aggregator: Its name.
        chunk: How many losses are differentiated at once; None for all.
    """
    engine = import_module("torchjd.autojac")
    aggregate = getattr(import_module("torchjd.aggregation"), aggregator)()
    torch.manual_seed(0)
    train, val = tensors(data(images))
    network = Network(CLASSES, weights)
    shared = [*network.backbone.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    loaders = [loader(samples, BATCH, shuffle=True) for samples in train.values()]
    times = []
    with (folder / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        for epoch in range(epochs):
            network.train()
            seen = []
            for batch in zip(*loaders, strict=True):
                features, logits, losses = _forward(network, batch)
                optimizer.zero_grad()
                engine.mtl_backward(losses, features, parallel_chunk_size=chunk)
                engine.jac_to_grad(shared, aggregate)
                optimizer.step()
                times.append(clock())
                seen.append(_measured(batch, logits, losses))
            network.eval()
            with torch.no_grad():
                held = [*val.values()]
                row = _measured(held, *_forward(network, held)[1:])
            means = torch.stack(seen).mean(0)
            log.writerow([epoch, *means.tolist(), *row.tolist()])
    return Outcome(mean_step(times), float(means[: len(CLASSES)].sum()))


def _forward(network: Network, batch: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return features of all tasks together, and each task's logits and loss."""
    features = network.backbone(torch.cat([x for x, _ in batch]))
    parts = features.split([len(x) for x, _ in batch])
    logits = [readout(part) for readout, part in zip(network.readouts.values(), parts, strict=True)]
    pairs = zip(logits, batch, strict=True)
    return features, logits, [nn.functional.cross_entropy(given, y) for given, (_, y) in pairs]


@torch.no_grad()
def _measured(batch: Sequence[Samples], logits: list[Tensor], losses: list[Tensor]) -> Tensor:
    pairs = zip(logits, batch, strict=True)
    return torch.stack([*losses, *((given.argmax(1) == y).float().mean() for given, (_, y) in pairs)])


def gradient_balancing(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return milliseconds of a step, and ratios, for both aggregators."""
    images, epochs = (32, 2) if quick else (160, 2)
    rows = []
    with TemporaryDirectory() as folder:
        how: Any = {"weights": write_weights(Path(folder) / "backbone.pt"), "images": images}
        how |= {"epochs": epochs, "clock": clock}
        for aggregator in ("PCGrad", "UPGrad"):
            how["aggregator"] = aggregator
            ways: dict[str, Way] = {
                OURS: in_silence(partial(ours, **how)),
                "TorchJD by hand": in_silence(partial(by_hand, chunk=None, **how)),
                "TorchJD, chunks of 1": in_silence(partial(by_hand, chunk=1, **how)),
            }
            rows += compare(f"{aggregator}, 2 tasks", "ms a step", ways, {}, repetitions, TORCHJD, AGREEMENT)
    return rows
