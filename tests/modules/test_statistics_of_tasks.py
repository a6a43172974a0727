"""Statistics of batch normalization where tasks differ: in the size of their images, or in when they come."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import toy_trainer

from lit_aux.callbacks import WeightRescaling
from lit_aux.callbacks._task_model import undisturbed
from lit_aux.modules import MultiTaskModule
from lit_aux.modules.deep_training import of_all_tasks
from lit_aux.phases import PhaseSettings

SIZES = {"small": (8, 0.0), "large": (12, 5.0)}


def images(task: str, n: int = 24) -> tuple[Tensor, Tensor]:
    """Images whose brightness tells their class, around another mean in each task."""
    size, mean = SIZES[task]
    generator = torch.Generator().manual_seed(size)
    y = torch.arange(n) % 2
    return mean + 2.0 * (y - 0.5)[:, None, None, None] + torch.randn(n, 1, size, size, generator=generator), y


class Images(pl.LightningDataModule):
    """Both tasks, a batch of each a step."""

    num_classes = {"small": 2, "large": 2}

    def train_dataloader(self) -> Any:
        items = {task: images(task) for task in SIZES}
        steps = [
            {task: (x[k : k + 8], y[k : k + 8]) for task, (x, y) in items.items()} for k in range(0, 24, 8)
        ]
        return DataLoader(steps, batch_size=None)  # type: ignore[arg-type]

    test_dataloader = train_dataloader


class Net(nn.Sequential):
    num_features = 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        parts = [nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def by_image(tasks: Any = SIZES) -> tuple[float, float]:
    """Mean and variance of the first layer's inputs, each image counting alike."""
    found = [images(task)[0].double() for task in tasks]
    mean = sum(x.mean() for x in found) / len(found)
    variance = sum((x - mean).square().mean() for x in found) / len(found)
    values = sum(x.numel() for x in found)
    return float(mean), float(variance * values / (values - 1))


def test_tasks_whose_images_differ_in_size_count_alike(tmp_path: Path) -> None:
    settings = PhaseSettings(max_epochs=20, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    module = MultiTaskModule(Net(), {"small": 2, "large": 2}, settings=settings)
    fit = toy_trainer(tmp_path)
    fit.fit(module, datamodule=Images())
    mean, variance = by_image()
    first = module.net.backbone[0]
    assert mean == pytest.approx(2.5, abs=0.1)
    assert first.running_mean.item() == pytest.approx(mean, rel=1e-5)
    assert first.running_var.item() == pytest.approx(variance, rel=1e-5)


def test_the_number_of_samples_is_shared_by_tasks_that_come_one_after_another() -> None:
    def batch(**sizes: int) -> dict[str, Any]:
        return {task: (torch.zeros(n, 1), torch.zeros(n)) for task, n in sizes.items()}

    def used(batches: Any, tasks: Any, samples: int) -> list[dict[str, int]]:
        return [{t: len(x) for t, (x, _) in b.items()} for b in of_all_tasks(batches, tasks, samples)]

    one_by_one = [*[batch(a=4)] * 5, *[batch(b=4)] * 5]
    assert used(one_by_one, ["a", "b"], 16)[:4] == [{"a": 4}, {"a": 4}, {"b": 4}, {"b": 4}]
    short = [batch(a=2), *[batch(b=4)] * 5]
    assert used(short, ["a", "b"], 16) == [{"a": 2}, *[{"b": 4}] * 5]
    together = [batch(a=2, b=8)] * 5
    assert used(together, ["a", "b"], 16) == [{"a": 2, "b": 8}] * 5
    exhausted = [{}, {"a": None, **batch(b=4)}]
    assert list(of_all_tasks(exhausted, ["a", "b"], 4)) == exhausted


class OfTasks(pl.LightningModule):
    """Somebody else's module whose batches are ``{task: (x, y)}``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Net(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(
            nn.functional.cross_entropy(self(x), y)
            for x, y in (pair for pair in batch.values() if pair is not None)
        )


@pytest.mark.parametrize("absent", [False, True])
def test_rescaling_sees_all_tasks(tmp_path: Path, absent: bool) -> None:
    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.found = {n: b.clone() for n, b in pl_module.named_buffers()}

    module, watch = OfTasks(), Watch()
    loader = [{"small": images("small"), "large": images("large")}]
    if absent:  # as combined loaders do where one is exhausted
        loader = [{"small": images("small"), "large": None}, {"small": None, "large": images("large")}]
    callback = WeightRescaling(0.5, reestimate_batchnorm=True)
    fit = toy_trainer(tmp_path, callbacks=[callback, watch], max_epochs=1)
    fit.fit(module, DataLoader(loader, batch_size=None))  # type: ignore[arg-type]
    mean, variance = by_image()
    assert watch.found["net.0.0.running_mean"].item() == pytest.approx(mean, rel=1e-5)
    assert watch.found["net.0.0.running_var"].item() == pytest.approx(variance, rel=1e-5)


class OwnNorms(pl.LightningModule):
    """A layer of batch normalization for both tasks, and one of each task's own."""

    reestimate_batchnorm = True
    batchnorm_samples = 10

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both = nn.BatchNorm1d(3)
        self.own = nn.ModuleDict({task: nn.BatchNorm1d(3, affine=False) for task in "ab"})
        self.readout = nn.Linear(3, 2)

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        return self.readout(self.own[task](self.both(x)))

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(self.task_loss(t, self.task_outputs(t, x), y) for t, (x, y) in batch.items())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_diagnostics_see_every_task_in_layers_of_its_own(tmp_path: Path) -> None:
    probe = {
        "a": (torch.randn(30, 3), torch.zeros(30).long()),
        "b": (torch.randn(20, 3) * 3 + 7, torch.zeros(20).long()),
    }
    found: dict[str, Tensor] = {}

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with undisturbed(trainer, pl_module, pl_module, probe):
                found.update({name: buffer.clone() for name, buffer in pl_module.named_buffers()})

    module = OwnNorms()
    fit = toy_trainer(tmp_path, callbacks=[Look()], max_epochs=1)
    fit.fit(module, DataLoader([probe], batch_size=None))  # type: ignore[arg-type]
    everything = torch.cat([x for x, _ in probe.values()])
    torch.testing.assert_close(found["both.running_mean"], everything.mean(0))
    torch.testing.assert_close(found["both.running_var"], everything.var(0))
    for task, (x, _) in probe.items():
        normal = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[f"own.{task}.running_mean"], normal.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(found[f"own.{task}.running_var"], normal.var(0))
