"""Two tasks at once on a ResNet-18: digits 0 to 4 and 5 to 9 of 32 x 32 pixels, 16 images of each in a step.

Everybody starts from the same backbone's weights, takes as many steps of Adam with the same rate, validates
after each epoch, and logs loss and accuracy of both tasks in training and validation: eight numbers an epoch.
Losses at the end are compared; readouts and orders of images are drawn by each in its own way. Counted is
what follows the first step up to the last one, ends of epochs, validation and checkpoints included (LibMTL
writes none), the start and the end of the run not.

Ways differ where their users would leave them: ours takes fused steps of Adam and passes both tasks through
the network together, and it alone re-estimates the statistics of batch normalization at each validation; the
others take torch's default step and a pass for each task. *Lightning, fused* is Lightning by hand with the
option ``fused=True``, which few know.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.silence import in_silence
from benchmarks.training import StepClock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from .comparison import OURS, Clock, Outcome, Row, Way, compare
from .fitting import fit, mean_step, settings, use
from .tasks import Network, Samples, loader, options, tensors, write_weights

CLASSES = {"main": 5, "aux": 5}
BATCH, VALIDATION = 16, 100
RATE = 1e-3


def data(images: int) -> dict[str, Any]:
    """Return the options of ours for so many images of each task."""
    return options(CLASSES, dict.fromkeys(CLASSES, images), VALIDATION, BATCH)


class Plain(LightningModule):
    """What a user of Lightning writes for several tasks.

    Args:
        network: The network.
        fused: Whether Adam takes fused steps; None leaves it to torch.
    """

    def __init__(self, network: Network, fused: bool | None) -> None:
        super().__init__()
        self.network, self.fused = network, fused
        self.accuracies = nn.ModuleDict(
            {
                f"{stage}_{task}": MulticlassAccuracy(count, average="micro")
                for stage in ("train", "val")
                for task, count in CLASSES.items()
            }
        )

    def training_step(self, batch: Mapping[str, Samples], _: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Mapping[str, Samples], *_: int) -> Tensor:
        return self._step(batch, "val")

    def _step(self, batch: Mapping[str, Samples], stage: str) -> Tensor:
        losses = []
        for task, (x, y) in batch.items():
            logits = self.network(x, task)
            losses.append(nn.functional.cross_entropy(logits, y))
            accuracy: Any = self.accuracies[f"{stage}_{task}"]
            accuracy(logits, y)
            self.log(f"{stage}_loss_{task}", losses[-1], on_step=False, on_epoch=True, batch_size=len(y))
            self.log(f"{stage}_accuracy_{task}", accuracy, on_step=False, on_epoch=True, batch_size=len(y))
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=RATE, fused=self.fused)


def ours(folder: Path, weights: Path, images: int, epochs: int, clock: Clock) -> Outcome:
    """Run ``lit-aux fit``."""
    use(clock)
    model = {"pretrained": str(weights), "settings": settings("Adam", {"lr": RATE}, epochs)}
    fit(folder, "MultiTaskModule", model, data(images))
    return _outcome("train/{}/train_loss")


def lightning(
    folder: Path, weights: Path, images: int, epochs: int, clock: Clock, fused: bool | None
) -> Outcome:
    """Run Lightning's Trainer over loaders of torch, combined by Lightning."""
    use(clock)
    torch.manual_seed(0)
    train, val = tensors(data(images))
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=CSVLogger(folder),
        max_epochs=epochs,
        callbacks=[StepClock()],
    )
    loaders = {task: loader(samples, BATCH, shuffle=True) for task, samples in train.items()}
    held = {task: loader(samples, 512, shuffle=False) for task, samples in val.items()}
    trainer.fit(
        Plain(Network(CLASSES, weights), fused),
        CombinedLoader(loaders, "max_size_cycle"),
        CombinedLoader(held, "max_size"),
    )
    return _outcome("train_loss_{}")


def _outcome(loss: str) -> Outcome:
    times, metrics = StepClock.last.times, StepClock.last.trainer.callback_metrics
    return Outcome(mean_step(times), sum(float(metrics[loss.format(task)]) for task in CLASSES))


def libmtl(folder: Path, weights: Path, images: int, epochs: int, clock: Clock) -> Outcome:
    """Run LibMTL's Trainer: equal weights, hard parameter sharing."""
    from .libmtl import library, trainer_class

    torch.manual_seed(0)
    train, val = tensors(data(images))
    peer = library()
    network = Network(CLASSES, weights)
    tasks = {
        task: {
            "metrics": ["Acc"],
            "metrics_fn": peer.metrics.AccMetric(),
            "loss_fn": peer.loss.CELoss(),
            "weight": [1],
        }
        for task in CLASSES
    }
    trainer = trainer_class()(
        task_dict=tasks,
        weighting=peer.weighting.EW,
        architecture=peer.architecture.HPS,
        encoder_class=lambda: network.backbone,
        decoders=network.readouts,
        rep_grad=False,
        multi_input=True,
        optim_param={"optim": "adam", "lr": RATE},
        scheduler_param=None,
        weight_args={},
        arch_args={},
    )
    times: list[float] = []
    trainer.optimizer.register_step_post_hook(lambda *_: times.append(clock()))
    loaders = {task: loader(samples, BATCH, shuffle=True) for task, samples in train.items()}
    held = {task: loader(samples, 512, shuffle=False) for task, samples in val.items()}
    trainer.train(loaders, held, epochs)
    return Outcome(mean_step(times), float(trainer.model.train_loss_buffer[:, -1].sum()))


def multi_task(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return milliseconds of a step, and ratios."""
    images, epochs = (32, 2) if quick else (320, 3)
    with TemporaryDirectory() as folder:
        how: Any = {"weights": write_weights(Path(folder) / "backbone.pt"), "images": images}
        how |= {"epochs": epochs, "clock": clock}
        ways: dict[str, Way] = {
            OURS: in_silence(partial(ours, **how)),
            "Lightning and DataLoader": in_silence(partial(lightning, fused=None, **how)),
            "Lightning, fused": in_silence(partial(lightning, fused=True, **how)),
            "LibMTL": in_silence(partial(libmtl, **how)),
        }
        what = f"2 tasks of {images} images, {epochs} epochs"
        needs = {"LibMTL": "LibMTL"}
        targets = {"Lightning and DataLoader": ">= 1.2"}
        return compare(what, "ms a step", ways, targets, repetitions, needs, ("last losses", "<= 1.5"))
