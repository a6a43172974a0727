"""Whole runs of low-rank finetuning: resumed, read again, followed by other phases, with callbacks."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from resume_helpers import Dying, Killed, fit, in_process, outcome
from torch import Tensor, nn
from toys import FEATURES, TASKS, ToyData, ToyTasks, toy_backbone, toy_module, toy_trainer

from lit_aux import PhaseTrainer
from lit_aux.adapters import adapted_layers
from lit_aux.callbacks import (
    L2SP,
    FisherTrace,
    GradientCoherence,
    KMeansInertia,
    RepresentationDimensionality,
    Sharpness,
    TrajectoryLog,
    WeightRescaling,
    WiSEFT,
)
from lit_aux.errors import ConfigurationError
from lit_aux.functional import kmeans_inertia
from lit_aux.models import LoRA
from lit_aux.models.low_rank import KEY, plain_state
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule
from lit_aux.phases import Phase, PhaseCheckpoint
from lit_aux.phases.phased import setup_of

LOW = {"finetune": "lora", "lora": LoRA(r=2, lora_dropout=0.1)}
NAMES = [f"net.backbone.{place}" for place in (0, 4)]


def equal(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("whole")
    before = os.getcwd()
    os.chdir(folder)
    yield (*fit(folder, module=LOW), folder)
    os.chdir(before)


def examples() -> dict[str, Any]:
    """Return examples by split and task, as callbacks take them."""
    splits = enumerate(("train", "val", "test"))
    return {split: ToyTasks(list(TASKS), 24, 0, offset).items for offset, split in splits}


def last(folder: Path, phase: str = "finetune") -> Path:
    return next(folder.rglob(f"{phase}.ckpt"))


def outputs(module: Any) -> Tensor:
    x = torch.randn(9, FEATURES, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return module.eval()(x, "main")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("hook", "epoch"),
    [("on_train_epoch_end", 1), ("on_train_epoch_end", 2), ("on_train_end", 0), ("on_test_start", 0)],
)
def test_resumed_bit_for_bit(hook: str, epoch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Dying(hook, "finetune", epoch, in_process), module=LOW)
    trainer, model = fit(tmp_path, ckpt_path="last", module=LOW)
    assert len(adapted_layers(model)) == 2
    equal(whole[1], model)
    assert outcome(trainer) == outcome(whole[0])


def test_goes_on_with_larger_limits(tmp_path: Path) -> None:
    _, expected = fit(tmp_path / "whole", module=LOW, settings={"max_epochs": 5})
    fit(tmp_path / "cut", module=LOW, settings={"max_epochs": 3})
    _, model = fit(tmp_path / "cut", module=LOW, settings={"max_epochs": 5}, ckpt_path="last")
    equal(expected, model)


def test_another_rank_is_another_run(whole: Any, tmp_path: Path) -> None:
    other = {"finetune": "lora", "lora": LoRA(r=3, lora_dropout=0.1)}
    with pytest.raises(ConfigurationError, match=r"had model.lora.r 2, this one has 3"):
        fit(tmp_path, ckpt_path=str(last(whole[2])), module=other)
    with pytest.raises(ConfigurationError, match=r"had .*lora"):
        fit(tmp_path, ckpt_path=str(last(whole[2])))


def test_readers_see_what_the_adapters_merge_into(whole: Any, tmp_path: Path) -> None:
    _, model, folder = whole
    expected, path = outputs(model), last(folder)
    state = torch.load(path, weights_only=True)
    assert sorted(state[KEY]) == NAMES
    loaded = PretrainFinetuneModule.load_from_checkpoint(path, backbone=toy_backbone())
    assert not adapted_layers(loaded)
    torch.testing.assert_close(outputs(loaded), expected, rtol=1e-5, atol=1e-6)
    started = toy_module(pretrained=str(path))
    torch.testing.assert_close(outputs(started), expected, rtol=1e-5, atol=1e-6)
    backbone = toy_module(pretrained=str(path), pretrained_prefix="net.backbone.")
    features = [m.net.backbone.eval()(torch.ones(2, FEATURES)) for m in (backbone, model)]
    torch.testing.assert_close(*features, rtol=1e-5, atol=1e-6)
    fresh = toy_module(**LOW)
    toy_trainer(tmp_path, logger=False).test(fresh, datamodule=ToyData(), ckpt_path=str(path), verbose=False)
    torch.testing.assert_close(outputs(fresh), expected, rtol=1e-5, atol=1e-6)
    plain = toy_module(**LOW)
    Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).test(
        plain, datamodule=ToyData(), ckpt_path=str(path), verbose=False
    )
    equal(plain, fresh)
    merged = plain_state(model)
    assert merged.keys() == plain.state_dict().keys()
    # a network with adapters reads a checkpoint without any
    adapted = toy_module(**LOW)
    adapted.enter_phase(adapted.phases[1])
    toy_trainer(tmp_path, logger=False).validate(
        adapted, datamodule=ToyData(), ckpt_path=str(last(folder, "pretrain")), verbose=False
    )
    assert not adapted_layers(adapted)


def test_damaged_adapters_are_one_line(whole: Any, tmp_path: Path) -> None:
    path = last(whole[2])
    damages: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c["state_dict"].pop(f"{NAMES[0]}.lora_A.lit_aux.weight"),
        lambda c: c[KEY][NAMES[0]].update(scaling=float("nan")),
        lambda c: c[KEY].update({NAMES[0]: 3}),
        lambda c: c.update({KEY: [1]}),
        lambda c: c[KEY].update({"net.nothing": {"scaling": 1.0, "transposed": False}}),
        lambda c: c["state_dict"].update({f"{NAMES[0]}.lora_B.lit_aux.weight": torch.ones(2, 2)}),
    ]
    for number, damage in enumerate(damages):
        content = torch.load(path, weights_only=True)
        damage(content)
        file = tmp_path / f"{number}.ckpt"
        torch.save(content, file)
        with pytest.raises(ConfigurationError, match="adapter") as caught:
            PretrainFinetuneModule.load_from_checkpoint(file, backbone=toy_backbone())
        assert "\n" not in str(caught.value), number


def test_setup_and_method(whole: Any) -> None:
    assert setup_of(whole[1]) == "PT+FT (LoRA)"
    assert setup_of(toy_module()) == "PT+FT"


def later(folder: Path, *extra: Callback, **kwargs: Any) -> tuple[PhaseTrainer, MultiTaskModule]:
    """Pretrain by low-rank updates of random weights, adapt again, then train everything."""
    seed_everything(5)
    phases = [
        Phase(name="first", tasks=["aux"], lora=LoRA(r=3), max_epochs=2),
        Phase(name="low", tasks=["main"], lora=LoRA(r=2, target_modules=["4"]), max_epochs=2),
        Phase(name="rest", tasks=["main"], max_epochs=2),
    ]
    model = MultiTaskModule(toy_backbone(), TASKS, phases=phases)
    trainer = toy_trainer(
        folder, callbacks=[PhaseCheckpoint(budget=1.0), *extra], **kwargs.pop("options", {})
    )
    trainer.fit(model, datamodule=ToyData(), **kwargs)
    return trainer, model


class Ends(Callback):
    """The state of each phase's start and end."""

    changes_training = False

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Tensor]] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.see(pl_module, "start")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.see(pl_module, "end")

    def see(self, module: Any, when: str) -> None:
        """Keep the weights that adapters merge into."""
        state = {name: value.clone() for name, value in plain_state(module).items()}
        self.seen[f"{module.phase.name} {when}"] = state


def test_later_phases_start_from_the_merged_weights(tmp_path: Path) -> None:
    ends = Ends()
    _, model = later(tmp_path / "whole", ends, options={"phase_store": str(tmp_path / "store")})
    assert not adapted_layers(model)
    for one, next_ in (("first", "low"), ("low", "rest")):
        torch.testing.assert_close(ends.seen[f"{one} end"], ends.seen[f"{next_} start"], rtol=1e-6, atol=1e-7)
        changed = {
            name
            for name, value in ends.seen[f"{one} start"].items()
            if not torch.equal(value, ends.seen[f"{one} end"][name])
        }
        layers = ("0", "4") if one == "first" else ("4",)
        assert changed == {
            *(f"net.backbone.{layer}.weight" for layer in layers),
            "net.readout.weight",
            "net.readout.bias",
        }
    # the first phase, of adapters, is found in the store
    trainer, again = later(tmp_path / "again", options={"phase_store": str(tmp_path / "store")})
    assert [result.reused for result in trainer.phase_results] == [True, False, False]
    equal(model, again)
    for phase, hook in (
        ("first", "on_train_epoch_end"),
        ("low", "on_train_end"),
        ("rest", "on_train_epoch_end"),
    ):
        folder = tmp_path / phase
        with pytest.raises(Killed):
            later(folder, Dying(hook, phase, 1, in_process), options={"phase_store": False})
        _, resumed = later(folder, options={"phase_store": False}, ckpt_path="last")
        equal(model, resumed)


def test_plain_trainer(tmp_path: Path) -> None:
    seed_everything(5)
    phase = Phase(name="low", tasks=["main"], lora=LoRA(r=2), max_epochs=2)
    model = MultiTaskModule(toy_backbone(), {"main": 2}, phases=[phase])
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(model, datamodule=ToyData(tasks=["main"]))
    assert len(adapted_layers(model)) == 2


def test_rescale_is_of_the_weights_alone(tmp_path: Path) -> None:
    low, full = Ends(), Ends()
    _, model = fit(tmp_path / "low", module=LOW, callbacks=[low])
    fit(tmp_path / "full", callbacks=[full])  # rescales by one half, too
    start = low.seen["finetune start"]
    torch.testing.assert_close(start, full.seen["finetune start"], rtol=0, atol=0)
    assert torch.equal(
        start["net.backbone.0.weight"], 0.5 * low.seen["pretrain end"]["net.backbone.0.weight"]
    )
    # of the module with adapters, the callback takes what it takes of the plain one
    assert list(WeightRescaling(0.5).select(model)) == [name for name, _ in toy_module().named_parameters()]


def test_measures_see_the_merged_weights(tmp_path: Path) -> None:
    inertia, ends = KMeansInertia("net.backbone.4", 2), Ends()
    fit(tmp_path, module=LOW, callbacks=[inertia, ends])
    rows = [row for row in inertia.results if row.phase == "finetune"]
    start, end = ends.seen["finetune start"], ends.seen["finetune end"]
    name = "net.backbone.4.weight"
    assert not torch.equal(start[name], end[name])
    for row, weights in ((rows[0], start[name]), (rows[-1], end[name])):
        assert row.values[0] == pytest.approx(float(kmeans_inertia(weights, 2)), rel=1e-5)
    # names are as they were, so that what is compared is what was there before
    assert {row.layer for row in inertia.results} == {"net.backbone.4"}
    layers = RepresentationDimensionality(["net.backbone.*"], num_samples=20, picture=False)
    fit(tmp_path / "layers", module=LOW, callbacks=[layers])
    assert [row.layer for row in layers.results if row.phase == "finetune"] == [
        row.layer for row in layers.results if row.phase == "pretrain"
    ]
    assert len(layers.results) == 10
    assert not [row.note for row in layers.results if "changed" in row.note or "not run" in row.note]


def test_wise_ft_mixes_the_merged_weights(tmp_path: Path) -> None:
    """Against mixtures by hand, of plain networks."""
    mixing = [0.0, 0.3, 1.0]
    wise, ends, reference = WiSEFT(mixing, data=examples()), Ends(), {}
    module = {**LOW, "reestimate_batchnorm": False, "finetune_callbacks": [wise]}
    _, model = fit(tmp_path, module=module, callbacks=[ends])
    start, end = ends.seen["finetune start"], ends.seen["finetune end"]
    plain = toy_module()
    x, y = examples()["test"]["main"]
    for m in mixing:
        mixed = {k: (v + m * (end[k] - v) if v.is_floating_point() else v) for k, v in start.items()}
        plain.load_state_dict(mixed)
        with torch.no_grad():
            reference[m] = float(nn.functional.cross_entropy(plain.eval()(x, "main"), y))
    found = {row.mixing: row.value for row in wise.results if row.measure == "test_loss"}
    assert found == pytest.approx(reference, rel=1e-5)
    assert len({round(v, 5) for v in found.values()}) == 3
    assert len(adapted_layers(model)) == 2


def test_wise_ft_resumed_and_kept(tmp_path: Path) -> None:
    def wise() -> dict[str, Any]:
        return {**LOW, "finetune_callbacks": [WiSEFT([0.5], keep_best=True, data=examples())]}

    _, whole = fit(tmp_path / "whole", module=wise())
    with pytest.raises(Killed):
        fit(tmp_path / "cut", Dying("on_train_epoch_end", "finetune", 1, in_process), module=wise())
    _, model = fit(tmp_path / "cut", module=wise(), ckpt_path="last")
    equal(whole, model)


def test_l2_sp_holds_the_merged_weights(tmp_path: Path) -> None:
    """Its gradients against those of a penalty on weights that autograd differentiates from scratch."""
    seed_everything(2)
    module = toy_module(**LOW).double()
    module.enter_phase(module.phases[1])
    penalty = L2SP(alpha=0.3, beta=0.07)
    penalty.start = {n: v.detach().clone() for n, v in penalty.kept(module).items()}
    assert sorted(penalty.start) == sorted(
        n for n, _ in toy_module().named_parameters() if "readout" not in n
    )
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    scale = LOW["lora"].scale  # type: ignore[attr-defined]
    total = torch.zeros((), dtype=torch.float64)
    for layer in adapted_layers(module).values():
        update = scale * layer.lora_B["lit_aux"].weight @ layer.lora_A["lit_aux"].weight
        total = total + 0.3 / 2 * update.square().sum()
    distance = float((2 / 0.3 * total.detach()).sqrt())
    for parameter in module.readout_parameters():
        total = total + 0.07 / 2 * parameter.square().sum()
    training = {n: p for n, p in module.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(total, list(training.values()))
    optimizer = torch.optim.SGD(list(training.values()), lr=0.1)
    penalty.on_before_optimizer_step(None, module, optimizer)  # type: ignore[arg-type]
    for (name, parameter), gradient in zip(training.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)
    assert penalty.penalty(module) == pytest.approx((float(total), distance))
    fit(tmp_path, module={**LOW, "finetune_callbacks": [L2SP()]})


def test_l2_sp_leaves_adapters_that_another_optimizer_moves() -> None:
    module = toy_module(**LOW)
    module.enter_phase(module.phases[1])
    penalty = L2SP(alpha=0.3, beta=0.07)
    penalty.start = {n: v.detach().clone() for n, v in penalty.kept(module).items()}
    readout = list(module.readout_parameters())
    penalty.on_before_optimizer_step(None, module, torch.optim.SGD(readout, lr=0.1))  # type: ignore[arg-type]
    for name, parameter in module.named_parameters():
        own = any(parameter is one for one in readout)
        assert (parameter.grad is not None) == own, name
        if own:
            torch.testing.assert_close(parameter.grad, 0.07 * parameter.detach())


def test_trajectory_and_other_measures_run(tmp_path: Path) -> None:
    kinds: list[Any] = [TrajectoryLog, Sharpness, FisherTrace]
    callbacks: list[Callback] = [kind(data=examples()) for kind in kinds]
    callbacks.append(GradientCoherence(data=examples(), batch_size=8))
    kept: dict[str, Any] = {}
    for setup, module in (("low", LOW), ("full", {})):
        fit(tmp_path / setup, module={**module, "compile": False}, callbacks=callbacks)
        kept[setup] = torch.load(last(tmp_path / setup), weights_only=True)["state_dict"]
    fit(tmp_path / "bare", module=LOW, callbacks=[])
    bare = torch.load(last(tmp_path / "bare"), weights_only=True)["state_dict"]
    torch.testing.assert_close(kept["low"], bare, rtol=0, atol=0)  # they leave no trace
    weights = [n for n in kept["full"] if n.endswith("weight") and "readout" not in n]
    assert all(n in kept["low"] or n.replace(".weight", ".base_layer.weight") in kept["low"] for n in weights)
