"""Students on a device: integrators, closed forms, and the callbacks that look at their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_runs import both, fit
from fake_device import same_on_both
from torch import Tensor

from lit_aux.callbacks import FeatureAlignment, KMeansInertia, StudentNorms
from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule
from lit_aux.integrators import Exact, GradientDescent, GradientFlow, Integrator, TorchOptimizer
from lit_aux.models import DiagonalNet, LeNet, MultiHeadNet, ReLUNet
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule
from lit_aux.phases import PhaseSettings

SIZES: dict[str, Any] = {"n_main": 5, "n_aux": 12, "n_test": 9, "k_aux": 3, "k_main": 3}
INTEGRATORS: dict[str, Callable[[], Integrator]] = {
    "gradient flow": GradientFlow,
    "gradient descent": lambda: GradientDescent(0.05),
    "mini-batches": lambda: GradientDescent(0.05, batch_size=4),
    "exact": Exact,
    "torch optimizer": lambda: TorchOptimizer(lambda p: torch.optim.Adam(p, lr=0.01)),
}


def data(kind: str) -> Any:
    if kind == "diagonal":
        return DiagonalTeacherDataModule([0, 1], overlap=[0, 3], in_features=12, **SIZES)
    return ReLUTeacherDataModule([0, 1], correlation=[[0.0] * 3, [1.0] * 3], in_features=6, **SIZES)


def student(kind: str) -> Any:
    return DiagonalNet(12, init_scale=0.3) if kind == "diagonal" else ReLUNet(6, hidden=8, init_scale=0.5)


def callbacks(kind: str) -> list[Any]:
    if kind == "diagonal":
        return [StudentNorms(tasks=["main"])]
    layer = "net.first.weight"
    return [StudentNorms(tasks=["main"]), FeatureAlignment(layer, k=2), KMeansInertia(layer, [1, 2])]


@pytest.mark.parametrize(
    ("kind", "integrator", "finetune"),
    [
        ("diagonal", "gradient flow", "full"),
        ("relu", "gradient flow", "probe_then_full"),
        ("diagonal", "exact", "full"),
        ("diagonal", "exact", "probe"),
        ("relu", "gradient descent", "full"),
        ("diagonal", "mini-batches", "full"),
        ("relu", "torch optimizer", "full"),
    ],
)
def test_pretraining_and_finetuning_of_students(
    kind: str, integrator: str, finetune: Any, tmp_path: Path
) -> None:
    def build() -> PretrainFinetuneModule:
        chosen = PhaseSettings(
            integrator=INTEGRATORS[integrator](), block=20, chunk=1, test_every=10, max_evaluations=30
        )
        return PretrainFinetuneModule(
            student(kind),
            data(kind).num_classes,
            finetune=finetune,
            pretrain_settings=chosen,
            finetune_settings=chosen,
            rescale=0.5,
            rescale_preset="backbone",
            readout="reset",
        )

    expected, _ = both(tmp_path, build, lambda: data(kind), lambda: callbacks(kind), max_epochs=-1)
    assert all(known for known, _ in expected.results)


@pytest.mark.parametrize(("kind", "chunk"), [("diagonal", 0), ("relu", 2)])
def test_students_of_both_tasks(kind: str, chunk: int, tmp_path: Path) -> None:
    def build() -> MultiTaskModule:
        chosen = PhaseSettings(integrator=GradientFlow(), block=20, max_evaluations=60, chunk=chunk)
        return MultiTaskModule(student(kind), data(kind).num_classes, settings=chosen)

    both(tmp_path, build, lambda: data(kind), lambda: callbacks(kind), max_epochs=-1)


def test_replicas_in_one_product_by_default(tmp_path: Path) -> None:
    """On a device 16 replicas share products, on the CPU each has its own: equal but for rounding."""

    def build() -> MultiTaskModule:
        chosen = PhaseSettings(integrator=GradientDescent(0.05), block=20, max_evaluations=40)
        return MultiTaskModule(student("relu"), data("relu").num_classes, settings=chosen)

    cpu, device = (
        fit(tmp_path / str(there), there, build, lambda: data("relu"), max_epochs=-1)
        for there in (False, True)
    )
    torch.testing.assert_close(device.weights, cpu.weights, rtol=1e-6, atol=1e-6)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["gradient flow", "gradient descent", "torch optimizer"])
def test_integrators_of_any_loss(name: str) -> None:
    def run(x: Tensor, y: Tensor, start: dict[str, Tensor]) -> Any:
        def loss(p: dict[str, Tensor]) -> Tensor:
            outputs = torch.einsum("rh,rnh->rn", p["b"], torch.einsum("nd,rhd->rnh", x, p["a"]).relu())
            return (outputs - y).square().mean(1)

        found = INTEGRATORS[name]().run(loss, start, threshold=1e-3, max_evaluations=60)
        return found.parameters, found.loss, found.evaluations, found.converged

    same_on_both(
        run, draw(6, 3), draw(6, seed=1), {"a": draw(2, 4, 3, seed=2), "b": draw(2, 4, seed=3)}, stays=False
    )


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
def test_models_of_students(kind: str) -> None:
    def run(x: Tensor) -> Any:
        net = student(kind).to(x.device)
        net.configure({"main": 1, "aux": 2}, [0, 1])
        net.to(x.device)
        net.reset_readout([0.5, 2.0], ["aux"])
        rows = torch.arange(2, device=x.device)
        theta = net.pack(rows, list(net.weights()))
        net.unpack(2 * theta, rows, list(net.weights()))
        return net(x), net.forward_tasks({"main": x, "aux": x[:2]}), theta

    same_on_both(run, draw(5, 12 if kind == "diagonal" else 6))


def test_networks_with_a_readout_for_every_task() -> None:
    def run(x: Tensor) -> Any:
        torch.manual_seed(0)
        net = MultiHeadNet(LeNet(), {"main": 2, "aux": 3}).to(x.device)
        net.reset_readout(2.0, ["aux"])
        net.train()
        found = net.forward_tasks({"main": x, "aux": x[:2]})
        sum(y.square().sum() for y in found.values()).backward()
        return found, [p.grad for p in net.parameters()], dict(net.state_dict())

    same_on_both(run, draw(4, 1, 28, 28))
