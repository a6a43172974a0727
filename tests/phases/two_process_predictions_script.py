"""What ``test_predictions_two_processes.py`` runs: ``python two_process_predictions_script.py FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_aux import PhaseTrainer
from lit_aux.data import DigitsDataModule
from lit_aux.modules import MultiTaskModule


class Items(Dataset[dict[str, tuple[Tensor, int]]]):
    """Eleven points of a task, each with its number for a label."""

    def __init__(self) -> None:
        self.x = torch.randn(11, 64, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, tuple[Tensor, int]]:
        return {"main": (self.x[i], i)}


def module(tasks: dict[str, int]) -> MultiTaskModule:
    """Return a network that has the same weights in every process."""
    seed_everything(0, verbose=False)
    return MultiTaskModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh()), tasks, num_features=8)


def predict(folder: Path, processes: int) -> None:
    """Write what a network predicts of digits, and of a shuffled loader's points."""
    options: dict[str, Any] = {"strategy": "ddp"} if processes > 1 else {}
    trainer = PhaseTrainer(
        accelerator="cpu",
        devices=processes,
        default_root_dir=str(folder / "runs"),
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        **options,
    )
    points = DataLoader(Items(), batch_size=2, shuffle=True)
    for suffix in ("csv", "npz"):
        path = str(folder / f"points-{processes}.{suffix}")
        found = trainer.predict(module({"main": 12, "aux": 3}), points, output=path)
        assert found is None, "what is written is not returned, too"
    small: dict[str, Any] = {"size": 8, "channels": 1, "n_main": 4, "eval_batch_size": 3, "seed": 0}
    data = DigitsDataModule({"main": [0, 1], "aux": [2, 3, 4]}, n_test=7, **small)
    trainer.predict(module(data.num_classes), datamodule=data, output=str(folder / f"digits-{processes}.csv"))
    data = DigitsDataModule(n_test=1, **small)  # of which one process has none
    trainer.predict(module(data.num_classes), datamodule=data, output=str(folder / f"single-{processes}.csv"))


if __name__ == "__main__":
    predict(Path(sys.argv[1]), 2)
