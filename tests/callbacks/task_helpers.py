"""Somebody else's module that trains several tasks, with the protocol that callbacks ask for."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

TASKS = ("a", "b", "c")


def examples(task: str, n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(ord(task))
    x = torch.randn(n, 5, generator=generator)
    return x, (x @ torch.randn(5, generator=generator) > 0).long()


class Stranger(pl.LightningModule):
    """Somebody else's module with the protocol: a shared layer and a head for each task."""

    def __init__(self, tasks: tuple[str, ...] = TASKS, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(7, 2) for task in tasks})
        self.names, self.options = tasks, {"lr": 0.1, **options}

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        return self.heads[task](self.shared(x))

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, y)

    def readout_parameters(self) -> Any:
        return self.heads.parameters()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(self.task_loss(t, self.task_outputs(t, x), y) for t, (x, y) in batch.items())

    def train_dataloader(self) -> Any:
        parts = [slice(8 * i, 8 * i + 8) for i in range(5)]
        batches = [{t: [half[part] for half in examples(t)] for t in self.names} for part in parts]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), **self.options)


def data(tasks: tuple[str, ...] = TASKS) -> dict[str, Any]:
    return {"train": {task: examples(task) for task in tasks}}
