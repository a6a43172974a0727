"""What trains at which epoch of a phase, and that nothing else moves; resumes, two processes, mistakes."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from process_helpers import together
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from toys import TASKS, Cut, ToyData, toy_backbone, toy_module, toy_trainer
from two_process_unfreezing_script import EPOCHS, RUNS, UNFREEZE, Watch, run

from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet, TimmBackbone
from lit_aux.modules import SingleTaskModule
from lit_aux.phases import Phase, PhaseSettings

READOUT = {"net.readout.weight", "net.readout.bias"}
FIRST = {"net.backbone.0.weight", "net.backbone.0.bias", "net.backbone.1.weight", "net.backbone.1.bias"}
LAST = {"net.backbone.4.weight", "net.backbone.4.bias"}
PLAN = [READOUT, READOUT | LAST, READOUT | LAST, READOUT | LAST | FIRST]
SIZES = {"plain": [2, 4, 4, 6], "PCGrad": [2, 4, 4, 6], "uncertainty": [3, 5, 5, 7], "backbone": [2, 6, 6, 6]}
SIZES["balanced"] = [6] * 4
OPTIMIZERS = {
    "AdamW": partial(AdamW, lr=1e-2, weight_decay=0.5),
    "SGD": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
}


def stepping(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)


def fit(
    root: Path,
    *callbacks: Callback,
    optimizer: str = "AdamW",
    ckpt_path: Path | None = None,
    own: list[Callback] | None = None,
    **options: Any,
) -> tuple[dict[str, Tensor], Any]:
    """Return the weights after a fit, and its Trainer."""
    seed_everything(5)
    phase = {"unfreeze": UNFREEZE, "max_epochs": EPOCHS, "lr_scheduler": stepping} | options
    only = Phase(name="train", tasks=["main"], optimizer=OPTIMIZERS[optimizer], callbacks=own or [], **phase)
    module = SingleTaskModule(toy_backbone(), TASKS, phases=[only])
    trainer = toy_trainer(root, callbacks=[*callbacks], check_val_every_n_epoch=2)
    trainer.fit(module, datamodule=ToyData(), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return {name: value.clone() for name, value in module.state_dict().items()}, trainer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_trains_at_which_epoch(tmp_path: Path, optimizer: str) -> None:
    watch = Watch()
    fit(tmp_path, watch, optimizer=optimizer)
    assert watch.training == PLAN
    assert watch.moved == PLAN  # parameters and their states in the optimizer, weight decay among what moves
    assert watch.stated == PLAN
    trains = [[name for name, mode in modes.items() if mode] for modes in watch.modes]
    assert trains[0] == ["net.readout"]
    assert trains[1] == ["net.backbone.4", "net.readout"]
    assert trains[3] == ["net.backbone.0", "net.backbone.1", "net.backbone.4", "net.readout"]
    assert [sorted(one) for one in watch.statistics] == [[], [], [], ["net.backbone.1"]]


def test_frozen_weights_are_those_of_the_start_and_decay_like_torchs_own_once_they_train(
    tmp_path: Path,
) -> None:
    """Against plain torch: the same optimizer, to which each epoch's parameters come with their gradients."""
    seed_everything(5)
    data, net = ToyData(), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 10))
    plan = {0: ["net.readout.*"], 1: ["net.backbone.2.*"], 2: ["*"]}
    phase = Phase(name="train", tasks=["main"], optimizer=OPTIMIZERS["SGD"], unfreeze=plan, max_epochs=3)
    module = SingleTaskModule(net, TASKS, phases=[phase], num_features=10)
    start = {name: value.clone() for name, value in module.named_parameters()}
    batches: list[tuple[int, Tensor, Tensor]] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batches.append((trainer.current_epoch, *batch["main"]))

    toy_trainer(tmp_path, callbacks=[Note()]).fit(module, datamodule=data)
    values = {name: value.clone() for name, value in start.items()}
    momentum: dict[str, Tensor] = {}
    for epoch, x, y in batches:
        for value in values.values():
            value.requires_grad_(True)
        hidden = torch.tanh(x @ values["net.backbone.0.weight"].T + values["net.backbone.0.bias"])
        features = hidden @ values["net.backbone.2.weight"].T + values["net.backbone.2.bias"]
        outputs = features @ values["net.readout.weight"].T + values["net.readout.bias"]
        loss = nn.functional.cross_entropy(outputs[:, :2], y)
        gradients = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
        for name, value in values.items():
            value = value.detach()
            if epoch >= (0 if "readout" in name else 1 if ".2." in name else 2):
                gradient = gradients[name] + 0.1 * value
                momentum[name] = 0.9 * momentum.get(name, gradient / 0.9 * 0) + gradient
                value = value - 0.1 * momentum[name]
            values[name] = value
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, values[name], rtol=1e-5, atol=1e-6, msg=name)


def test_everything_from_the_beginning_is_as_without(tmp_path: Path) -> None:
    plain, _ = fit(tmp_path / "plain", unfreeze=None)
    all_at_once, _ = fit(tmp_path / "once", unfreeze={0: ["*"]})
    assert all(torch.equal(value, plain[name]) for name, value in all_at_once.items())


class OwnData(ToyData):
    """Loaders that go on in the middle of an epoch."""

    def train_dataloader(self) -> Any:
        from lit_aux.data import InMemoryLoader, MultiTaskLoader

        x, y = super().train_dataloader().dataset.items["main"]  # type: ignore[attr-defined]
        loader = InMemoryLoader(x, y, training=True, batch_size=8, seed=1)
        return MultiTaskLoader({"main": loader})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 0), (2, None), (3, 0), (3, None)])
def test_a_run_goes_on_in_the_middle_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int | None, optimizer: str
) -> None:
    monkeypatch.setitem(globals(), "ToyData", OwnData)
    whole, trainer = fit(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Cut(tmp_path / "cut.ckpt", epoch, batch), optimizer=optimizer)
    watch = Watch()
    again, other = fit(tmp_path / "again", watch, ckpt_path=tmp_path / "cut.ckpt", optimizer=optimizer)
    assert watch.training == PLAN[epoch + (batch is None) :]
    for name, value in whole.items():
        if "running" in name and (epoch, batch) == (3, None):
            # estimated once more at the end, from batches in another order
            torch.testing.assert_close(value, again[name], rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value, again[name]), name
    measured = [
        # training measures are of the batches since a run went on
        {n: v for n, v in one.phase_results[0].metrics.items() if batch is None or "/train_" not in n}
        for one in (trainer, other)
    ]
    assert measured[0] == measured[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what two processes wrote, whole and gone on with in the middle."""
    folder = tmp_path_factory.mktemp("two")
    together(Path(__file__).with_name("two_process_unfreezing_script.py"), folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(two: Path, tmp_path: Path, name: str) -> None:
    one = run(name, tmp_path, 1)
    again = run(name, tmp_path, 1, tmp_path / f"{name}-1.ckpt")
    first, second, *resumed = (
        torch.load(two / f"{name}-{rank}.pt", weights_only=False) for rank in ("0", "1", "again-0", "again-1")
    )
    assert first["training"] == second["training"] == one["training"]
    assert [len(names) for names in one["training"]] == SIZES[name]
    assert {len(each["training"]) for each in (again, *resumed)} == {2}
    for parameter, value in one["weights"].items():
        assert torch.equal(first["weights"][parameter], second["weights"][parameter])
        torch.testing.assert_close(first["weights"][parameter], value, rtol=1e-9, atol=1e-12)
        assert torch.equal(again["weights"][parameter], value), parameter
        for each in resumed:
            assert torch.equal(each["weights"][parameter], first["weights"][parameter]), parameter


class Dropped(BackboneFinetuning):
    """Unfreezes at epoch 1, normalization as well."""

    def __init__(self, train_bn: bool) -> None:
        super().__init__(1, lambda _: 1.5, backbone_initial_lr=0.05, train_bn=train_bn)


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (2, 0), (1, None)])
def test_backbone_finetuning_of_lightning_in_a_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int | None, train_bn: bool
) -> None:
    monkeypatch.setitem(globals(), "ToyData", OwnData)
    options: dict[str, Any] = {"unfreeze": None, "lr_scheduler": None, "optimizer": "SGD"}
    watch, end = Watch(), tmp_path / "cut.ckpt"
    whole, _ = fit(tmp_path / "whole", watch, own=[Dropped(train_bn)], **options)
    norm = {"net.backbone.1.weight", "net.backbone.1.bias"}
    assert watch.training == [READOUT | norm, *3 * [READOUT | FIRST | LAST]]
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Cut(end, epoch, batch), own=[Dropped(train_bn)], **options)
    again, _ = fit(tmp_path / "again", own=[Dropped(train_bn)], ckpt_path=end, **options)
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_rates_of_layers_and_steps_that_are_fused(tmp_path: Path) -> None:
    seed_everything(5)
    plan = {0: ["net.readout.*"], 1: ["net.backbone.network.stages.*"], 2: ["*"]}
    settings = PhaseSettings(
        optimizer=OPTIMIZERS["SGD"], layer_decay=0.5, lr_scheduler=stepping, unfreeze=plan, max_epochs=3
    )
    module = SingleTaskModule(TimmBackbone("test_convnext", in_chans=1), {"main": 2}, settings=settings)
    data = DigitsDataModule(
        n_main=24, classes={"main": 2}, size=32, channels=1, batch_size=12, n_val=0, n_test=8
    )
    seen: list[tuple[int, set[bool], set[float]]] = []

    class Note(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            optimizer = trainer.optimizers[0]
            moved = [g for g in optimizer.param_groups if any(p.grad is not None for p in g["params"])]
            seen.append((trainer.current_epoch, {bool(g["fused"]) for g in moved}, {g["lr"] for g in moved}))

    toy_trainer(tmp_path, callbacks=[Note()]).fit(module, datamodule=data)
    # but for the step in which the first momentum of some is another's second
    assert [fused for _, fused, _ in seen[1::2]] == 3 * [{True}]
    rates = [rates for _, _, rates in seen]
    assert [len(one) for one in rates[::2]] == [1, len(rates[2]), len(rates[4])]
    assert 1 < len(rates[2]) <= len(rates[4])
    # the schedule moves the groups that still are frozen as well
    assert min(rates[4]) == pytest.approx(min(g["initial_lr"] for g in groups(module)) * shrunk(2))


def groups(module: Any) -> Any:
    return module.trainer.optimizers[0].param_groups


def shrunk(epoch: int) -> float:
    return (1 + math.cos(math.pi * epoch / 10)) / 2


def test_the_network_of_a_later_phase_is_unfrozen_in_its_own_time(tmp_path: Path) -> None:
    watch = Watch()
    settings = PhaseSettings(unfreeze=UNFREEZE, max_epochs=EPOCHS)
    module = toy_module(finetune_settings=settings, pretrain_settings=PhaseSettings(max_epochs=2))
    toy_trainer(tmp_path, callbacks=[watch]).fit(module, datamodule=ToyData())
    names = {name for name, _ in module.named_parameters()}
    assert watch.training == [names, names, *PLAN]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"unfreeze": {0: ["net.readout.*"], 1: ["net.body.*"]}}, "'net.body.*'"),
    "an unknown name at first": ({"unfreeze": {0: ["readout"]}}, "'readout'"),
    "an epoch after the last": ({"unfreeze": {0: ["net.readout.*"], 4: ["*"]}}, "epoch 4 is never reached"),
    "a negative epoch": ({"unfreeze": {-1: ["net.readout.*"], 0: ["*"]}}, "epoch -1: must be at least 0"),
    "a broken epoch": ({"unfreeze": {0: ["net.readout.*"], 1.5: ["*"]}}, "1.5: must be a whole number"),
    "nothing at first": ({"unfreeze": {1: ["*"]}}, "nothing would train before epoch 1"),
    "nothing new": ({"unfreeze": {0: ["*"], 2: ["net.readout.*"]}}, "from epoch 2 of phase 'train'"),
    "no names": ({"unfreeze": {0: []}}, "no list of names"),
    "a name alone": ({"unfreeze": {0: "net.readout.*"}}, "no list of names"),
    "a list": ({"unfreeze": ["net.readout.*"]}, "no mapping of epochs"),
    "nothing": ({"unfreeze": {}}, "no mapping of epochs"),
    "beside a probe": ({"trainable": "readout"}, "give one of the two"),
    "beside patterns": ({"trainable": ["net.*"]}, "give one of the two"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_one_line_before_anything_trains(tmp_path: Path, name: str) -> None:
    options, message = BAD[name]
    with pytest.raises(ConfigurationError) as error:
        fit(tmp_path, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_the_limit_of_the_trainer_and_students(tmp_path: Path) -> None:
    module = toy_module(finetune_settings=PhaseSettings(unfreeze=UNFREEZE))
    with pytest.raises(ConfigurationError, match="epoch 3 is never reached"):
        toy_trainer(tmp_path, max_epochs=3).fit(module, datamodule=ToyData())
    with pytest.raises(ConfigurationError, match="not for students"):
        SingleTaskModule(DiagonalNet(4), {"main": 1}, settings=PhaseSettings(unfreeze={0: ["*"]}))


class Freezing(Callback):
    """Freezes a layer, and lets it train again, in the middle of a phase where all train."""

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.net.backbone[1].parameters():
            parameter.requires_grad_(trainer.current_epoch not in (1, 2))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if not self.modes or len(self.modes) <= trainer.current_epoch:
            self.modes.append(pl_module.net.backbone[1].training)


def test_what_a_callback_freezes_is_held_while_it_is_frozen(tmp_path: Path) -> None:
    freezing = Freezing()
    fit(tmp_path, freezing, optimizer="SGD", unfreeze=None)
    assert freezing.modes == [epoch not in (1, 2) for epoch in range(EPOCHS)]
