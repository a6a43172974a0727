"""Finetuning from 20 images, one step an epoch, with validation every five epochs.

Everybody starts from the same backbone's weights and logs the same four numbers; losses at the end are
compared. Counted is what follows the first step up to the last one: ends of epochs, validation and
checkpoints included, the start and the end of the run not.
"""

import csv
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.silence import in_silence
from benchmarks.training import StepClock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchmetrics.classification import MulticlassAccuracy

from .comparison import OURS, Clock, Outcome, Row, Way, compare
from .fitting import fit, mean_step, settings, use
from .tasks import Network, loader, options, tensors, write_weights

CLASSES = {"main": 2}
IMAGES, VALIDATION, EVERY = 20, 200, 5
SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
DATA = options(CLASSES, {"main": IMAGES}, VALIDATION, batch_size=IMAGES)


class Plain(LightningModule):
    """What a user of Lightning writes; the numbers that it logs are those of ours.

    Args:
        network: The network.
        classes: How many it tells apart.
    """

    def __init__(self, network: nn.Module, classes: int = CLASSES["main"]) -> None:
        super().__init__()
        self.network = network
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self._step(batch, "train", self.train_accuracy)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self._step(batch, "val", self.val_accuracy)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str, accuracy: MulticlassAccuracy) -> Tensor:
        x, y = batch
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, y)
        accuracy(logits, y)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True)
        self.log(f"{stage}_accuracy", accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), **SGD)


def ours(folder: Path, weights: Path, epochs: int, clock: Clock) -> Outcome:
    """Run ``lit-aux fit``."""
    use(clock)
    model = {"pretrained": str(weights), "finetune_settings": settings("SGD", SGD, epochs)}
    fit(folder, "PretrainFinetuneModule", model, DATA, check_val_every_n_epoch=EVERY)
    return _outcome("finetune/main/train_loss")


def lightning(folder: Path, weights: Path, epochs: int, clock: Clock) -> Outcome:
    """Run Lightning's Trainer with the checkpoint, the progress bar and the summary that it comes with."""
    use(clock)
    torch.manual_seed(0)
    train, val = tensors(DATA)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=CSVLogger(folder),
        max_epochs=epochs,
        check_val_every_n_epoch=EVERY,
        callbacks=[StepClock()],
    )
    loaders = loader(train["main"], IMAGES, shuffle=True), loader(val["main"], 512, shuffle=False)
    trainer.fit(Plain(Network(CLASSES, weights)), *loaders)
    return _outcome("train_loss")


def _outcome(loss: str) -> Outcome:
    times, trainer = StepClock.last.times, StepClock.last.trainer
    return Outcome(mean_step(times), float(trainer.callback_metrics[loss]))


def bare(folder: Path, weights: Path, epochs: int, clock: Clock, reestimate: bool) -> Outcome:
    """Train without any framework; log the same numbers.

    Args:
        folder: Where the log goes.
        weights: Of the backbone.
        epochs: How many.
        clock: Tells the time.
        reestimate: Whether statistics of batch normalization are those of the weights at each validation, as
            ours are.
    """
    torch.manual_seed(0)
    train, val = tensors(DATA)
    (x, y), (x_val, y_val) = train["main"], val["main"]
    network = Network(CLASSES, weights)
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    times = []
    with (folder / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        for epoch in range(epochs):
            network.train()
            index = torch.randperm(len(x))
            inputs, targets = x[index], y[index]
            logits = network(inputs)
            loss = nn.functional.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(clock())
            row = [epoch, loss.item(), _accuracy(logits, targets)]
            if (epoch + 1) % EVERY == 0:
                if reestimate:
                    update_bn([x], network)
                network.eval()
                with torch.no_grad():
                    logits = network(x_val)
                    row += [nn.functional.cross_entropy(logits, y_val).item(), _accuracy(logits, y_val)]
            log.writerow(row)
    return Outcome(mean_step(times), loss.item())


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return (logits.argmax(1) == targets).float().mean().item()


def few_shot(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return milliseconds of an epoch, and ratios."""
    epochs = 6 if quick else 200
    with TemporaryDirectory() as folder:
        how: Any = {"weights": write_weights(Path(folder) / "backbone.pt"), "epochs": epochs, "clock": clock}
        ways: dict[str, Way] = {
            OURS: in_silence(partial(ours, **how)),
            "plain Lightning": in_silence(partial(lightning, **how)),
            "a bare loop": partial(bare, reestimate=True, **how),
            "the same without re-estimation": partial(bare, reestimate=False, **how),
        }
        targets = {"plain Lightning": ">= 1.6", "a bare loop": "<= 1.15"}
        targets["the same without re-estimation"] = "<= 1.15"
        what = f"{IMAGES} images, {epochs} epochs"
        return compare(what, "ms an epoch", ways, targets, repetitions)
