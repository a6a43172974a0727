"""The same images and the same network for everybody: digits, and a ResNet-18."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_aux.data import DigitsDataModule
from lit_aux.models import TimmBackbone

Samples = tuple[Tensor, Tensor]


class Network(nn.Module):
    """A ResNet-18 with a linear readout for each task, as a user would write it.

    Args:
        classes: Number of classes of each task.
        weights: A file of the backbone's weights; those that the seed draws where there is none.
    """

    def __init__(self, classes: Mapping[str, int], weights: Path | None = None) -> None:
        super().__init__()
        self.backbone = TimmBackbone("resnet18").network
        if weights is not None:
            self.backbone.load_state_dict(torch.load(weights, weights_only=True))
        width = self.backbone.num_features
        self.readouts = nn.ModuleDict({task: nn.Linear(width, count) for task, count in classes.items()})

    def forward(self, x: Tensor, task: str = "main") -> Tensor:
        return self.readouts[task](self.backbone(x))  # type: ignore[no-any-return]


def write_weights(path: Path) -> Path:
    """Write a backbone's weights, the same ones whenever it is called."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Network({}).backbone.state_dict(), path)
    return path


def options(classes: Mapping[str, int], n: Mapping[str, int], n_val: int, batch_size: int) -> dict[str, Any]:
    """Return the options of ours for digits of 32 x 32 pixels."""
    return {
        "classes": dict(classes),
        "n": dict(n),
        "n_val": n_val,
        "batch_size": batch_size,
        "size": 32,
        "seed": 0,
    }


def tensors(given: Mapping[str, Any]) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Return each task's training and validation samples as the network takes them: the same as ours.

    Args:
        given: The options.
    """
    data = DigitsDataModule(**given)
    data.prepare_data()
    data.setup("fit")
    transform = data.view.transform()
    held = [
        {
            task: (transform(data.samples(split, task).images), data.samples(split, task).labels)
            for task in data.num_classes
        }
        for split in ("train", "val")
    ]
    return held[0], held[1]


def loader(samples: Samples, batch_size: int, shuffle: bool) -> DataLoader[Any]:
    """Return torch's loader of samples in memory."""
    return DataLoader(TensorDataset(*samples), batch_size=batch_size, shuffle=shuffle)
