"""Toy tasks, a toy network and a quiet Trainer, for many tests."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.modules import PretrainFinetuneModule

FEATURES = 6


class ToyTasks(Dataset[dict[str, tuple[Tensor, Tensor]]]):
    """Points of each task on the two sides of a plane; an item holds one point of every task."""

    def __init__(self, tasks: Sequence[str], n: int, seed: int, offset: int = 0) -> None:
        self.items = {}
        for task in tasks:
            generator = torch.Generator().manual_seed(1000 * seed + offset + sum(map(ord, task)))
            x = torch.randn(n, FEATURES, generator=generator)
            plane = torch.randn(
                FEATURES, generator=torch.Generator().manual_seed(7 * seed + sum(map(ord, task)))
            )
            self.items[task] = (x, (x @ plane > 0).long())
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, tuple[Tensor, Tensor]]:
        return {task: (x[i], y[i]) for task, (x, y) in self.items.items()}


class ToyData(LightningDataModule):
    """Tasks ``main`` and ``aux`` through shuffling DataLoaders, which draw from torch's global state."""

    def __init__(
        self, n: int = 24, seed: int = 0, tasks: Sequence[str] = ("main", "aux"), batch: int = 8
    ) -> None:
        super().__init__()
        self.n, self.seed, self.tasks, self.batch = n, seed, list(tasks), batch
        self.phase_tasks = self.tasks

    @property
    def num_classes(self) -> dict[str, int]:
        return dict.fromkeys(self.tasks, 2)

    def set_phase(self, tasks: Sequence[str], order: str = "interleaved") -> None:
        self.phase_tasks = list(tasks)

    def fingerprint(self, tasks: Sequence[str], order: str = "interleaved") -> str:
        return f"toy {sorted(tasks)} {self.n} {self.seed} {self.batch}"

    def _loader(self, offset: int, shuffle: bool) -> DataLoader[Any]:
        data = ToyTasks(self.phase_tasks, self.n, self.seed, offset)
        return DataLoader(data, batch_size=self.batch, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(0, True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1, False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(2, False)


TASKS = {"main": 2, "aux": 2}


def toy_backbone() -> nn.Module:
    """Return a small network with batch normalization and dropout, both of which a resume must get right."""
    parts = [nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 10)]
    backbone = nn.Sequential(*parts)
    backbone.num_features = 10  # type: ignore[assignment]
    return backbone


def toy_module(**kwargs: Any) -> PretrainFinetuneModule:
    """Return a module that pretrains for three epochs and finetunes for two, unless told otherwise."""
    options: dict[str, Any] = {
        "pretrain_settings": PhaseSettings(max_epochs=3),
        "finetune_settings": PhaseSettings(max_epochs=2),
    }
    return PretrainFinetuneModule(toy_backbone(), TASKS, **{**options, **kwargs})


def toy_trainer(root: Path, **kwargs: Any) -> PhaseTrainer:
    """Return a quiet PhaseTrainer on one CPU."""
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": str(root),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return PhaseTrainer(**{**options, **kwargs})


class Cut(Callback):
    """Ends the process, as it were, after a batch or an epoch, and leaves a checkpoint."""

    def __init__(self, path: Path, epoch: int, batch: int | None) -> None:
        self.path, self.epoch, self.batch = path, epoch, batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, idx: int) -> None:
        if (trainer.current_epoch, idx) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.batch is None and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that other processes do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
