"""Small students of several replicas in a plain LightningModule, and data that know their teachers."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

INPUTS, UNITS = 5, 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ReLUStudents(nn.Module):
    """Replicas of one-hidden-layer networks; dropout, so that training depends on the random state."""

    def __init__(self, replicas: int = 2, tasks: dict[str, int] | None = None) -> None:
        super().__init__()
        tasks = tasks or {"main": 1}
        ends = np.cumsum([0, *tasks.values()]).tolist()
        self.task_slices = {task: slice(ends[i], ends[i + 1]) for i, task in enumerate(tasks)}
        self.first = nn.ParameterDict({"weight": draw(replicas, UNITS, INPUTS)})
        self.readout = nn.ParameterDict({"weight": draw(replicas, ends[-1], UNITS, seed=1)})

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(torch.einsum("ni,rhi->rnh", x, self.first["weight"]).relu(), 0.2)
        return torch.einsum("rnh,roh->rno", hidden, self.readout["weight"])


class LinearStudents(nn.Module):
    """Replicas of linear networks, given by their coefficients."""

    def __init__(self, replicas: int = 2, tasks: tuple[str, ...] = ("main",)) -> None:
        super().__init__()
        self.beta = nn.Parameter(draw(replicas, len(tasks), INPUTS))
        self.names = list(tasks)

    def coefficients(self, task: str | None = None) -> Tensor:
        return self.beta if task is None else self.beta[:, self.names.index(task)].unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,roi->rno", x, self.beta)


class Students(pl.LightningModule):
    """Trains every replica on the same data; ``phase`` stands for what a house module knows of its phase."""

    def __init__(self, net: nn.Module, phase: str = "", tasks: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.net = net
        if phase:
            self.log_prefix = f"{phase}/"
            self.phase = SimpleNamespace(name=phase, tasks=list(tasks))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return (self.net(x) - y).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@dataclass(frozen=True)
class Teacher:
    directions: Tensor
    readout: Tensor


class Data(pl.LightningDataModule):
    """Draws its batches from torch's global random state."""

    tasks = ["aux", "main"]

    def __init__(self, teachers: dict[tuple[int, str], Any] | None = None) -> None:
        super().__init__()
        self.teachers = teachers or {}

    def teacher(self, replica: int, task: str) -> Any:
        return self.teachers[replica, task]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(draw(24, INPUTS, seed=2), draw(24, 1, seed=3)), batch_size=8, shuffle=True
        )


def trained(make: Any, data: Any, *callbacks: pl.Callback) -> dict[str, Tensor]:
    """Fit two epochs from a fixed seed; return the weights and the random states afterwards."""
    pl.seed_everything(5, verbose=False)
    module = make()
    pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    ).fit(module, datamodule=data)
    numpy_state = torch.as_tensor(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return {**state, "torch": torch.get_rng_state(), "numpy": numpy_state}
