"""Pretraining on eight digit classes, then finetuning on the two others from 20 images, with validation.

A ResNet-18 at 32 x 32 pixels pretrains on 320 images, then its readout trains alone for some epochs, then
everything. Everybody takes the same steps of SGD, validates after each epoch, logs the same four numbers and
writes checkpoints. Ours is one ``lit-aux fit``; plain Lightning is two ``Trainer.fit``, the second with
Lightning's ``BaseFinetuning``; finetuning-scheduler is two as well, the second with its callback, whose
transition comes at the same epoch and restores nothing. Ours alone re-estimates the statistics of batch
normalization at each validation.

Counted is everything from the first step of pretraining to the last of finetuning: also what lies between the
phases. The start and the end of the run are not. Losses of the last epochs of both phases are added and
compared; weights and orders of images are drawn by each in its own way.
"""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from benchmarks.silence import in_silence
from benchmarks.training import StepClock
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.loggers import CSVLogger
from torch.optim import SGD, Optimizer

from .comparison import OURS, Clock, Outcome, Row, Way, compare
from .few_shot import SGD as OPTIONS
from .few_shot import Plain
from .fitting import fit, settings, use
from .tasks import Network, loader, options, tensors

CLASSES = {"main": 2, "aux": 8}
BATCH, VALIDATION = 32, 100
_RATE = {"lr": OPTIONS["lr"]}


def data(images: int) -> dict[str, Any]:
    """Return the options of ours for so many images to pretrain on."""
    return options(CLASSES, {"main": 20, "aux": images}, VALIDATION, BATCH)


class Epochs:
    """How long each part is.

    Args:
        quick: Whether it only shows that it runs.
    """

    def __init__(self, quick: bool) -> None:
        self.pretraining, self.readout, self.finetuning = (1, 1, 2) if quick else (3, 5, 20)


def ours(folder: Path, images: int, epochs: Epochs, clock: Clock) -> Outcome:
    """Run ``lit-aux fit``."""
    use(clock)
    unfreeze = {0: ["net.readout.*"], epochs.readout: ["net.backbone.*"]}
    model = {
        "pretrain_settings": settings("SGD", OPTIONS, epochs.pretraining),
        "finetune_settings": {**settings("SGD", OPTIONS, epochs.finetuning), "unfreeze": unfreeze},
    }
    fit(folder, "PretrainFinetuneModule", model, data(images))
    metrics = StepClock.last.trainer.callback_metrics
    loss = float(metrics["pretrain/aux/train_loss"]) + float(metrics["finetune/main/train_loss"])
    return _outcome(StepClock.last.times, images, epochs, loss)


class Finetuned(Plain):
    """The same with an optimizer of what trains."""

    def configure_optimizers(self) -> Optimizer:
        return SGD([p for p in self.parameters() if p.requires_grad], **OPTIONS)


class Unfreezing(BaseFinetuning):
    """What a user of Lightning writes to train the readout first.

    Args:
        epoch: When the rest begins to train.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.network.backbone, train_bn=False)  # type: ignore[union-attr]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == self.epoch:
            backbone: Any = pl_module.network.backbone  # type: ignore[union-attr]
            self.unfreeze_and_add_param_group(
                backbone, optimizer, OPTIONS["lr"], initial_denom_lr=1, train_bn=False
            )


def unfreezing(epochs: Epochs) -> Callback:
    """Return the callback that Lightning's users write."""
    return Unfreezing(epochs.readout)


def scheduler(epochs: Epochs) -> Callback:
    """Return the callback of finetuning-scheduler."""
    schedule = {
        0: {"params": [r"network\.readouts\..*"], "max_transition_epoch": epochs.readout, **_RATE},
        1: {"params": [r"network\.backbone\..*"], "max_transition_epoch": epochs.finetuning, **_RATE},
    }
    found = import_module("finetuning_scheduler").FinetuningScheduler(
        ft_schedule=schedule, epoch_transitions_only=True, restore_best=False
    )
    assert isinstance(found, Callback)
    return found


def lightning(folder: Path, images: int, epochs: Epochs, clock: Clock, callback: Any) -> Outcome:
    """Run Lightning's Trainer twice.

    Args:
        folder: Where logs and checkpoints go.
        images: How many to pretrain on.
        epochs: How many.
        clock: Tells the time.
        callback: Makes the second one's callback.
    """
    use(clock)
    torch.manual_seed(0)
    train, val = tensors(data(images))
    steps, losses = StepClock(), []
    pretrained = Network({"main": CLASSES["aux"]})
    finetuned = Network({"main": CLASSES["main"]})
    for task, module, count, callbacks in (
        ("aux", Plain(pretrained, CLASSES["aux"]), epochs.pretraining, []),
        ("main", Finetuned(finetuned), epochs.finetuning, [callback(epochs)]),
    ):
        if task == "main":
            finetuned.backbone.load_state_dict(pretrained.backbone.state_dict())
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=folder / task,
            logger=CSVLogger(folder / task),
            max_epochs=count,
            callbacks=[steps, *callbacks],
        )
        trainer.fit(module, loader(train[task], BATCH, shuffle=True), loader(val[task], 512, shuffle=False))
        losses.append(float(trainer.callback_metrics["train_loss"]))
    return _outcome(steps.times, images, epochs, sum(losses))


def _outcome(times: list[float], images: int, epochs: Epochs, loss: float) -> Outcome:
    taken = epochs.pretraining * (images // BATCH) + epochs.finetuning
    assert len(times) == taken, f"{len(times)} steps, not {taken}"
    return Outcome(times[-1] - times[0], loss)


def finetuning(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return seconds from the first step to the last, and ratios."""
    how: Any = {"images": 64 if quick else 320, "epochs": Epochs(quick), "clock": clock}
    ways: dict[str, Way] = {
        OURS: in_silence(partial(ours, **how)),
        "plain Lightning": in_silence(partial(lightning, callback=unfreezing, **how)),
        "finetuning-scheduler": in_silence(partial(lightning, callback=scheduler, **how)),
    }
    needs = {"finetuning-scheduler": "finetuning_scheduler"}
    what = "pretraining and finetuning"
    return compare(what, "s", ways, {}, repetitions, needs, ("last losses", "<= 1.5"))
