"""What ``test_several_processes.py`` runs: ``python several_processes_script.py FOLDER``.

The command line's ``fit`` with the configuration in the folder; Lightning starts the other processes.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_aux.cli import main


class Plain(nn.Sequential):
    """Two layers, nothing that ties the samples of a batch together."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())


class Report(Callback):
    """Writes each process's weights at the end of every phase."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        phase: Any = pl_module.phase
        torch.save(pl_module.state_dict(), f"{self.folder}/{phase.name}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    sys.exit(main(["fit", "--config", str(Path(sys.argv[1]) / "config.yaml")]))
