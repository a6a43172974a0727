"""Every way to combine tasks, every optimizer of torch, and losses of every kind, two steps on a device."""

from collections.abc import Callable
from inspect import isabstract, isclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from device_runs import FakeAccelerator, unfused
from fake_device import NAME, MixedDevicesError, back, fake_device
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_aux.modules import MultiTaskModule
from lit_aux.modules.methods.lookup import WEIGHTINGS
from lit_aux.phases import PhaseSettings

TASKS = {"a": 3, "b": 3}


class Batches(pl.LightningDataModule):
    """Two batches of two tasks that want opposite things."""

    def __init__(self, targets: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.targets = targets

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
        served = [{"a": (one, self.targets(one)), "b": (one.clone(), self.targets(-one))} for one in x]
        return DataLoader(served, batch_size=None)  # type: ignore[arg-type]


def classes(x: Tensor) -> Tensor:
    return (x[:, :3]).argmax(1)


def trained(root: Path, on_device: bool, targets: Callable[[Tensor], Tensor], options: Any) -> Any:
    """Return the weights after two steps; ``options`` builds a module's options."""
    pl.seed_everything(0, verbose=False)
    backbone = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh())
    backbone.num_features = 3  # type: ignore[assignment]
    given = {"settings": PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), **options()}
    module = MultiTaskModule(backbone, TASKS, metrics={}, reestimate_batchnorm=False, **given)
    where: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
    if on_device:
        where = {"strategy": SingleDeviceStrategy(f"{NAME}:0", accelerator=FakeAccelerator())}
    trainer = pl.Trainer(
        **where,
        max_epochs=1,
        default_root_dir=str(root),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Batches(targets))
    return back(dict(module.state_dict()))


def same(root: Path, options: Callable[[], Any], targets: Callable[[Tensor], Tensor] = classes) -> None:
    with unfused():
        expected = trained(root, False, targets, options)
    with unfused(), fake_device() as noted:
        found = trained(root, True, targets, options)
        assert noted.operations
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def named(room: str, kind: str) -> list[str]:
    """Return the names of TorchJD's classes of a kind, none where it is not installed."""
    try:
        module = __import__(f"torchjd.{room}", fromlist=[kind])
    except ImportError:
        return []
    base = getattr(module, kind)
    found = {n: c for n, c in vars(module).items() if isclass(c) and issubclass(c, base)}
    return [n for n, c in found.items() if not isabstract(c) and not c.__module__.endswith("_bases")]


ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "CAGrad": lambda: {"c": 0.5},
    "FairGrad": lambda: {"alpha": 1.0},
    "Krum": lambda: {"n_byzantine": 0, "n_selected": 1},
    "NashMTL": lambda: {"n_tasks": 2},
    "TrimmedMean": lambda: {"trim_number": 0},
    "Constant": lambda: {"weights": torch.tensor([0.3, 0.7])},
    "COSMOS": lambda: {"lambda_": 1.0, "weights": torch.tensor([0.3, 0.7])},
    "PBI": lambda: {"theta": 1.0, "weights": torch.tensor([0.3, 0.7])},
    "STCH": lambda: {"mu": 1.0},
    "FAMO": lambda: {"shape": 2},
    "IMTLL": lambda: {"shape": 2},
    "UW": lambda: {"shape": 2},
}
"""Of classes that cannot be built by their name alone."""


def by_name(root: Path, option: str, room: str, name: str) -> None:
    """Train with one of TorchJD's; skip what misses a package, or does not train on the CPU."""

    def options() -> dict[str, Any]:
        given = ARGUMENTS.get(name, dict)()
        if not given:
            return {option: name}
        module = __import__(f"torchjd.{room}", fromlist=[name])
        return {option: getattr(module, name)(**given)}

    try:
        trained(root, False, classes, options)
    except Exception as error:
        pytest.skip(f"{name} does not train on the CPU: {error}")
    same(root, options)


@pytest.mark.parametrize("name", named("aggregation", "Aggregator"))
def test_aggregators(name: str, tmp_path: Path) -> None:
    by_name(tmp_path, "aggregator", "aggregation", name)


@pytest.mark.parametrize("name", [*WEIGHTINGS, *named("scalarization", "Scalarizer")])
def test_weightings(name: str, tmp_path: Path) -> None:
    by_name(tmp_path, "weighting", "scalarization", name)


OPTIMIZERS = [
    name
    for name, kind in vars(torch.optim).items()
    if isclass(kind) and name not in ("Optimizer", "SparseAdam", "LBFGS")
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, tmp_path: Path) -> None:
    kind: Any = getattr(torch.optim, name)

    def options() -> dict[str, Any]:
        def build(parameters: Any) -> Any:
            # of tensors of at least two dimensions only, as Muon wants them
            return kind([p for p in parameters if p.ndim > 1] if name == "Muon" else parameters, lr=0.01)

        return {"settings": PhaseSettings(optimizer=build)}

    same(tmp_path, options)


LOSSES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "weighted classes": (lambda: nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0])), classes),
    "missing classes": (
        nn.CrossEntropyLoss,
        lambda x: classes(x).where(x[:, 0] > 0, torch.tensor(-100)),
    ),
    "weighted labels": (
        lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])),
        lambda x: (x[:, :3] > 0).float(),
    ),
    "numbers": (nn.MSELoss, lambda x: x[:, :3]),
    "missing numbers": (nn.SmoothL1Loss, lambda x: x[:, :3].where(x[:, :3] > -0.5, torch.tensor(torch.nan))),
    "a sum": (lambda: nn.L1Loss(reduction="sum"), lambda x: x[:, :3]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, tmp_path: Path) -> None:
    build, targets = LOSSES[name]
    same(tmp_path, lambda: {"losses": {task: build() for task in TASKS}}, targets)


def test_a_method_that_remembers_on_the_cpu_is_caught(tmp_path: Path) -> None:
    """A loss whose numbers stay where they were made."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.ones(3)  # no buffer

        def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs + self.shift, y)

    with pytest.raises(RuntimeError) as caught:
        same(tmp_path, lambda: {"losses": {task: Shifted() for task in TASKS}})
    error: BaseException | None = caught.value  # or what fails when the Trainer cleans up after it
    while error is not None and not isinstance(error, MixedDevicesError):
        error = error.__context__
    assert error is not None
