"""A stranger's module with all that could leave a trace, and the diagnostics that look at it."""

from typing import Any

import torch
from task_helpers import Stranger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_aux.callbacks import FisherTrace, GradientCoherence, Sharpness

TASKS = ("a", "b")


def images(task: str, n: int = 36) -> tuple[Tensor, Tensor]:
    """Examples sorted by class, as they lie in folders."""
    generator = torch.Generator().manual_seed(ord(task))
    y = torch.randint(3, (n,), generator=generator).sort().values
    return torch.randn(n, 1, 4, 4, generator=generator) + 0.2 * y.view(-1, 1, 1, 1), y


def pictures(**splits: Any) -> dict[str, Any]:
    return {"train": {task: images(task) for task in TASKS}, **splits}


class Pictures(Stranger):
    """Convolution, batch normalization, dropout and shuffled batches of two tasks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(TASKS, **options)
        torch.manual_seed(0)
        parts = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2)]
        self.shared = nn.Sequential(*parts)
        self.heads = nn.ModuleDict({task: nn.Linear(16, 3) for task in TASKS})

    def train_dataloader(self) -> Any:
        self.order = torch.Generator().manual_seed(3)
        (xa, ya), (xb, yb) = (images(task) for task in TASKS)

        def collate(rows: Any) -> Any:
            xa, ya, xb, yb = map(torch.stack, zip(*rows, strict=True))
            return {"a": (xa, ya), "b": (xb, yb)}

        data = TensorDataset(xa, ya, xb, yb)
        return DataLoader(data, batch_size=12, shuffle=True, generator=self.order, collate_fn=collate)


def diagnostics(**options: Any) -> list[Any]:
    """Return one of each, small enough for tests."""
    given = {"data": pictures(), **options}
    return [
        Sharpness(5e-3, iterations=4, batch_size=8, **given),
        GradientCoherence(batch_size=5, **given),
        FisherTrace(batch_size=10, **given),
    ]
