"""What ``test_restore_best.py`` runs under two processes: ``python ... FOLDER``."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn

from lit_aux.data import DigitsDataModule
from lit_aux.modules import SingleTaskModule
from lit_aux.modules.evaluation import TaskEvaluation
from lit_aux.phases import Phase, PhaseTrainer

_compute = TaskEvaluation.compute
_SAID: dict[str, float] = {}
"""By task, what the next validation measures."""


def compute(self: TaskEvaluation, stage: Any) -> Any:
    found = _compute(self, stage)
    for task in _SAID if stage == "val" else ():
        found[task]["loss"] = torch.tensor(_SAID[task])
    return found


TaskEvaluation.compute = compute  # type: ignore[method-assign]


class Scripted(Callback):
    """Says by the epoch which loss validation measures."""

    changes_training = False

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        phase, task, _ = self.name.split("/")
        if phase == pl_module.phase.name and not trainer.sanity_checking:
            _SAID[task] = self.values[trainer.current_epoch]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        _SAID.clear()


class Save(Callback):
    """Leaves a checkpoint at the end of an epoch."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def network() -> nn.Module:
    parts = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts)


def run(folder: Path, processes: int, ckpt_path: Path | None = None) -> Any:
    """Train on digits, in joint batches of twelve; return the weights, why it ended, and the rank."""
    seed_everything(0, verbose=False)
    data = DigitsDataModule(
        n_main=24, n_aux=24, n_val=15, n_test=8, size=8, channels=1, batch_size=12 // processes, seed=0
    )
    best = {"restore_best": "main/val_loss", "restore_mode": "max"}
    phase = Phase(name="train", tasks=["main"], optimizer=sgd, max_epochs=4, **best)
    module = SingleTaskModule(network(), data.num_classes, num_features=6, phases=[phase])
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {"devices": 1}
    scripted = Scripted("train/main/val_loss", [1.0, 3.0, 2.0, 3.0])
    trainer = PhaseTrainer(
        accelerator="cpu",
        precision="64-true",
        default_root_dir=folder / "runs",
        callbacks=[scripted, *([] if ckpt_path else [Save(folder / "cut.ckpt", 2)])],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        sync_batchnorm=False,
        **several,
    )
    trainer.fit(module, datamodule=data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    weights = {n: v.detach().clone() for n, v in module.state_dict().items()}
    return {"weights": weights, "rank": trainer.global_rank, "reason": trainer.phase_results[0].reason}


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    found = run(root, 2)
    torch.save(found, root / f"whole-{found['rank']}.pt")
    found = run(root, 2, root / "cut.ckpt")
    torch.save(found, root / f"again-{found['rank']}.pt")
