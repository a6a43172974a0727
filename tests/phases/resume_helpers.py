"""Runs that die at chosen instants, and the same runs whole."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from toys import ToyData, toy_module, toy_trainer

from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.phases import PhaseCheckpoint, PhaseSettings, PhaseTrainer

LAYERS = ["net.backbone.0", "net.backbone.2"]


class Dying(Callback):
    """Kills the process in a hook of a phase, from an epoch on."""

    def __init__(self, hook: str, phase: str, epoch: int, kill: Callable[[], Any]) -> None:
        self.hook, self.phase, self.epoch, self.kill = hook, phase, epoch, kill
        for name in (
            "on_train_end",
            "on_train_epoch_end",
            "on_test_start",
            "on_fit_end",
            "on_validation_end",
        ):
            setattr(self, name, lambda trainer, module, *_, name=name: self.see(trainer, module, name))

    def see(self, trainer: Any, module: Any, hook: str) -> None:
        """Kill if it is time."""
        if hook == self.hook and module.phase.name == self.phase and trainer.current_epoch >= self.epoch:
            self.kill()


class Killed(BaseException):
    """In place of a signal, within one process: nothing of what follows is done."""


def in_process() -> None:
    """End the fit at once."""
    raise Killed


def by_signal() -> None:
    """End the process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def stepping(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def fit(
    root: Path,
    *extra: Callback,
    ckpt_path: str | None = None,
    seed: int | None = 11,
    data: Any = None,
    settings: dict[str, Any] | None = None,
    callbacks: list[Callback] | None = None,
    module: dict[str, Any] | None = None,
    **trainer: Any,
) -> tuple[PhaseTrainer, nn.Module]:
    """Pretrain, rescale and finetune, with all that happens at a phase's end."""
    if seed is not None:
        seed_everything(seed)
    limits = {"max_epochs": 3, **(settings or {})}
    model = toy_module(
        rescale=0.5,
        pretrain_settings=PhaseSettings(
            max_epochs=3, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lr_scheduler=stepping
        ),
        finetune_settings=PhaseSettings(**limits, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)),
        **(module or {}),
    )
    own = (
        [RepresentationDimensionality(LAYERS, num_samples=20, picture=False)]
        if callbacks is None
        else callbacks
    )
    options = {"phase_store": False, "check_val_every_n_epoch": 2, **trainer}
    found = toy_trainer(root, callbacks=[*own, PhaseCheckpoint(budget=1.0), *extra], **options)
    found.fit(model, datamodule=data or ToyData(), ckpt_path=ckpt_path)
    return found, model


def outcome(trainer: PhaseTrainer) -> list[Any]:
    """Return all that a run found, but for how long it took and where its files are."""
    measures = [c.results for c in trainer.callbacks if isinstance(c, RepresentationDimensionality)]
    results = [
        {k: v for k, v in r.asdict().items() if k not in ("seconds", "checkpoint")}
        for r in trainer.phase_results
    ]
    stopped = [c.stopped_epoch for c in trainer.callbacks if isinstance(c, EarlyStopping)]
    return [results, measures, stopped]
