"""Steps of MultiTaskModule(weighting=...) against closed forms and double backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from method_helpers import (
    TASKS,
    Batches,
    assert_same,
    batches,
    gradients_by_hand,
    module_of,
    train,
    trainer_of,
)
from torch import Tensor, nn

from lit_aux.callbacks._layers import default_layers
from lit_aux.callbacks._parameters import shared_parameters
from lit_aux.errors import ConfigurationError
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.modules.methods import GradNorm, UncertaintyWeighting


def losses_by_hand(module: Any, batch: Any) -> dict[str, Tensor]:
    """Return each task's loss, with its graph, of a network in which tasks do not depend on each other."""
    return {
        task: nn.functional.cross_entropy(module.net(x.double(), task), y) for task, (x, y) in batch.items()
    }


def weighted_step(weights: dict[str, Any], batch: Any, **options: Any) -> dict[str, Tensor]:
    gradients = gradients_by_hand(module_of(**options), batch)
    return {
        f"net.{name}": sum((weights[task] * gradients[task][name] for task in batch), torch.zeros(()))
        for name in gradients["a"]
    }


def test_uncertainty_against_the_closed_form(tmp_path: Path) -> None:
    (batch,) = batches(1)
    start = {"a": 0.3, "b": -0.5, "c": 0.0}
    module = module_of(norm=True, weighting="uncertainty")
    module.task_method.reset = lambda: None  # go on from these log variances
    with torch.no_grad():
        module.task_method.log_variance.copy_(torch.tensor(list(start.values())))
    weights = {task: torch.tensor(-s, dtype=torch.float64).exp() for task, s in start.items()}
    steps = train(module, [batch], tmp_path)
    assert_same(steps, weighted_step(weights, batch, norm=True), rtol=1e-6, atol=1e-8)
    first = module_of(norm=True).double()
    joint = first.net.forward_tasks({task: x.double() for task, (x, _) in batch.items()})
    losses = [nn.functional.cross_entropy(joint[task], y) for task, (_, y) in batch.items()]
    found = steps["task_method.log_variance"]
    expected = [0.5 - float(w * loss) for w, loss in zip(weights.values(), losses, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert module.method == "uncertainty"


def test_uncertainty_of_a_regression_counts_half() -> None:
    module = module_of(
        {"a": 2, "b": 2}, weighting="uncertainty", losses={"a": nn.MSELoss(), "b": nn.CrossEntropyLoss()}
    )
    module.phase = module.phases[0]
    module._trainer = type("T", (), {"world_size": 1})()
    total = module.task_method.combine({"a": torch.tensor(3.0), "b": torch.tensor(5.0)}, module._trainer)
    assert float(total) == pytest.approx(1.5 + 5.0)


def double_backward(module: Any, weights: Tensor, first: list[float], batch: Any, alpha: float) -> Tensor:
    """Return d L_grad / d w as Chen et al. define it, by differentiating the gradients."""
    weights = weights.clone().requires_grad_()
    layer = module.net.backbone[-1].weight
    losses = list(losses_by_hand(module, batch).values())
    norms = torch.stack(
        [
            torch.autograd.grad(w * loss, layer, create_graph=True)[0].norm()
            for w, loss in zip(weights, losses, strict=True)
        ]
    )
    rates = torch.tensor([float(now) / then for now, then in zip(losses, first, strict=True)])
    target = (norms.mean() * (rates / rates.mean()).double() ** alpha).detach()
    (gradient,) = torch.autograd.grad((norms - target).abs().sum(), weights)
    return gradient


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_against_double_backward(alpha: float, tmp_path: Path) -> None:
    served = batches(3)
    module = module_of(lr=0.5, weighting=GradNorm(alpha=alpha, lr=0.2))
    twin = module_of(lr=0.5).double()
    weights = torch.ones(3, dtype=torch.float64)
    first: list[float] = []
    for batch in served:
        losses = losses_by_hand(twin, batch)
        first = first or [float(loss) for loss in losses.values()]
        gradient = double_backward(twin, weights, first, batch, alpha)
        total = sum(w * loss for w, loss in zip(weights, losses.values(), strict=True))
        found = torch.autograd.grad(total, list(twin.net.parameters()))
        with torch.no_grad():
            for parameter, each in zip(twin.net.parameters(), found, strict=True):
                parameter -= 0.5 * each
        weights = weights - 0.2 * gradient
        weights = weights * 3 / weights.sum()
    assert weights.std() > 0.01, "nothing moved"
    train(module, served, tmp_path)
    torch.testing.assert_close(module.task_method.weight.double(), weights, rtol=1e-5, atol=1e-6)
    for mine, other in zip(module.net.parameters(), twin.net.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_random_weights_are_new_in_every_step_and_one_in_the_mean(tmp_path: Path) -> None:
    module = module_of(lr=0.0, weighting="random")
    seen: list[Tensor] = []
    module.task_method.note = seen.append
    torch.manual_seed(0)
    train(module, batches(60, size=2), tmp_path, precision="32-true")
    drawn = torch.stack(seen)
    assert len({tuple(row.tolist()) for row in drawn}) == 60
    torch.testing.assert_close(drawn.sum(1), torch.full((60,), 3.0))
    # softmax of normal numbers: the s.d. of a weight is about .6, that of the mean .08
    torch.testing.assert_close(drawn.mean(0), torch.ones(3), rtol=0, atol=0.3)


@pytest.mark.parametrize("weighting", ["uncertainty", "random", "gradnorm"])
def test_accumulated_batches_are_one_large_batch(weighting: str, tmp_path: Path) -> None:
    large = batches(3, size=12)
    halves = [
        {task: (x[part::2], y[part::2]) for task, (x, y) in batch.items()}
        for batch in large
        for part in (0, 1)
    ]
    whole = train(module_of(lr=0.3, weighting=weighting), large, tmp_path)
    parts = train(module_of(lr=0.3, weighting=weighting), halves, tmp_path, accumulate_grad_batches=2)
    assert_same(parts, whole, rtol=1e-5, atol=1e-7)


def test_constant_is_plain_training(tmp_path: Path) -> None:
    plain = train(module_of(lr=0.3), batches(2), tmp_path)
    constant = module_of(lr=0.3, weighting="constant")
    assert_same(train(constant, batches(2), tmp_path), plain)
    assert constant.method == "MTL"


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm"])
def test_learned_weights_survive_a_resume(weighting: str, tmp_path: Path) -> None:
    def run(epochs: int, path: str | None = None) -> Any:
        module = module_of(lr=0.2, weighting=weighting)
        trainer = trainer_of(tmp_path, epochs, precision="32-true")
        trainer.fit(module, datamodule=Batches(batches(4)), ckpt_path=path)
        return module, trainer

    whole, _ = run(2)
    _, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(2, str(tmp_path / "half.ckpt"))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm"])
def test_lower_precision(weighting: str, precision: str, tmp_path: Path) -> None:
    served = batches(2)
    exact = train(module_of(lr=0.1, weighting=weighting), served, tmp_path)
    found = train(module_of(lr=0.1, weighting=weighting), served, tmp_path, precision=precision)
    a, b = (torch.cat([v.flatten() for v in step.values()]) for step in (exact, found))
    assert torch.cosine_similarity(a, b, dim=0) > 0.98


def test_weights_are_logged(tmp_path: Path) -> None:
    module = module_of(lr=0.5, weighting="uncertainty")
    trainer = trainer_of(tmp_path)
    trainer.fit(module, datamodule=Batches(batches(1)))
    logged = {n: float(v) for n, v in trainer.callback_metrics.items() if n.endswith("weight")}
    assert logged == {f"train/{task}/weight": 1.0 for task in TASKS}
    assert all("backbone" in name for name in shared_parameters(module, None, "test"))
    # a weighting is no layer of the network, and no part of it either where its weights are taken over
    assert default_layers(module) == default_layers(module_of())
    trainer.save_checkpoint(tmp_path / "mtl.ckpt")
    torch.manual_seed(1)
    other = PretrainFinetuneModule(
        module_of().net.backbone, TASKS, finetune_tasks=["a"], pretrained=str(tmp_path / "mtl.ckpt")
    )
    weights = other.net.backbone[0].weight
    assert torch.allclose(weights, module.net.backbone[0].weight.to(weights))


# TorchJD's


def test_scalarizers(tmp_path: Path) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    (batch,) = batches(1)
    losses = {task: float(loss) for task, loss in losses_by_hand(module_of().double(), batch).items()}
    mean = torch.tensor(list(losses.values())).log().mean().exp()
    weights = {task: float(mean) / 3 / loss for task, loss in losses.items()}  # of the geometric mean
    module = module_of(weighting="GeometricMean")
    assert_same(train(module, [batch], tmp_path), weighted_step(weights, batch), rtol=1e-5, atol=1e-7)
    assert module.method == "GeometricMean"
    learned = module_of(weighting=scalarization.UW(3))
    steps = train(learned, [batch], tmp_path)
    expected = [0.5 - 0.5 * loss for loss in losses.values()]
    assert steps["task_method.scalarizer.log_var"].tolist() == pytest.approx(expected, rel=1e-5)


def test_dwa_weighs_by_past_epochs(tmp_path: Path) -> None:
    pytest.importorskip("torchjd.scalarization")
    module = module_of(lr=0.3, weighting="DWA")
    seen: list[Tensor] = []
    module.task_method.note = seen.append
    train(module, batches(2), tmp_path, epochs=4)
    assert torch.equal(torch.stack(seen[:4]), torch.ones(4, 3).double())
    assert seen[4].sum() == pytest.approx(3.0)
    assert seen[4].std() > 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weighting": "gradnrm"}, "weighting: 'gradnrm' is unknown; did you mean 'gradnorm'"),
        ({"weighting": "UW"}, "weighting: UW cannot be built by its name alone"),
        ({"weighting": nn.Identity()}, "weighting: Identity makes no single loss"),
        ({"weighting": "uncertainty", "schedule": "published"}, "weighting: uncertainty combines the tasks"),
        ({"aggregator": UncertaintyWeighting()}, "weighs losses; give it as weighting"),
    ],
)
def test_what_cannot_work_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        module_of(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scalarizers_that_do_not_fit() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    with pytest.raises(ConfigurationError, match="weighting: UW refuses the losses of 3 tasks"):
        module_of(weighting=scalarization.UW(2))
    with pytest.raises(ConfigurationError, match="weighting: FAMO needs the losses once more"):
        module_of(weighting=scalarization.FAMO(3))


def test_gradnorm_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="alpha: -1"):
        GradNorm(alpha=-1)
    with pytest.raises(ConfigurationError, match="lr: 0"):
        GradNorm(lr=0)
    with pytest.raises(ConfigurationError, match=r"layers: 'net\.backbone\.9'"):
        train(module_of(weighting=GradNorm(layers=["net.backbone.9"])), batches(1), tmp_path)
