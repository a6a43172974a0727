"""Which parameters train in a phase: tied ones under each of their names, compiled ones, integers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import FEATURES, TASKS, ToyData, toy_trainer

from lit_aux.errors import ConfigurationError
from lit_aux.models import TimmBackbone
from lit_aux.modules import MultiTaskModule, SingleTaskModule
from lit_aux.modules.methods import GradNorm
from lit_aux.modules.optimization import layer_groups, trainable_names
from lit_aux.phases import Phase, PhaseSettings


class Tied(nn.Module):
    """A layer that runs twice, another whose weight it shares, and a table of integers."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES)
        self.again, self.other = self.first, nn.Linear(FEATURES, FEATURES)
        self.other.weight = self.first.weight
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.again(self.first(x)).tanh())


def module_of(compiled: bool = False, **options: Any) -> MultiTaskModule:
    backbone: Any = Tied()
    if compiled:
        backbone = torch.compile(backbone, backend="eager")
    return MultiTaskModule(backbone, TASKS, num_features=FEATURES, **options)


def phase(trainable: Any) -> Phase:
    return Phase(name="some", tasks=["main"], trainable=trainable)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (["net.backbone.again.*"], ["first.weight", "first.bias"]),
        (["net.backbone.other.weight"], ["first.weight"]),
        (["net.backbone.other.*"], ["first.weight", "other.bias"]),
        ("all", ["first.weight", "first.bias", "other.bias"]),
        (["net.backbone.*"], ["first.weight", "first.bias", "other.bias"]),
    ],
)
def test_tied_parameters_train_under_each_of_their_names(
    compiled: bool, trainable: Any, expected: Any
) -> None:
    module = module_of(compiled)
    found = trainable_names(module, phase(trainable))
    assert found <= {name for name, _ in module.named_parameters()}
    plain = {
        name.replace("_orig_mod.", "").removeprefix("net.backbone.")
        for name in found
        if "readout" not in name
    }
    assert plain == set(expected)


def test_readout_and_unknown_patterns() -> None:
    module = module_of(True)
    assert trainable_names(module, phase("readout")) == {"net.readout.weight", "net.readout.bias"}
    with pytest.raises(ConfigurationError, match=r"trainable pattern 'net.backbone.ohter.\*'"):
        trainable_names(module, phase(["net.backbone.ohter.*"]))


def test_a_network_with_integers_trains(tmp_path: Path) -> None:
    module = module_of(settings=PhaseSettings(max_epochs=1))
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    assert module.net.backbone.table.tolist() == [0, 1, 2]
    assert not module.net.backbone.table.requires_grad


@pytest.mark.parametrize("where", ["network", "backbone", "net"])
def test_layers_of_compiled_networks_have_the_rates_of_plain_ones(where: str) -> None:
    def rates(compiled: bool) -> dict[str, float]:
        module = SingleTaskModule(TimmBackbone("test_resnet"), {"main": 3})
        net: Any = module.net
        names = {id(p): name for name, p in net.named_parameters()}
        if compiled and where == "network":
            net.backbone.network = torch.compile(net.backbone.network, backend="eager")
        elif compiled and where == "backbone":
            net.backbone = torch.compile(net.backbone, backend="eager")
        elif compiled:
            net = torch.compile(net, backend="eager")
        groups = layer_groups(net, list(net.parameters()), 0.5)
        return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}

    plain = rates(False)
    assert len(set(plain.values())) > 3
    assert rates(True) == plain


def test_layers_of_gradnorm_have_each_of_their_names(tmp_path: Path) -> None:
    found = []

    class Watch(GradNorm):
        def begin(self, trainer: Any, module: Any) -> None:
            super().begin(trainer, module)
            found.append([p is module.net.backbone.first.weight for p in self._parameters_at])

    module = module_of(
        weighting=Watch(layers=["net.backbone.other.weight"]), settings=PhaseSettings(max_epochs=1)
    )
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    assert found == [[True]]


class Complex(Tied):
    """One that is multiplied by a modulus."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.ones(1, dtype=torch.complex64) * (0.6 + 0.8j))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.phase.abs()


def test_gradnorm_takes_the_norms_of_complex_gradients(tmp_path: Path) -> None:
    norms = []

    class Watch(GradNorm):
        def _observe(self, values: Tensor, rows: Tensor) -> None:
            phase, before = self._parameters_at[0], 0 if self._gradients is None else self._gradients.clone()
            super()._observe(values, rows)
            assert self._gradients is not None
            found = (self._gradients - before)[rows].norm(dim=1)
            alone = [torch.autograd.grad(value, phase, retain_graph=True)[0] for value in values]
            norms.append((found, torch.stack([gradient.abs().square().sum().sqrt() for gradient in alone])))

    weighting = Watch(layers=["net.backbone.phase"])
    module = MultiTaskModule(Complex(), TASKS, weighting=weighting, settings=PhaseSettings(max_epochs=1))
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    assert norms
    for found, expected in norms:
        torch.testing.assert_close(found, expected)


def test_aggregators_refuse_complex_weights(tmp_path: Path) -> None:
    module = MultiTaskModule(Complex(), TASKS, aggregator="MGDA", settings=PhaseSettings(max_epochs=1))
    with pytest.raises(ConfigurationError, match="aggregator: MGDA is for real numbers, and shared weights"):
        toy_trainer(tmp_path).fit(module, datamodule=ToyData())
