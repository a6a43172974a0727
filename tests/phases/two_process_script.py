"""What ``test_two_processes.py`` runs under two processes: ``python two_process_script.py FOLDER``.

Lightning starts the second process by itself. Each process writes what it saw to ``FOLDER/<run>-<rank>.pt``.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.data import DigitsDataModule
from lit_aux.modules import AuxiliaryModule, PretrainFinetuneModule, SingleTaskModule

LAYERS = ["net.backbone.0", "net.backbone.1", "net.readout"]
PROBE = 15


class Backbone(nn.Sequential):
    """Convolution, batch normalization, pooling."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


class Record(Callback):
    """Copies of the weights at both ends of each phase, the losses of each step, and the steps taken."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, Any]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.phases[self._phase(pl_module)] = {"before": _copy(pl_module), "losses": []}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.phases[self._phase(pl_module)]["losses"] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        size = sum(len(y) for _, y in batch.values())
        self.phases[self._phase(pl_module)]["losses"].append((float(outputs["loss"]), size))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = self.phases.setdefault(self._phase(pl_module), {})
        found |= {"after": _copy(pl_module), "steps": trainer.global_step}

    @staticmethod
    def _phase(module: Any) -> str:
        return str(module.phase.name)


def _copy(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def data() -> DigitsDataModule:
    """Return digits in numbers that two processes cannot share evenly."""
    return DigitsDataModule(
        n_main=21, n_aux=41, n_val=23, n_test=29, size=8, channels=1, batch_size=6, eval_batch_size=7, seed=0
    )


def settings(**kwargs: Any) -> PhaseSettings:
    """Return settings of a phase of one or two epochs."""
    return PhaseSettings(
        **{"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "max_epochs": 2, **kwargs}
    )


def build(name: str) -> AuxiliaryModule:
    """Return the module of a run."""
    tasks = data().num_classes
    if name == "published":
        return SingleTaskModule(Backbone(), tasks, settings=settings(), reestimate_batchnorm=False)
    later: dict[str, Any] = {"finetune": "probe_then_full", "finetune_settings": settings()}
    if name == "stopped":
        later = {"finetune_settings": settings(max_epochs=50, stop_at_training_loss=0.5)}
    return PretrainFinetuneModule(Backbone(), tasks, rescale=0.5, pretrain_settings=settings(), **later)


def run(folder: Path, name: str) -> None:
    """Train one module and write what this process saw."""
    seed_everything(0, verbose=False)
    module = build(name)
    record = Record()
    dimensionality = RepresentationDimensionality(LAYERS, num_samples=PROBE, picture=False)
    trainer = PhaseTrainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        precision="64-true",
        default_root_dir=folder / "runs",
        callbacks=[record] if name == "published" else [record, dimensionality],
        # Validation would hide it if the ranks' running averages differed at the end.
        limit_val_batches=0 if name == "published" else 1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data())
    content = {
        "world": trainer.world_size,
        "phases": record.phases,
        "results": [result.asdict() for result in trainer.phase_results],
        "dimensionality": [vars(row) for row in dimensionality.results],
    }
    torch.save(content, folder / f"{name}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    for each in ("probed", "stopped", "published"):
        run(Path(sys.argv[1]), each)
