"""Small multi-task runs whose steps can be computed by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from lit_aux.modules import MultiTaskModule
from lit_aux.phases import PhaseSettings

FEATURES = 6
TASKS = {"a": 2, "b": 3, "c": 2}
Batch = dict[str, tuple[Tensor, Tensor]]


def backbone(norm: bool = False) -> nn.Module:
    """Return a small network; with batch normalization, tasks of one step depend on each other."""
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
    net = nn.Sequential(nn.Linear(FEATURES, 8), *middle, nn.Tanh(), nn.Linear(8, 5))
    net.num_features = 5  # type: ignore[assignment]
    return net


def batches(number: int, size: int = 8, tasks: dict[str, int] = TASKS, seed: int = 0) -> list[Batch]:
    """Return batches of every task; the tasks have the same inputs and conflicting labels."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        x = torch.randn(size, FEATURES, generator=generator)
        found.append(
            {
                task: (x.clone(), ((x[:, 0] > 0).long() + place) % outputs)
                for place, (task, outputs) in enumerate(tasks.items())
            }
        )
    return found


class Batches(pl.LightningDataModule):
    """Serves given batches in their order; of several processes each takes its part of every batch."""

    def __init__(self, served: Sequence[Batch], workers: int = 1) -> None:
        super().__init__()
        self.served, self.workers = list(served), workers

    def train_dataloader(self) -> DataLoader[Any]:
        rank = self.trainer.global_rank if self.trainer is not None else 0
        parts = [
            {task: (x[rank :: self.workers], y[rank :: self.workers]) for task, (x, y) in batch.items()}
            for batch in self.served
        ]
        return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def module_of(tasks: dict[str, int] = TASKS, norm: bool = False, lr: float = 1.0, **options: Any) -> Any:
    """Return a module with the same weights every time, trained by plain gradient descent."""
    torch.manual_seed(0)
    options.setdefault("settings", PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=lr)))
    options.setdefault("metrics", {})  # accuracies take most of the time of such small steps
    module = MultiTaskModule(backbone(norm), tasks, reestimate_batchnorm=False, **options)
    with torch.no_grad():  # the same readout and other labels: the tasks' gradients conflict
        for rows in module.net.task_slices.values():
            module.net.readout.weight[rows][:2] = module.net.readout.weight[:2]
    return module


def trainer_of(folder: Path | str, epochs: int = 1, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }
    return pl.Trainer(**(defaults | options))


def train(module: Any, served: Sequence[Batch], folder: Path | str, **options: Any) -> dict[str, Tensor]:
    """Train for one epoch; return how far each parameter has gone, against the direction of its gradient."""
    before = {name: value.detach().clone().double() for name, value in module.named_parameters()}
    trainer_of(folder, **options).fit(module, datamodule=Batches(served))
    return {name: before[name] - value.detach().double() for name, value in module.named_parameters()}


def gradients_by_hand(module: Any, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """Return each task's gradient of the network's parameters, from a forward pass of its own, in float64."""
    module = module.double()
    weights = {name: p.detach().clone().requires_grad_() for name, p in module.net.named_parameters()}
    found = {}
    for task in batch:
        features = functional_call(  # one pass over the mixed batch
            module.net.backbone,
            {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")},
            torch.cat([x.double() for x, _ in batch.values()]),
        )
        sizes = [len(x) for x, _ in batch.values()]
        part = dict(zip(batch, features.split(sizes), strict=True))[task]
        rows = module.net.task_slices[task]
        logits = part @ weights["readout.weight"][rows].T + weights["readout.bias"][rows]
        loss = nn.functional.cross_entropy(logits, batch[task][1])
        found[task] = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    return found


def matrix_of(gradients: dict[str, dict[str, Tensor]]) -> Tensor:
    """Return the tasks' gradients of the backbone as the rows of a matrix."""
    return torch.stack(
        [
            torch.cat([g.flatten() for name, g in found.items() if name.startswith("backbone.")])
            for found in gradients.values()
        ]
    )


def expected_step(
    gradients: dict[str, dict[str, Tensor]], aggregate: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return a step of length 1: the aggregate for the backbone, each task's own rows for the readout."""
    vector = aggregate(matrix_of(gradients))
    names = list(next(iter(gradients.values())))
    step, offset = {}, 0
    for name in names:
        parts = [found[name] for found in gradients.values()]
        if name.startswith("backbone."):
            size = parts[0].numel()
            step[f"net.{name}"] = vector[offset : offset + size].view_as(parts[0])
            offset += size
        else:
            step[f"net.{name}"] = torch.stack(parts).sum(0)
    return step


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-12}
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value.double(), **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
