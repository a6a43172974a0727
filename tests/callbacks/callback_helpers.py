"""Somebody else's project: a plain network, plain loaders, a plain LightningModule."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Foreign(pl.LightningModule):
    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = net or network()
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def network() -> nn.Module:
    """Convolution, batch normalization, an in-place activation, dropout, a readout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 3),
    )


def images(n: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(n, 1, 4, 4, generator=generator), torch.randint(3, (n,), generator=generator)
    )


def train_loader(n: int = 24, batch_size: int = 6) -> DataLoader:
    return DataLoader(images(n), batch_size=batch_size, shuffle=True)


def val_loader(n: int = 20) -> DataLoader:
    return DataLoader(images(n, seed=1), batch_size=8)


def trainer(tmp_path: Any, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "default_root_dir": str(tmp_path),
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))
