"""Steps of MultiTaskModule(aggregator=...) against gradients computed by hand."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from method_helpers import (
    TASKS,
    Batches,
    assert_same,
    batches,
    expected_step,
    gradients_by_hand,
    matrix_of,
    module_of,
    train,
    trainer_of,
)
from torch import Tensor, nn

from lit_aux.callbacks._parameters import shared_parameters
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet
from lit_aux.modules import MultiTaskModule
from lit_aux.phases import Phase

aggregation = pytest.importorskip("torchjd.aggregation")
PAIR = {"a": 2, "b": 2}


def projected(matrix: Tensor) -> Tensor:
    """PCGrad of two gradients: each without what it has against the other (Yu et al. 2020, algorithm 1)."""
    first, second = matrix
    dot = first @ second
    if dot >= 0:
        return first + second
    return first - dot / (second @ second) * second + second - dot / (first @ first) * first


def nearest_to_zero(matrix: Tensor) -> Tensor:
    """MGDA of two gradients: the shortest vector on the line between them (Sener & Koltun 2018)."""
    first, second = matrix
    share = ((second - first) @ second / (first - second).square().sum()).clamp(0, 1)
    return share * first + (1 - share) * second


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("PCGrad", projected), ("torchjd.aggregation.MGDA", nearest_to_zero), ("Sum", lambda m: m.sum(0))],
)
@pytest.mark.parametrize("norm", [False, True])
def test_two_tasks_against_the_closed_form(
    name: str, by_hand: Callable[[Tensor], Tensor], norm: bool, tmp_path: Path
) -> None:
    served = batches(1, tasks=PAIR)
    gradients = gradients_by_hand(module_of(PAIR, norm), served[0])
    rows = matrix_of(gradients)
    assert rows[0] @ rows[1] < 0, "nothing to resolve"
    module = module_of(PAIR, norm, aggregator=name)
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if "MGDA" in name else {}  # an iterative solver
    assert_same(train(module, served, tmp_path), expected_step(gradients, by_hand), **tolerance)
    assert module.method == name.rpartition(".")[2]


@pytest.mark.parametrize(
    "build",
    [
        aggregation.UPGrad,
        aggregation.MGDA,
        aggregation.IMTLG,
        aggregation.AlignedMTL,
        lambda: aggregation.CAGrad(c=0.5),
        lambda: aggregation.NashMTL(n_tasks=3),
        lambda: aggregation.ConFIG(),
    ],
)
def test_three_tasks_against_the_aggregate_of_gradients_by_hand(build: Any, tmp_path: Path) -> None:
    if getattr(build, "__name__", "") == "<lambda>":
        try:
            build()
        except ImportError as error:
            pytest.skip(str(error))
    served = batches(1)
    gradients = gradients_by_hand(module_of(norm=True), served[0])
    module = module_of(norm=True, aggregator=build())
    assert_same(train(module, served, tmp_path), expected_step(gradients, build()), rtol=1e-5, atol=1e-7)


def test_pcgrad_of_three_tasks_is_one_of_its_orders(tmp_path: Path) -> None:
    served = batches(1)
    rows = matrix_of(gradients_by_hand(module_of(), served[0]))
    found = train(module_of(aggregator="PCGrad"), served, tmp_path)
    vector = torch.cat([v.flatten() for n, v in found.items() if n.startswith("net.backbone")])
    possible = []
    for row in range(3):
        ends = []
        for order in permutations([other for other in range(3) if other != row]):
            changed = rows[row].clone()
            for other in order:
                dot = changed @ rows[other]
                if dot < 0:
                    changed = changed - dot / rows[other].square().sum() * rows[other]
            ends.append(changed)
        possible.append(ends)
    sums = [a + b + c for a in possible[0] for b in possible[1] for c in possible[2]]
    assert min(float((vector - each).norm()) for each in sums) < 1e-9


@pytest.mark.parametrize("norm", [False, True])
def test_sum_and_mean_are_plain_training(norm: bool, tmp_path: Path) -> None:
    weights = {"a": 0.5, "c": 3.0}
    served = batches(4)
    plain = train(module_of(norm=norm, lr=0.3, task_weights=weights), served, tmp_path)
    summed = train(module_of(norm=norm, lr=0.3, task_weights=weights, aggregator="Sum"), served, tmp_path)
    assert_same(summed, plain)
    once = train(module_of(norm=norm, task_weights=weights), served[:1], tmp_path)
    mean = train(module_of(norm=norm, task_weights=weights, aggregator="Mean"), served[:1], tmp_path)
    assert_same(mean, {n: v / 3 if "backbone" in n else v for n, v in once.items()})


def test_clipping_comes_after_aggregation(tmp_path: Path) -> None:
    served = batches(1, tasks=PAIR)
    step = expected_step(gradients_by_hand(module_of(PAIR), served[0]), projected)
    norm = torch.cat([g.flatten() for g in step.values()]).norm()
    found = train(module_of(PAIR, aggregator="PCGrad"), served, tmp_path, gradient_clip_val=float(norm / 2))
    assert_same(found, {n: g / 2 for n, g in step.items()}, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad"])
def test_accumulated_batches_are_one_large_batch(name: str, tmp_path: Path) -> None:
    large = batches(2, size=12)
    halves = [
        {task: (x[part::2], y[part::2]) for task, (x, y) in batch.items()}
        for batch in large
        for part in (0, 1)
    ]
    whole = train(module_of(lr=0.3, aggregator=name), large, tmp_path)
    parts = train(module_of(lr=0.3, aggregator=name), halves, tmp_path, accumulate_grad_batches=2)
    assert_same(parts, whole, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_lower_precision_goes_the_same_way(precision: str, tmp_path: Path) -> None:
    served = batches(1)
    exact = train(module_of(aggregator="UPGrad"), served, tmp_path)
    module = module_of(aggregator="UPGrad")
    seen: list[torch.dtype] = []
    module.task_method.aggregator.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    found = train(module, served, tmp_path, precision=precision)
    assert seen == [torch.float32]
    a, b = (torch.cat([v.flatten() for v in step.values()]) for step in (exact, found))
    assert torch.cosine_similarity(a, b, dim=0) > (0.99 if "bf16" in precision else 1 - 1e-9)


@pytest.mark.slow
def test_a_compiled_network_takes_the_same_step(tmp_path: Path) -> None:
    served = batches(1)
    expected = train(module_of(aggregator="UPGrad"), served, tmp_path)
    found = train(module_of(aggregator="UPGrad", compile=True), served, tmp_path)
    assert_same({n.replace("_orig_mod.", ""): v for n, v in found.items()}, expected)


def test_one_task_trains_plainly(tmp_path: Path) -> None:
    served = [{"a": batch["a"]} for batch in batches(3)]
    plain = train(module_of(train_tasks=["a"], lr=0.3), served, tmp_path)
    module = module_of(train_tasks=["a"], lr=0.3, aggregator="PCGrad")
    assert_same(train(module, served, tmp_path), plain)
    assert module.method == "STL"
    # a step that happens to hold one task takes its gradient as it is
    assert_same(train(module_of(lr=0.3, aggregator="MGDA"), served, tmp_path), plain)


def test_the_training_draws_what_it_draws_without(tmp_path: Path) -> None:
    states = []
    for options in ({}, {"aggregator": "PCGrad"}, {"aggregator": "GradDrop"}, {"weighting": "random"}):
        module = module_of(lr=0.1, **options)
        torch.manual_seed(3)
        train(module, batches(3), tmp_path)
        states.append(torch.get_rng_state())
    assert all(torch.equal(states[0], state) for state in states[1:])


def test_a_resumed_run_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    served = batches(4)

    def run(epochs: int, path: str | None = None) -> Any:
        module = module_of(lr=0.2, aggregator="PCGrad")
        torch.manual_seed(7)
        trainer = trainer_of(tmp_path, epochs)
        trainer.fit(module, datamodule=Batches(served), ckpt_path=path)
        return module, trainer

    whole, _ = run(2)
    _, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(2, str(tmp_path / "half.ckpt"))
    # a checkpoint in float64 is read into the float32 weights that the module has at first
    assert_same(dict(resumed.named_parameters()), dict(whole.named_parameters()), rtol=1e-5, atol=1e-6)
    other = module_of(lr=0.2, aggregator="PCGrad")
    torch.manual_seed(8)
    train(other, served, tmp_path, epochs=2)
    assert any(
        not torch.allclose(a, b, atol=1e-3)
        for a, b in zip(other.parameters(), whole.parameters(), strict=True)
    )


def test_weights_are_logged(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, precision="32-true")
    module = module_of(aggregator=aggregation.Constant(torch.tensor([1.0, 2.0, 0.5])))
    trainer.fit(module, datamodule=Batches(batches(2)))
    logged = {n: float(v) for n, v in trainer.callback_metrics.items() if n.endswith("weight")}
    assert logged == {"train/a/weight": 1.0, "train/b/weight": 2.0, "train/c/weight": 0.5}
    assert list(shared_parameters(module, None, "test")) == [
        n for n, _ in module.named_parameters() if "backbone" in n
    ]


class Halves(nn.Module):
    """Somebody's own aggregator."""

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.sum(0) / 2


def test_any_module_can_aggregate(tmp_path: Path) -> None:
    served = batches(1)
    plain = train(module_of(), served, tmp_path)
    found = train(module_of(aggregator=Halves()), served, tmp_path)
    assert_same(found, {n: v / 2 if "backbone" in n else v for n, v in plain.items()})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_aggregator_sees_gradients_that_are_not_finite(value: float, tmp_path: Path) -> None:
    class Poison(torch.autograd.Function):
        """The same features; one gradient is not finite."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            poisoned = gradient.clone()
            poisoned[0, 0] = value
            return poisoned

    class Recorder(nn.Module):
        def forward(self, matrix: Tensor) -> Tensor:
            seen.append(bool(matrix.isfinite().all()))
            return matrix.mean(0)

    seen: list[bool] = []
    module = module_of(aggregator=Recorder())
    assert seen == [True], "it is tried as the module is built"
    module.net.backbone.register_forward_hook(lambda _, __, output: Poison.apply(output))
    gone = train(module, batches(1), tmp_path)
    assert seen == [True]
    assert not gone["net.backbone.0.weight"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"aggregator": "PCGrd"}, "aggregator: 'PCGrd' is unknown; did you mean 'PCGrad'"),
        ({"aggregator": "CAGrad"}, "aggregator: CAGrad cannot be built by its name alone"),
        ({"aggregator": aggregation.Krum(n_byzantine=4)}, "aggregator: Krum refuses 3 tasks' gradients"),
        ({"aggregator": aggregation.Constant(torch.ones(2))}, "aggregator: Constant refuses 3 tasks'"),
        ({"aggregator": nn.Identity()}, "aggregator: Identity makes no vector"),
        ({"aggregator": "PCGrad", "schedule": "published"}, "schedule: published a step holds one task"),
        ({"aggregator": "PCGrad", "weighting": "random"}, "both decide how tasks combine"),
        ({"weighting": aggregation.PCGrad()}, "give it as aggregator"),
        (
            {"aggregator": "PCGrad", "phases": [Phase(name="t", tasks=["a", "b"], order="sequential")]},
            "order: sequential a step holds one task",
        ),
    ],
)
def test_what_cannot_work_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        module_of(TASKS, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nash_for_another_number_of_tasks() -> None:
    try:
        nash = aggregation.NashMTL(n_tasks=5)
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(ConfigurationError, match="aggregator: NashMTL refuses 3 tasks' gradients"):
        module_of(aggregator=nash)
    assert module_of(aggregator=nash, train_tasks=["a"]).method == "STL"


def test_students_have_no_methods() -> None:
    with pytest.raises(ConfigurationError, match="aggregator: PCGrad is for deep networks, not for students"):
        MultiTaskModule(DiagonalNet(4), {"main": 1, "aux": 1}, aggregator="PCGrad")


def test_scaled_losses_and_sharded_networks_are_refused(tmp_path: Path) -> None:
    module = module_of(aggregator="PCGrad")
    trainer = trainer_of(tmp_path, precision=None, plugins=[MixedPrecision("16-mixed", "cpu")])
    with pytest.raises(ConfigurationError, match=r"aggregator: PCGrad .* precision 16-mixed scales"):
        module.task_method.check(trainer)
    trainer = trainer_of(tmp_path)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(ConfigurationError, match="whole gradients, which FSDPStrategy does not keep"):
        module.task_method.check(trainer)


def test_without_torchjd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchjd.aggregation", None)
    with pytest.raises(
        ConfigurationError, match=r"TorchJD is not installed; run: pip install 'lit-aux\[aggregators\]'"
    ):
        module_of(aggregator="PCGrad")
