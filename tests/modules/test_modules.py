"""Modules: what a step computes, what each phase trains, and what is logged."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy
from toys import FEATURES, ToyData, toy_trainer

from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import Phase, PhaseSettings


def backbone() -> nn.Module:
    """Return a small network without anything random in it."""
    net = nn.Sequential(nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    net.num_features = 10  # type: ignore[assignment]
    return net


def sgd(lr: float = 0.1) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Spy(Callback):
    """Keeps every step (batch, loss, learning rate, weights) and the weights at both ends of phases."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.start: dict[str, dict[str, Tensor]] = {}
        self.end: dict[str, dict[str, Tensor]] = {}
        self.optimizers: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start[pl_module.phase.name] = copied(pl_module)
        self.optimizers[pl_module.phase.name] = trainer.optimizers[0]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end[pl_module.phase.name] = copied(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        batch = {task: (x.clone(), y.clone()) for task, (x, y) in batch.items()}
        self.steps.append(
            {
                "phase": pl_module.phase.name,
                "epoch": trainer.current_epoch,
                "batch": batch,
                "lr": rate,
                "weights": copied(pl_module),
            }
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.steps[-1]["loss"] = float(outputs["loss"])

    def of(self, phase: str, key: str) -> list[Any]:
        return [step[key] for step in self.steps if step["phase"] == phase]


# The loss


def losses_by_hand(model: Any, step: dict[str, Any]) -> dict[str, float]:
    """Return each task's loss on a step's batch, in train mode, without the project's own forward."""
    twin = backbone()
    prefix = "net.backbone."
    twin.load_state_dict(
        {k.removeprefix(prefix): v for k, v in step["weights"].items() if k.startswith(prefix)}
    )
    features = twin(torch.cat([x for x, _ in step["batch"].values()]))  # one pass over the mixed batch
    weight, bias = step["weights"]["net.readout.weight"], step["weights"]["net.readout.bias"]
    found, row = {}, 0
    for task, (x, y) in step["batch"].items():
        rows = model.net.task_slices[task]
        logits = features[row : row + len(x)] @ weight[rows].T + bias[rows]
        found[task] = nn.functional.cross_entropy(logits, y).item()
        row += len(x)
    return found


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 0.5)])
def test_a_mixed_step_is_the_weighted_sum_of_its_tasks_or_their_mean(
    reduction: Literal["sum", "mean"], share: float, tmp_path: Path
) -> None:
    spy = Spy()
    model = MultiTaskModule(
        backbone(),
        {"main": 2, "aux": 2},
        task_weights={"aux": 0.3},
        reduction=reduction,
        settings=PhaseSettings(max_epochs=2, optimizer=sgd()),
    )
    trainer = toy_trainer(tmp_path, callbacks=[spy])
    trainer.fit(model, datamodule=ToyData())
    assert len(spy.steps) == 6
    means = dict.fromkeys(("main", "aux"), 0.0)
    for step in spy.steps:
        found = losses_by_hand(model, step)
        assert step["loss"] == pytest.approx(share * (found["main"] + 0.3 * found["aux"]), rel=1e-5)
        if step["epoch"] == 1:
            means = {task: mean + found[task] / 3 for task, mean in means.items()}
    for task, mean in means.items():  # logged are the losses themselves, without their weights
        assert trainer.phase_results[0].metrics[f"{task}/train_loss"] == pytest.approx(mean, rel=1e-5)


class UnevenData(LightningDataModule):
    """One task after another, in numbers of its own; says its sizes as the project's data modules do."""

    batch_size = 4

    def __init__(self, sizes: dict[str, int], seed: int = 0) -> None:
        super().__init__()
        self.sizes, self.order = sizes, ""
        generator = torch.Generator().manual_seed(seed)
        self.sets = {
            task: (torch.randn(n, FEATURES, generator=generator), torch.arange(n) % 2)
            for task, n in sizes.items()
        }

    def set_phase(self, tasks: list[str], order: str) -> None:
        self.order = order

    def train_size(self, task: str) -> int:
        return self.sizes[task]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            [
                {task: (x[start : start + 4], y[start : start + 4])}
                for task, (x, y) in self.sets.items()
                for start in range(0, len(x), 4)
            ],  # type: ignore[arg-type]
            batch_size=None,
        )


def test_the_published_schedule_balances_the_tasks(tmp_path: Path) -> None:
    spy = Spy()
    model = MultiTaskModule(
        backbone(),
        {"main": 2, "aux": 2},
        schedule="published",
        settings=PhaseSettings(max_epochs=1, optimizer=sgd()),
    )
    data = UnevenData({"main": 3, "aux": 10})
    toy_trainer(tmp_path, callbacks=[spy]).fit(model, datamodule=data)
    assert data.order == "sequential"
    assert [list(step["batch"]) for step in spy.steps] == [["main"], ["aux"], ["aux"], ["aux"]]
    # (n / min(n, batch)) / (n_aux / batch), with fractions of batches as published.
    weights = {"main": 1.0, "aux": (3 / 3) / (10 / 4)}
    for step in spy.steps:
        (task,) = step["batch"]
        assert step["loss"] == pytest.approx(weights[task] * losses_by_hand(model, step)[task], rel=1e-5)


def test_the_published_order_of_batches_of_real_data(tmp_path: Path) -> None:
    spy = Spy()
    model = MultiTaskModule(
        Features(64, 8),
        {"main": 2, "aux": 8},
        schedule="published",
        settings=PhaseSettings(max_epochs=2, optimizer=sgd()),
    )
    data = DigitsDataModule(n_main=20, n_aux=80, n_val=0, size=8, channels=1, batch_size=16, seed=0)
    toy_trainer(tmp_path, callbacks=[spy]).fit(model, datamodule=data)
    order = [next(iter(step["batch"])) for step in spy.steps]
    assert order == 2 * (2 * ["main"] + 5 * ["aux"])
    assert model._weights == {"main": 1.0, "aux": pytest.approx((20 / 16) / (80 / 16))}


class Features(nn.Module):
    """Flattens and projects."""

    def __init__(self, inputs: int, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.layer = nn.Linear(inputs, num_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("schedule", "waits_for_aux"), [("published", False), ("interleaved", True)])
def test_which_losses_end_multi_task_training(tmp_path: Path, schedule: Any, waits_for_aux: bool) -> None:
    seed_everything(0)
    model = MultiTaskModule(
        Features(64, 8),
        {"main": 2, "aux": 8},
        schedule=schedule,
        settings=PhaseSettings(max_epochs=200, optimizer=sgd(0.05), stop_at_training_loss=0.3),
    )
    data = DigitsDataModule(n_main=20, n_aux=40, n_val=0, n_test=8, size=8, channels=1, batch_size=16, seed=0)
    trainer = toy_trainer(tmp_path, test_after_phase=False)
    trainer.fit(model, datamodule=data)
    result = trainer.phase_results[0]
    assert 1 < result.epochs < 200
    assert "train_loss" in result.reason
    assert result.metrics["main/train_loss"] < 0.3
    assert (result.metrics["aux/train_loss"] < 0.3) == waits_for_aux


# Probes


def test_a_probe_leaves_the_backbone_alone_for_many_tasks(tmp_path: Path) -> None:
    tasks = ["one", "two", "three", "four"]
    spy = Spy()
    model = PretrainFinetuneModule(
        backbone(),
        dict.fromkeys(tasks, 2),
        pretrain_tasks=["three", "four"],
        finetune_tasks=["one", "two"],
        finetune="probe",
        pretrain_settings=PhaseSettings(max_epochs=2),
        finetune_settings=PhaseSettings(max_epochs=3, optimizer=sgd()),
    )
    trainer = toy_trainer(tmp_path, callbacks=[spy])
    trainer.fit(model, datamodule=ToyData(tasks=tasks))
    assert [result.tasks for result in trainer.phase_results] == [["three", "four"], ["one", "two"]]
    start, end = spy.start["probe"], spy.end["probe"]
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"net.readout.weight", "net.readout.bias"}
    mine = [*range(4)]  # the rows of one and two; those of absent tasks get no gradient
    weight = "net.readout.weight"
    assert not torch.equal(start[weight][mine], end[weight][mine])
    assert torch.equal(start[weight][4:], end[weight][4:])
    logged = trainer.phase_results[1].metrics
    assert {name for name in logged if name.endswith("accuracy")} == {
        f"{task}/{stage}_accuracy" for task in ("one", "two") for stage in ("train", "val", "test")
    }


def test_only_what_matches_a_pattern_trains(tmp_path: Path) -> None:
    spy = Spy()
    phase = Phase(name="part", tasks=["main"], trainable=["net.backbone.3.*"], max_epochs=1)
    model = SingleTaskModule(backbone(), {"main": 2}, phases=[phase])
    toy_trainer(tmp_path, callbacks=[spy]).fit(model, datamodule=ToyData(tasks=["main"]))
    start, end = spy.start["part"], spy.end["part"]
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"net.backbone.3.weight", "net.backbone.3.bias"}


# Batch normalization


class Convolutional(nn.Sequential):
    """A small ResNet-like stack with batch normalization at every depth."""

    num_features = 32

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 32)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def finetuned(folder: Path, reestimate: bool) -> tuple[SingleTaskModule, dict[str, float], Spy]:
    seed_everything(0)
    spy = Spy()
    model = SingleTaskModule(
        Convolutional(),
        {"main": 2},
        reestimate_batchnorm=reestimate,
        settings=PhaseSettings(max_epochs=15, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    )
    data = DigitsDataModule(
        classes={"main": [0, 1]}, n_main=30, n_val=0, size=8, channels=1, batch_size=30, seed=0
    )
    trainer = toy_trainer(folder, callbacks=[spy])
    trainer.fit(model, datamodule=data)
    return model, trainer.phase_results[0].metrics, spy


def test_reestimated_statistics_let_a_short_fit_test_as_it_trained(tmp_path: Path) -> None:
    model, metrics, spy = finetuned(tmp_path / "on", True)
    _, lagging, _ = finetuned(tmp_path / "off", False)
    assert len(spy.steps) == 15
    assert metrics["main/train_accuracy"] == lagging["main/train_accuracy"] > 0.9
    assert metrics["main/test_accuracy"] > 0.9
    assert lagging["main/test_loss"] > 2 * metrics["main/test_loss"]
    # The statistics are those of the training images: recompute them layer by layer.
    x = torch.cat([x for x, _ in (step["batch"]["main"] for step in spy.steps[-1:])])
    twin = Convolutional().train()
    twin.load_state_dict(model.net.backbone.state_dict())
    with torch.no_grad():
        for layer in twin:
            if isinstance(layer, nn.BatchNorm2d):
                torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
                x = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
            else:
                x = layer(x)


def test_without_reestimation_running_averages_are_those_of_the_steps(tmp_path: Path) -> None:
    model, _, spy = finetuned(tmp_path, False)
    mean = torch.zeros(16)
    for step in spy.steps:
        x = nn.functional.conv2d(
            step["batch"]["main"][0], step["weights"]["net.backbone.0.weight"], padding=1
        )
        mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
    torch.testing.assert_close(model.state_dict()["net.backbone.1.running_mean"], mean, rtol=1e-4, atol=1e-5)


# Optimizers and schedules


def test_each_phase_has_its_own_optimizer_and_schedule(tmp_path: Path) -> None:
    spy = Spy()
    model = PretrainFinetuneModule(
        backbone(),
        {"main": 2, "aux": 2},
        pretrain_settings=PhaseSettings(
            max_epochs=2,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.4, momentum=0.9),
            lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
            lr_interval="step",
        ),
        finetune_settings=PhaseSettings(max_epochs=2, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01)),
    )
    toy_trainer(tmp_path, callbacks=[spy]).fit(model, datamodule=ToyData())
    assert spy.of("pretrain", "lr") == pytest.approx([0.4 * 0.5**i for i in range(6)])
    assert spy.of("finetune", "lr") == [0.01] * 6
    assert isinstance(spy.optimizers["pretrain"], torch.optim.SGD)
    assert isinstance(spy.optimizers["finetune"], torch.optim.AdamW)


def test_a_plateau_of_a_monitored_measure_lowers_the_rate(tmp_path: Path) -> None:
    spy = Spy()
    model = SingleTaskModule(
        backbone(),
        {"main": 2},
        settings=PhaseSettings(
            max_epochs=3,
            optimizer=sgd(0.2),
            lr_scheduler=lambda o: ReduceLROnPlateau(
                o,
                monitor="train/main/train_loss",
                patience=0,
                threshold=1e6,
                threshold_mode="abs",
                factor=0.1,
            ),
        ),
    )
    toy_trainer(tmp_path, callbacks=[spy]).fit(model, datamodule=ToyData(tasks=["main"]))
    by_epoch = [next(s["lr"] for s in spy.steps if s["epoch"] == epoch) for epoch in range(3)]
    assert by_epoch == pytest.approx([0.2, 0.2, 0.02])


# Losses, metrics, names


class Regression(ToyData):
    """The task ``height`` has a real target, ``main`` a class."""

    def _loader(self, offset: int, shuffle: bool) -> DataLoader[Any]:
        loader = super()._loader(offset, shuffle)
        items: Any = loader.dataset
        x, y = items.items["height"]
        items.items["height"] = (x, x[:, :1] * 2 + y[:, None])
        return loader


def test_losses_and_metrics_by_task(tmp_path: Path) -> None:
    model = MultiTaskModule(
        backbone(),
        {"height": 1, "depth": 1},
        losses={"height": nn.MSELoss(), "depth": nn.L1Loss()},
        metrics={"mse": MeanSquaredError()},
        settings=PhaseSettings(max_epochs=2, optimizer=sgd(0.01)),
    )

    class Both(Regression):
        def _loader(self, offset: int, shuffle: bool) -> DataLoader[Any]:
            loader = super()._loader(offset, shuffle)
            items: Any = loader.dataset
            x, _ = items.items["depth"]
            items.items["depth"] = (x, x[:, 1:2])
            return loader

    data = Both(tasks=["height", "depth"])
    trainer = toy_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    metrics = trainer.phase_results[0].metrics
    model.eval()
    items: Any = data.test_dataloader().dataset
    for task, norm in (("height", 2), ("depth", 1)):
        x, y = items.items[task]
        error = (model(x, task) - y).detach()
        assert metrics[f"{task}/test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert metrics[f"{task}/test_loss"] == pytest.approx(float(error.abs().pow(norm).mean()), rel=1e-5)
    assert metrics["height/test_loss"] == pytest.approx(metrics["height/test_mse"], rel=1e-6)


def test_losses_for_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="losses"):
        SingleTaskModule(backbone(), {"main": 2}, losses={"other": nn.MSELoss()})


def test_tasks_may_have_awkward_names(tmp_path: Path) -> None:
    tasks = ["train", "keys", "loss", "val", "type", "training"]
    model = MultiTaskModule(backbone(), dict.fromkeys(tasks, 2), settings=PhaseSettings(max_epochs=1))
    trainer = toy_trainer(tmp_path)
    trainer.fit(model, datamodule=ToyData(tasks=tasks))
    assert {f"{task}/test_accuracy" for task in tasks} <= set(trainer.phase_results[0].metrics)


def test_metrics_are_copied_for_each_task(tmp_path: Path) -> None:
    given = MulticlassAccuracy(2, average="macro")
    model = MultiTaskModule(
        backbone(), {"main": 2, "aux": 2}, metrics={"macro": given}, settings=PhaseSettings(max_epochs=1)
    )
    trainer = toy_trainer(tmp_path)
    trainer.fit(model, datamodule=ToyData())
    assert not given.update_called
    assert {"main/test_macro", "aux/val_macro"} <= set(trainer.phase_results[0].metrics)


# Prediction, precision, compilation


def test_predictions_are_logits(tmp_path: Path) -> None:
    model = MultiTaskModule(backbone(), {"main": 2, "aux": 2}, settings=PhaseSettings(max_epochs=1))
    data = ToyData()
    trainer = toy_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    found: Any = trainer.predict(model, data.test_dataloader())
    x, _ = data.test_dataloader().dataset.items["aux"]  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([batch["aux"] for batch in found]), model.eval()(x, "aux"))
    bare: Any = trainer.predict(model, DataLoader(x, batch_size=24))
    assert set(bare[0]) == {"main", "aux"}


def test_bfloat16_on_the_cpu(tmp_path: Path) -> None:
    spy = Spy()
    model = SingleTaskModule(backbone(), {"main": 2}, settings=PhaseSettings(max_epochs=4, optimizer=sgd()))
    trainer = toy_trainer(tmp_path, callbacks=[spy], precision="bf16-mixed")
    trainer.fit(model, datamodule=ToyData(tasks=["main"]))
    losses = spy.of("train", "loss")
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(v.dtype == torch.float32 for v in model.state_dict().values() if v.is_floating_point())


def test_a_compiled_network_trains_as_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = nn.Module.compile

    def eager(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        calls.append(self)
        original(self, *args, backend="eager", **kwargs)

    monkeypatch.setattr(nn.Module, "compile", eager)
    ends = []
    for compiled in (False, True):
        seed_everything(0)
        model = SingleTaskModule(
            backbone(),
            {"main": 2},
            compile=compiled,
            settings=PhaseSettings(max_epochs=2, optimizer=sgd()),
        )
        toy_trainer(tmp_path / str(compiled)).fit(model, datamodule=ToyData(tasks=["main"]))
        ends.append(copied(model))
    assert len(calls) == 1
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-6)
