"""Tasks of every kind: losses and metrics against scikit-learn, outputs by token and pixel, own heads."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score

from lit_aux import Task
from lit_aux.errors import ConfigurationError
from lit_aux.metrics import R2Score
from lit_aux.models import MultiHeadNet, TimmBackbone
from lit_aux.modules import MultiTaskModule, SingleTaskModule
from lit_aux.modules.evaluation import TaskEvaluation

N, T, SIDE = 40, 7, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def holes(y: Tensor, missing: Any, share: float = 0.3) -> Tensor:
    gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(9)) < share
    return torch.where(gone, torch.full_like(y, missing), y)


def measured(task: Task, outputs: Tensor, y: Tensor, pieces: int = 3) -> dict[str, float]:
    """Return what an evaluation finds in batches."""
    evaluation = TaskEvaluation({"t": task})
    for some, labels in zip(outputs.chunk(pieces), y.chunk(pieces), strict=True):
        evaluation.update("val", "t", some, labels)
    return {name: float(value) for name, value in evaluation.compute("val")["t"].items()}


@pytest.mark.parametrize("missing", [False, True])
def test_classification(missing: bool) -> None:
    outputs, y = draw(N, 3), whole(3, N)
    y = holes(y, -100) if missing else y
    found = measured(Task(3), outputs, y)
    there = y >= 0
    guess = outputs.argmax(1)[there]
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y[there], guess))
    assert found["loss"] == pytest.approx(reference.log_loss(y[there], outputs[there].softmax(1)), rel=1e-5)


@pytest.mark.parametrize("missing", [False, True])
def test_several_labels_have_the_mean_of_their_f1(missing: bool) -> None:
    outputs, y = draw(N, 4), (draw(N, 4, seed=2) > 0).float()
    y = holes(y, float("nan")) if missing else y
    found = measured(Task(4, "multilabel"), outputs, y)
    scores, losses = [], []
    for column in range(4):
        there = ~y[:, column].isnan()
        truth, logits = y[there, column], outputs[there, column]
        scores.append(reference.f1_score(truth, logits > 0))
        losses.append(nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none"))
    assert found["f1"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert found["loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("values", [1, 3])
def test_values_have_r2_and_mae(values: int, missing: bool) -> None:
    outputs, y = draw(N, values), draw(N, values, seed=2) + 100
    outputs = outputs + 100
    y = holes(y, float("nan")) if missing else y
    y = y[:, 0] if values == 1 else y
    found = measured(Task(values, "regression"), outputs, y)
    columns = y.reshape(N, values)
    r2, errors = [], []
    for column in range(values):
        there = ~columns[:, column].isnan()
        truth, guess = columns[there, column].double(), outputs[there, column].double()
        r2.append(reference.r2_score(truth, guess))
        errors.append((truth - guess).abs())
    assert found["r2"] == pytest.approx(np.mean(r2), rel=1e-9)
    assert found["mae"] == pytest.approx(float(torch.cat(errors).mean()), rel=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_tokens(missing: bool) -> None:
    outputs, y = draw(N, 5, T), whole(5, N, T)
    y = holes(y, -100) if missing else y
    found = measured(Task(5, "tokens"), outputs, y)
    there = y >= 0
    guess = outputs.argmax(1)[there]
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y[there], guess))
    probabilities = outputs.movedim(1, -1).softmax(-1)[there]
    assert found["loss"] == pytest.approx(reference.log_loss(y[there], probabilities), rel=1e-5)


@pytest.mark.parametrize("missing", [False, True])
def test_pixels_have_the_mean_intersection_over_union(missing: bool) -> None:
    outputs, y = draw(N, 3, SIDE, SIDE), whole(3, N, SIDE, SIDE)
    y = holes(y, 255) if missing else y
    found = measured(Task(3, "dense", ignore=255), outputs, y)
    there = y != 255
    truth, guess = y[there], outputs.argmax(1)[there]
    expected = reference.jaccard_score(truth, guess, average="macro")
    assert found["iou"] == pytest.approx(expected, rel=1e-6)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, guess))


def test_outputs_of_coarse_maps_are_enlarged_to_the_labels() -> None:
    coarse, y = draw(N, 3, 2, 2), whole(3, N, SIDE, SIDE)
    fine = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear", align_corners=False)
    assert measured(Task(3, "dense"), coarse, y) == measured(Task(3, "dense"), fine, y)


def test_class_weights_are_those_of_torch() -> None:
    outputs, y, weights = draw(N, 3), whole(3, N), [1.0, 5.0, 0.5]
    expected = nn.functional.cross_entropy(outputs, y, torch.tensor(weights))
    assert measured(Task(3, class_weights=weights), outputs, y)["loss"] == pytest.approx(float(expected))
    bits = (draw(N, 3, seed=4) > 0).float()
    yes = nn.functional.binary_cross_entropy_with_logits(outputs, bits, pos_weight=torch.tensor(weights))
    found = measured(Task(3, "multilabel", class_weights=weights), outputs, bits)
    assert found["loss"] == pytest.approx(float(yes))


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_a_number_stands_for_a_missing_target(kind: Any) -> None:
    outputs, y = draw(N, 2), whole(2, N, 2)
    with_number = torch.where(holes(y, -1) < 0, torch.full_like(y, -1), y)
    with_nan = torch.where(with_number < 0, torch.nan, y.float())
    task = Task(2, kind, ignore=-1)
    assert measured(task, outputs, with_number) == measured(Task(2, kind), outputs, with_nan)
    evaluation = TaskEvaluation({"t": task})
    assert torch.equal(evaluation.labels("t", with_number), with_number >= 0)


def test_a_kind_s_loss_and_metrics_can_be_others() -> None:
    task = Task(3, loss=nn.MultiMarginLoss(), metrics={"f1": MulticlassF1Score(3, average="macro")})
    outputs, y = draw(N, 3), whole(3, N)
    found = measured(task, outputs, y)
    assert found["f1"] == pytest.approx(reference.f1_score(y, outputs.argmax(1), average="macro"), rel=1e-6)
    assert found["loss"] == pytest.approx(float(nn.functional.multi_margin_loss(outputs, y)), rel=1e-6)


def test_losses_and_metrics_by_task() -> None:
    metrics: dict[str, dict[str, Metric]] = {"b": {"f1": MulticlassF1Score(3)}}
    evaluation = TaskEvaluation({"a": Task(1, "regression"), "b": 3}, {"a": nn.HuberLoss()}, metrics)
    assert isinstance(evaluation.loss("a"), nn.HuberLoss)
    assert isinstance(evaluation.loss("b"), nn.CrossEntropyLoss)
    assert set(evaluation.training_measures("a")) == {"loss", "r2", "mae"}
    assert set(evaluation.training_measures("b")) == {"loss", "f1"}


class TestR2:
    def test_constant_targets_as_in_scikit_learn(self) -> None:
        for guess in ([2.0, 2.0, 2.0], [2.0, 2.0, 3.0]):
            metric = R2Score()
            metric.update(torch.tensor(guess), torch.full((3,), 2.0))
            assert float(metric.compute()) == reference.r2_score([2.0] * 3, guess)

    def test_an_output_with_one_target_is_left_out(self) -> None:
        metric = R2Score(2)
        nan = float("nan")
        metric.update(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[1.5, nan], [2.5, 3.0]]))
        assert float(metric.compute()) == pytest.approx(reference.r2_score([1.5, 2.5], [1.0, 2.0]))
        alone = R2Score()
        alone.update(torch.ones(1), torch.ones(1))
        assert bool(alone.compute().isnan())

    def test_far_from_zero(self) -> None:
        y = draw(1000).double() + 1e9
        guess = y + 0.1 * draw(1000, seed=3).double()
        metric = R2Score()
        for some, other in zip(guess.chunk(7), y.chunk(7), strict=True):
            metric.update(some, other)
        assert float(metric.compute()) == pytest.approx(reference.r2_score(y, guess), rel=1e-6)


class Tokens(nn.Module):
    """Features of each token."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.embedding(ids))


class Map(nn.Module):
    """A coarse map of features."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x).relu())


def test_a_readout_of_each_token_and_of_their_mean() -> None:
    net = MultiHeadNet(Tokens(), {"tags": Task(5, "tokens"), "topic": 3})
    ids, mask = whole(20, 4, T), torch.ones(4, T, dtype=torch.long)
    mask[0, 3:] = 0
    read = net({"ids": ids, "attention_mask": mask})
    assert isinstance(read, dict)
    features = net.backbone.embedding(ids)  # type: ignore[operator, union-attr]
    weight, bias = net.readout.weight, net.readout.bias
    expected = torch.einsum("btf,cf->bct", features, weight[:5]) + bias[:5, None]
    assert torch.allclose(read["tags"], expected, atol=1e-6)
    mean = torch.stack([features[0, :3].mean(0), *features[1:].mean(1)])
    assert torch.allclose(read["topic"], mean @ weight[5:].T + bias[5:], atol=1e-6)
    joint = net.forward_tasks({"tags": {"ids": ids}, "topic": {"ids": ids}})
    assert torch.equal(joint["tags"], read["tags"])


def test_a_readout_of_each_pixel_and_of_their_mean() -> None:
    net, x = MultiHeadNet(Map(), {"mask": Task(3, "dense"), "count": Task(1, "regression")}), draw(4, 1, 8, 8)
    read = net(x)
    assert isinstance(read, dict)
    features = net.features(x)
    coarse = nn.functional.conv2d(features, net.readout.weight[:3, :, None, None], net.readout.bias[:3])
    expected = nn.functional.interpolate(coarse, (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(read["mask"], expected, atol=1e-6)
    mean = features.mean((2, 3)) @ net.readout.weight[3:].T + net.readout.bias[3:]
    assert torch.allclose(read["count"], mean, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch16_224"])
def test_maps_of_timm_s_networks_are_what_it_pools(name: str) -> None:
    options = {"img_size": 32, "patch_size": 4, "depth": 1, "num_heads": 2, "global_pool": "avg"}
    options = {} if name == "resnet18" else {**options, "class_token": False, "fc_norm": False}
    torch.manual_seed(0)
    pooled = TimmBackbone(name, options=options).eval()
    torch.manual_seed(0)
    map_ = TimmBackbone(name, options=options, pooled=False).eval()
    x = draw(2, 3, 32, 32)
    features = map_(x)
    assert features.shape[:2] == (2, map_.num_features)
    assert torch.allclose(features.mean((2, 3)), pooled(x), atol=1e-5)
    if name != "resnet18":  # patches lie where they are in the image: the first row is of its upper edge
        changed = x.clone()
        changed[:, :, :4, 28:] += 1
        with torch.no_grad():
            for block in map_.network.blocks:
                block.attn.proj.weight.zero_()  # else every patch would see the change
            moved = (map_(changed) - map_(x)).abs().amax(1)[0] > 0
        assert moved.nonzero().tolist() == [[0, 7]]


class TestHeads:
    def net(self) -> MultiHeadNet:
        backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        return MultiHeadNet(backbone, {"main": 2, "aux": Task(3, head=head)}, num_features=8)

    def test_it_reads_the_features(self) -> None:
        net, x = self.net(), draw(5, 4)
        read = net(x)
        assert isinstance(read, dict)
        assert list(read) == ["main", "aux"]
        head = cast(Any, net.heads)["/aux"]
        assert torch.equal(read["aux"], head(net.backbone(x)))
        assert net.readout.out_features == 2
        assert net.tasks == {"main": 2, "aux": 3}

    def test_every_parameter_joins_every_step(self) -> None:
        net, x = self.net(), draw(5, 4)
        for task in ("main", "aux"):
            net.zero_grad()
            net.forward_tasks({task: x})[task].sum().backward()
            assert all(p.grad is not None for p in net.parameters())
            idle = net.readout if task == "aux" else cast(Any, net.heads)["/aux"]
            assert all(bool((p.grad == 0).all()) for p in idle.parameters())

    def test_it_is_drawn_anew(self) -> None:
        net = self.net()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        net.reset_readout(0.0, ["aux"])
        after = dict(net.named_parameters())
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        assert moved == {f"heads./aux.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
        assert not bool(after["heads./aux.2.weight"].any())
        assert bool(after["heads./aux.0.weight"].any())

    def test_it_is_a_part_of_the_readout(self) -> None:
        net = self.net()
        own = {id(p) for p in net.readout_parameters()}
        assert own == {id(p) for name, p in net.named_parameters() if not name.startswith("backbone")}

    def test_a_net_of_heads_alone(self) -> None:
        net = MultiHeadNet(Map(), {"mask": Task(2, "dense")}, heads={"mask": nn.Conv2d(8, 2, 1)})
        assert net(draw(2, 1, 8, 8), "mask").shape == (2, 2, 8, 8)  # type: ignore[union-attr]


LINEAR = nn.Linear(4, 8)


def forward(tasks: Any, x: Any, backbone: Any = LINEAR, **options: Any) -> Any:
    return MultiHeadNet(backbone, tasks, num_features=8, **options)(x)


def first_step(task: Task, outputs: Tensor, y: Any) -> Any:
    return TaskEvaluation({"t": task}).train_step("t", outputs, y)


PLAIN, BITS = draw(N, 3), (draw(N, 3) > 0).long()
BAD: dict[str, tuple[Any, str]] = {
    "an unknown kind": (lambda: Task(2, cast(Any, "segmentation")), "kind: 'segmentation' is unknown"),
    "no output": (lambda: Task(0), "outputs: 0"),
    "one class": (lambda: TaskEvaluation({"t": Task(1)}), "'t' has one output, which is no classification"),
    "weights of values": (
        lambda: Task(1, "regression", class_weights=[1.0]),
        "class_weights: kind 'regression' has no classes",
    ),
    "too few weights": (lambda: Task(3, class_weights=[1.0, 2.0]), "class_weights: 2 for 3 outputs"),
    "negative weights": (lambda: Task(2, class_weights=[1.0, -2.0]), "class_weights: [1.0, -2.0] must be"),
    "weights beside a loss": (
        lambda: Task(2, loss=nn.CrossEntropyLoss(), class_weights=[1.0, 2.0]),
        "class_weights: give them to the loss",
    ),
    "values for classes": (
        lambda: first_step(Task(3), PLAIN, draw(N)),
        "takes numbers of classes, and got",
    ),
    "classes for bits": (
        lambda: first_step(Task(3, "multilabel"), PLAIN, whole(3, N)),
        "tasks: 't' of kind 'multilabel': BCEWithLogitsLoss takes targets of shape (40, 3)",
    ),
    "numbers beyond yes and no": (
        lambda: first_step(Task(3, "multilabel"), PLAIN, BITS * 2),
        "takes targets from 0 to 1, and got 0 to 2",
    ),
    "one label an example for tokens": (
        lambda: first_step(Task(3, "tokens"), draw(N, 3, T), whole(3, N)),
        "tasks: 't' of kind 'tokens': CrossEntropyLoss takes numbers of classes of shape (40, 7)",
    ),
    "a class too many": (
        lambda: first_step(Task(3, "dense"), draw(N, 3, SIDE, SIDE), whole(4, N, SIDE, SIDE)),
        "takes classes 0 to 2, and got 0 to 3",
    ),
    "a metric of another kind": (
        lambda: first_step(Task(3, "regression", metrics={"f1": MulticlassF1Score(3)}), PLAIN, draw(N, 3)),
        "metrics: f1 (MulticlassF1Score) of task 't' compares classes",
    ),
    "tokens from one vector": (
        lambda: forward({"t": Task(3, "tokens")}, draw(5, 4)),
        "tasks: 't' by kind 'tokens' reads features (batch, tokens, 8), and Linear returned (5, 8)",
    ),
    "pixels from tokens": (
        lambda: forward({"t": Task(3, "dense")}, draw(5, 7, 4)),
        "tasks: 't' by kind 'dense' reads features (batch, 8, height, width), and Linear returned (5, 7, 8)",
    ),
    "a head of another width": (
        lambda: forward({"t": 3}, draw(5, 4), heads={"t": nn.Linear(8, 2)}),
        "heads: that of task 't' returned (5, 2); it must be (batch, 3, ...)",
    ),
    "a head of an unknown task": (
        lambda: forward({"t": 3}, draw(5, 4), heads={"s": nn.Linear(8, 3)}),
        "heads: 's' is unknown",
    ),
    "a head that is none": (
        lambda: forward({"t": 3}, draw(5, 4), heads={"t": cast(Any, "linear")}),
        "heads: 'linear' of task 't' is no module",
    ),
    "metrics of an unknown task": (
        lambda: TaskEvaluation({"t": 3}, None, {"s": {"f1": MulticlassF1Score(3)}}),
        "metrics: given for s, but the tasks are t",
    ),
    "a loss of an unknown task": (
        lambda: TaskEvaluation({"t": 3}, {"s": nn.CrossEntropyLoss()}),
        "losses: given for s, but the tasks are t",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_told_in_one_line(case: str) -> None:
    attempt, message = BAD[case]
    with pytest.raises(ConfigurationError) as caught:
        attempt()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modules_take_tasks() -> None:
    backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    tasks = {"main": Task(1, "regression"), "aux": 3}
    module = MultiTaskModule(backbone, tasks, num_features=8)
    assert module.tasks == {"main": 1, "aux": 3}
    assert set(module.task_metrics("main")) == {"r2", "mae"}
    single = SingleTaskModule(backbone, {"main": 2}, num_features=8, heads={"main": nn.Linear(8, 2)})
    assert {name for name, _ in single.named_parameters() if "heads" in name} == {
        "net.heads./main.weight",
        "net.heads./main.bias",
    }


def test_pretrained_with_other_heads_keeps_the_backbone(tmp_path: Path) -> None:
    def module(head: nn.Module | None, **options: Any) -> SingleTaskModule:
        torch.manual_seed(len(options))
        backbone = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        return SingleTaskModule(backbone, {"main": Task(3, head=head)}, num_features=8, **options)

    before = module(nn.Linear(8, 3))
    torch.save({"state_dict": before.state_dict(), "lit_aux": {}}, tmp_path / "w.ckpt")
    for head in (nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3)), None):
        after = module(head, pretrained=str(tmp_path / "w.ckpt"))
        for name, value in after.net.backbone.state_dict().items():
            assert torch.equal(value, before.net.backbone.state_dict()[name])
