"""Every metric, model and integrator that there is has a run on the device, here or beside it."""

from collections.abc import Callable
from typing import Any

import pytest
import test_students_on_a_device as students
import torch
from fake_device import MixedDevicesError, fake_device, same_on_both, there
from torch import Tensor, nn

import lit_aux.integrators
import lit_aux.metrics
import lit_aux.models
from lit_aux.metrics import EffectiveSharedDimensions, ParticipationRatio, R2Score
from lit_aux.models import (
    MLP,
    LeNet,
    LoRA,
    MultiHeadNet,
    TimmBackbone,
    TransformersBackbone,
    export_state_dict,
)
from lit_aux.models.low_rank import inject


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


METRICS: dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]] = {
    "ParticipationRatio": (
        ParticipationRatio,
        [{}, {"center": False}, {"num_samples": 9}, {"num_samples": 9, "unbiased": True}],
    ),
    "EffectiveSharedDimensions": (
        EffectiveSharedDimensions,
        [{}, {"pairing": "sample"}, {"num_samples": 9, "unbiased": True, "pairing": "sample"}],
    ),
}


def test_every_metric_is_here() -> None:
    assert {*lit_aux.metrics.__all__} == {*METRICS, "R2Score"}


def test_r2() -> None:
    def run(preds: Tensor, target: Tensor) -> Any:
        metric = R2Score(5).to(preds.device)
        for some, labels in zip(preds.split(4), target.split(4), strict=True):
            metric.update(some, labels)
        return metric.compute()

    target = draw(9, 5, seed=1)
    same_on_both(run, draw(9, 5), target.where(target > -1, torch.tensor(torch.nan)))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_metrics(name: str, size: float) -> None:
    kind, several = METRICS[name]
    inputs = 1 + (name == "EffectiveSharedDimensions")

    def run(*given: Tensor, options: dict[str, Any]) -> Any:
        metric, other = (kind(5, **options).to(given[0].device) for _ in range(2))
        for place, rows in enumerate(torch.arange(9).split(4)):
            ids = {"ids": rows} if "num_samples" in options else {}
            index = rows.to(given[0].device)
            (metric, other)[place % 2].update(*(x[index] for x in given[:inputs]), **ids)
        before = metric.compute()
        metric.merge_state(other)
        return before, metric.compute(), metric.metric_state

    for options in several:
        same_on_both(run, draw(9, 5) * size, draw(9, 5, seed=1), options=options)


def test_a_metric_that_stayed_behind_takes_the_activations_to_itself() -> None:
    """As it always did: a metric outside of a module lies on the CPU, and its value too."""
    with fake_device():
        metric = ParticipationRatio()
        metric.update(there(draw(9, 5)))
        assert metric.compute().device.type == "cpu"


SMALL_VIT = {
    **{"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 12, "num_hidden_layers": 1},
    **{"num_attention_heads": 3, "intermediate_size": 16},
}


def adapted(net: MultiHeadNet) -> MultiHeadNet:
    """Return a network with low-rank updates that are not zero."""
    inject(net, LoRA(r=2))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return net


MODELS: dict[str, Callable[[], nn.Module]] = {
    "LeNet": lambda: MultiHeadNet(LeNet(), {"main": 2}),
    "MLP": lambda: MultiHeadNet(MLP(192), {"main": 2}),
    "TimmBackbone": lambda: MultiHeadNet(
        TimmBackbone(
            "vit_tiny_patch16_224", options={"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 12}
        ),
        {"main": 2, "aux": 3},
    ),
    "TransformersBackbone": lambda: MultiHeadNet(TransformersBackbone(SMALL_VIT), {"main": 2}),
    "LoRA": lambda: adapted(MultiHeadNet(MLP(192), {"main": 2})),
}
IN_RUNS = {"DiagonalNet", "ReLUNet", "MultiHeadNet", "export_state_dict"}
BASES = {"Problems", "StudentNet"}


def test_every_model_and_integrator_is_here() -> None:
    assert {*lit_aux.models.__all__} == {*MODELS} | IN_RUNS | BASES
    run = {type(build()).__name__ for build in students.INTEGRATORS.values()}
    named = {kind.__name__ for kind in lit_aux.integrators.INTEGRATORS.values()}
    assert named <= run


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    if name == "TimmBackbone":
        pytest.importorskip("timm")

    def run(x: Tensor) -> Any:
        torch.manual_seed(0)
        net: Any = MODELS[name]().to(x.device)
        net.reset_readout(2.0)
        outputs = net(x, "main")
        outputs.square().sum().backward()
        exported = export_state_dict(net, "main") if name == "TimmBackbone" else {}
        return outputs, [p.grad for p in net.parameters() if p.grad is not None], exported

    x = draw(2, *{"LeNet": (1, 28, 28), "MLP": (192,), "LoRA": (192,)}.get(name, (3, 8, 8)))
    same_on_both(run, x, stays=False, tolerance=1e-5 if name.endswith("Backbone") else 0.0)


def test_numbers_that_are_made_without_a_device_are_caught() -> None:
    """``torch.tensor`` beside a tensor of the device, as the penalties had it."""
    for made in (lambda: torch.tensor([1.0, 2.0]), lambda: torch.tensor([1.0, 2.0], device=None)):
        with fake_device(), pytest.raises(MixedDevicesError):
            there(draw(2)) + made()
