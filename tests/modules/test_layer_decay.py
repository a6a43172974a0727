"""Layer-wise learning-rate decay: rates by depth, as timm has them."""

from math import cos, pi
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from toys import toy_module

from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet, TimmBackbone
from lit_aux.modules import PretrainFinetuneModule, SingleTaskModule
from lit_aux.modules.optimization import build_optimizer
from lit_aux.phases import PhaseSettings


def module_of(name: str, **settings: Any) -> SingleTaskModule:
    options: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3)}
    return SingleTaskModule(
        TimmBackbone(name), {"main": 3}, settings=PhaseSettings(**{**options, **settings}, layer_decay=0.5)
    )


def rates(module: SingleTaskModule) -> tuple[dict[str, float], Any]:
    """Return the learning rate of each parameter by name."""
    built = build_optimizer(module.phases[0], module)
    optimizer = built["optimizer"] if isinstance(built, dict) else built
    names = {id(p): n for n, p in module.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}, built


def test_rates_fall_with_the_distance_from_the_readout() -> None:
    module = module_of("resnet18")
    found, optimizer = rates(module)
    assert set(found) == {name for name, _ in module.named_parameters()}
    # a stem and eight blocks beneath the readout
    expected = {"net.readout.weight": 0, "net.readout.bias": 0}
    depths = {"layer4.1.conv2.weight": 1, "layer4.0.bn1.bias": 2, "layer1.0.conv1.weight": 8}
    depths |= {"conv1.weight": 9, "bn1.weight": 9}
    expected |= {f"net.backbone.network.{name}": depth for name, depth in depths.items()}
    for name, depth in expected.items():
        assert found[name] == pytest.approx(0.1 * 0.5**depth), name
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    assert all("lr_scale" not in group for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_rates_are_those_of_timm_with_its_own_classifier(name: str) -> None:
    found, _ = rates(module_of(name))
    whole = timm.create_model(name, num_classes=3)
    names = {id(p): n for n, p in whole.named_parameters()}
    groups = param_groups_layer_decay(whole, layer_decay=0.5)
    expected = {names[id(p)]: 0.1 * g["lr_scale"] for g in groups for p in g["params"]}
    prefix = "net.backbone.network."
    compared = {n.removeprefix(prefix): rate for n, rate in found.items() if n.startswith(prefix)}
    assert compared == pytest.approx({n: rate for n, rate in expected.items() if n in compared})
    assert len(expected) - len(compared) == 2  # the classifier's, which are the readout here
    assert {rate for n, rate in found.items() if "readout" in n} == {0.1}


def test_schedules_multiply_each_rate() -> None:
    cosine = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)  # noqa: E731
    found, built = rates(module_of("test_resnet", lr_scheduler=cosine))
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    factor = (1 + cos(pi / 4)) / 2
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([factor * lr for lr in before])
    assert len({*found.values()}) > 3


def test_frozen_layers_have_no_group() -> None:
    module = module_of("test_resnet")
    module.net.backbone.network.conv1.requires_grad_(False)
    found, _ = rates(module)
    assert not any("network.conv1" in name for name in found)
    assert len(found) == sum(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan")])
def test_values_out_of_range(value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"layer_decay: {value} must be .*above 0 and at most 1"):
        PhaseSettings(layer_decay=value)


def test_a_schedule_that_levels_the_rates_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="layer_decay: OneCycleLR gives every layer the same"):
        PhaseSettings(
            layer_decay=0.5,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            lr_scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=9),
        )


def test_other_networks_are_refused_before_anything_trains() -> None:
    with pytest.raises(
        ConfigurationError, match=r"layer_decay: 0.5 is for timm's networks.*Sequential has none"
    ):
        toy_module(finetune_settings=PhaseSettings(layer_decay=0.5))
    students = DiagonalNet(4)
    with pytest.raises(ConfigurationError, match=r"layer_decay: 0.5 is for timm's networks"):
        PretrainFinetuneModule(
            students, {"main": 1, "aux": 1}, finetune_settings=PhaseSettings(layer_decay=0.5)
        )
