"""Losses and metrics where targets are missing, against torch's loss of all labelled targets at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from method_helpers import (
    FEATURES,
    Batch,
    Batches,
    backbone,
    expected_step,
    gradients_by_hand,
    module_of,
    train,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MultilabelF1Score
from torchmetrics.regression import MeanSquaredError, R2Score
from toys import toy_trainer

from lit_aux import PhaseSettings
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule, SingleTaskModule
from lit_aux.modules.deep_training import check_tasks
from lit_aux.modules.evaluation import TaskEvaluation

NAN = float("nan")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(n: int, count: int, seed: int = 1) -> Tensor:
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


def holes(y: Tensor, value: Any, share: float = 0.5, seed: int = 2) -> Tensor:
    """Return targets of which some elements are missing."""
    missing = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed)) < share
    assert 0 < int(missing.sum()) < y.numel()
    return torch.where(missing, torch.full_like(y, value), y)


def measured(evaluation: TaskEvaluation, outputs: Tensor, y: Tensor, sizes: list[int]) -> dict[str, float]:
    """Return the values of a test on batches of some sizes."""
    for part, target in zip(outputs.split(sizes), y.split(sizes), strict=True):
        evaluation.update("test", "t", part, target)
    return {name: float(value) for name, value in evaluation.compute("test")["t"].items()}


# The numbers


def test_sixteen_of_thirty_two_labels_of_which_eleven_are_right() -> None:
    y = torch.full((32,), -100)
    y[:16] = classes(16, 2)
    outputs = F.one_hot(y.clamp(min=0), 2) * 3.0
    outputs[:5] = outputs[:5].flip(1)
    found = measured(TaskEvaluation({"t": 2}), outputs, y, [32])
    assert found["accuracy"] == 11 / 16 == 0.6875
    assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs[:16], y[:16])), rel=1e-6)


# Every kind of loss: batches of different numbers of labels are, together, the loss of all labels

N, C = 24, 5
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])
SHARES = (draw(N, C, seed=5) > 0).float()
DENSE = torch.randint(C, (N, 3, 2), generator=torch.Generator().manual_seed(3))
PROBABILITIES = draw(N, C, seed=6).softmax(1)
ROWS = torch.arange(N) % 3 == 0


def without(y: Tensor) -> Tensor:
    """Return float targets of which every third example has none."""
    return torch.where(ROWS.view(-1, *[1] * (y.ndim - 1)), NAN, y)


LOSSES: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
    "cross entropy": (nn.CrossEntropyLoss(), draw(N, C), holes(classes(N, C), -100)),
    "an ignore_index": (nn.CrossEntropyLoss(ignore_index=255), draw(N, C), holes(classes(N, C), 255)),
    "a class is ignored": (nn.CrossEntropyLoss(ignore_index=0), draw(N, C), classes(N, C)),
    "class weights": (nn.CrossEntropyLoss(WEIGHT), draw(N, C), holes(classes(N, C), -100)),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), draw(N, C), holes(classes(N, C), -100)),
    "weights, smoothing": (
        nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
        draw(N, C),
        holes(classes(N, C), -100),
    ),
    "weights, all there": (nn.CrossEntropyLoss(WEIGHT), draw(N, C), classes(N, C)),
    "dense": (nn.CrossEntropyLoss(ignore_index=9), draw(N, C, 3, 2), holes(DENSE, 9)),
    "nll": (nn.NLLLoss(WEIGHT), draw(N, C).log_softmax(1), holes(classes(N, C), -100)),
    "squares": (nn.MSELoss(), draw(N, C), holes(draw(N, C, seed=4), NAN)),
    "absolute": (nn.L1Loss(), draw(N, 1), holes(draw(N, 1, seed=4), NAN)),
    "huber": (nn.HuberLoss(), draw(N, C), holes(draw(N, C, seed=4), NAN)),
    "bits": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), draw(N, C), holes(SHARES, NAN)),
    "bits of -100": (nn.BCEWithLogitsLoss(), draw(N, C), holes(SHARES, -100)),
    "whole bits": (nn.BCEWithLogitsLoss(), draw(N, C), holes(SHARES.long(), -100)),
}


def labelled(loss: nn.Module, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of what is labelled, flat, as anybody would pick them out."""
    ignored = getattr(loss, "ignore_index", -100)
    known = ~y.isnan() if y.is_floating_point() else y != ignored
    known = known & (y != -100)
    if y.shape == outputs.shape:
        return outputs[known], y[known].to(outputs.dtype)
    return outputs.movedim(1, -1)[known], y[known]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_mean_over_batches_is_the_loss_of_all_labels(name: str, reduction: str) -> None:
    loss, outputs, y = LOSSES[name]
    if name == "bits":  # whose weights are of outputs
        known = ~y.isnan()
        each = F.binary_cross_entropy_with_logits(
            outputs, y.nan_to_num(), pos_weight=WEIGHT, reduction="none"
        )
        expected = float(each[known].mean())
    else:
        expected = float(loss(*labelled(loss, outputs, y)))
    try:
        loss.reduction = reduction  # type: ignore[assignment]
        evaluation = TaskEvaluation({"t": outputs.shape[1]}, loss, {})
        found = measured(evaluation, outputs, y, [1, 2, 5, 16])["loss"]
        if reduction != "sum":
            assert found == pytest.approx(expected, rel=1e-5)
            return
        count = labelled(loss, outputs, y)[1].numel()
        total = WEIGHT[labelled(loss, outputs, y)[1]].sum() if "weight" in name or name == "nll" else count
        assert found == pytest.approx(float(expected * total / total), rel=1e-5)
        # what trains is the sum itself
        trained = evaluation.train_step("t", outputs, y).value
        assert float(trained) == pytest.approx(expected * float(total), rel=1e-5)
    finally:
        loss.reduction = "mean"  # type: ignore[assignment]


@pytest.mark.parametrize("name", LOSSES)
def test_what_trains_has_the_gradient_of_the_labelled(name: str) -> None:
    loss, outputs, y = LOSSES[name]
    if name == "bits":
        return
    mine, theirs = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        TaskEvaluation({"t": outputs.shape[1]}, loss, {}).train_step("t", mine, y).value, mine
    )
    (expected,) = torch.autograd.grad(loss(*labelled(loss, theirs, y)), theirs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_label_is_zero_with_a_zero_gradient(name: str) -> None:
    loss, outputs, y = LOSSES[name]
    none = torch.full_like(y, NAN if y.is_floating_point() else getattr(loss, "ignore_index", -100))
    leaf = outputs.clone().requires_grad_()
    evaluation = TaskEvaluation({"t": outputs.shape[1]}, loss, {})
    found = evaluation.train_step("t", leaf, none)
    assert float(found.value) == 0
    assert not found.labelled
    assert torch.equal(torch.autograd.grad(found.value, leaf)[0], torch.zeros_like(leaf))
    evaluation.update("test", "t", outputs, none)
    assert evaluation.compute("test") == {}


def test_distributions_and_multilabel_margins() -> None:
    logits, y = draw(N, C), without(PROBABILITIES)
    sizes = [1, 2, 5, 16]
    found = measured(TaskEvaluation({"t": C}), logits, y, sizes)
    assert found["loss"] == pytest.approx(
        float(F.cross_entropy(logits[~ROWS], PROBABILITIES[~ROWS])), rel=1e-5
    )
    right = logits.argmax(1) == PROBABILITIES.argmax(1)
    assert found["accuracy"] == pytest.approx(float(right[~ROWS].float().mean()))
    logs = logits.log_softmax(1)
    for reduction in ("batchmean", "mean"):
        found = measured(TaskEvaluation({"t": C}, nn.KLDivLoss(reduction=reduction), {}), logs, y, sizes)
        expected = F.kl_div(logs[~ROWS], PROBABILITIES[~ROWS], reduction=reduction)
        assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    for loss in (nn.MultiLabelSoftMarginLoss(), nn.BCEWithLogitsLoss()):
        found = measured(TaskEvaluation({"t": C}, loss, {}), logits, holes(SHARES, NAN), sizes)
        known = ~holes(SHARES, NAN).isnan()
        expected = F.binary_cross_entropy_with_logits(logits[known], SHARES[known])
        assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    found = measured(TaskEvaluation({"t": C}, nn.SoftMarginLoss()), logits, without(SHARES * 2 - 1), sizes)
    assert found["loss"] == pytest.approx(
        float(F.soft_margin_loss(logits[~ROWS], SHARES[~ROWS] * 2 - 1)), rel=1e-5
    )
    assert found["accuracy"] == pytest.approx(float(((logits > 0) == (SHARES > 0))[~ROWS].float().mean()))


class Focal(nn.Module):
    """Somebody's own loss, which knows nothing of missing labels; one value an example if asked."""

    def __init__(self, each: bool = False) -> None:
        super().__init__()
        self.each = each

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        logs = outputs.log_softmax(1).gather(1, y[:, None])[:, 0]
        losses = -((1 - logs.exp()) ** 2) * logs
        return losses if self.each else losses.mean()


@pytest.mark.parametrize("each", [False, True])
def test_somebodys_own_loss_sees_the_labelled_examples(each: bool) -> None:
    outputs, y = draw(N, C), holes(classes(N, C), -100)
    found = measured(TaskEvaluation({"t": C}, Focal(each)), outputs, y, [1, 2, 5, 16])
    known = y != -100
    assert found["loss"] == pytest.approx(float(Focal()(outputs[known], y[known])), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((outputs.argmax(1) == y)[known].float().mean()))


def test_classes_that_weigh_nothing_count_nothing() -> None:
    loss = nn.CrossEntropyLoss(torch.tensor([0.0, 1.0]))
    outputs, y = draw(4, 2), torch.tensor([0, 0, 1, 1])
    found = measured(TaskEvaluation({"t": 2}, loss), outputs, y, [2, 2])
    assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs[2:], y[2:])), rel=1e-6)


# Metrics


@pytest.mark.parametrize("name", ["cross entropy", "an ignore_index", "a class is ignored", "dense"])
def test_metrics_of_classes_count_labels(name: str) -> None:
    loss, outputs, y = LOSSES[name]
    metrics = {
        "macro": MulticlassAccuracy(C, average="macro"),
        "f1": MulticlassF1Score(C, average="macro"),
        "own": MulticlassAccuracy(C, average="micro", ignore_index=1),
    }
    found = measured(TaskEvaluation({"t": C}, loss, metrics), outputs, y, [1, 2, 5, 16])
    predicted, truth = labelled(loss, outputs, y)
    for metric in ("macro", "f1", "own"):
        metrics[metric].reset()
        expected = metrics[metric](predicted.argmax(-1), truth)
        assert found[metric] == pytest.approx(float(expected), rel=1e-5)


def test_default_accuracy_of_bits() -> None:
    y = SHARES.clone()
    found = measured(TaskEvaluation({"t": C}, nn.BCEWithLogitsLoss()), (y - 0.5) * 9, y, [7, 17])
    assert found["accuracy"] == 1.0  # every bit is right
    some = holes(SHARES, NAN)
    outputs = draw(N, C)
    found = measured(TaskEvaluation({"t": C}, nn.BCEWithLogitsLoss()), outputs, some, [7, 17])
    known = ~some.isnan()
    assert found["accuracy"] == pytest.approx(float(((outputs > 0) == (SHARES > 0))[known].float().mean()))


@pytest.mark.parametrize("metrics", [None, {"accuracy": MultilabelF1Score(2, average="micro")}])
def test_logits_between_0_and_1_are_not_taken_for_probabilities(metrics: Any) -> None:
    outputs, y = torch.tensor([[0.3, 0.4], [0.1, 0.2]]), torch.ones(2, 2)
    assert (
        measured(TaskEvaluation({"t": 2}, nn.BCEWithLogitsLoss(), metrics), outputs, y, [2])["accuracy"] == 1
    )


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_one_bit_and_one_value_an_example(shape: tuple[int, ...]) -> None:
    outputs, y = draw(N, 1), SHARES[:, 0].reshape(shape)
    found = measured(TaskEvaluation({"t": 1}, nn.BCEWithLogitsLoss()), outputs, y, [7, 17])
    assert found["accuracy"] == pytest.approx(
        float(((outputs[:, 0] > 0) == (SHARES[:, 0] > 0)).float().mean())
    )
    values = holes(draw(N, 1, seed=4), NAN).reshape(shape)
    found = measured(TaskEvaluation({"t": 1}, nn.MSELoss()), outputs, values, [7, 17])
    error = outputs[:, 0] - values.flatten()
    assert found["loss"] == pytest.approx(float(error.square().nanmean()), rel=1e-5)
    assert found["mae"] == pytest.approx(float(error.abs().nanmean()), rel=1e-5)


def test_metrics_of_values_with_parts_missing() -> None:
    outputs, y = draw(N, C), holes(draw(N, C, seed=4), NAN)
    found = measured(TaskEvaluation({"t": C}, nn.MSELoss(), {"mse": MeanSquaredError()}), outputs, y, [7, 17])
    assert found["mse"] == pytest.approx(float((outputs - y).square().nanmean()), rel=1e-5)
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-5)
    whole = without(draw(N, C, seed=4))
    found = measured(TaskEvaluation({"t": C}, nn.MSELoss(), {"r2": R2Score()}), outputs, whole, [7, 17])
    assert found["r2"] == pytest.approx(float(R2Score()(outputs[~ROWS], whole[~ROWS])), rel=1e-4)
    evaluation = TaskEvaluation({"t": C}, nn.MSELoss(), {"r2": R2Score()})
    with pytest.raises(ConfigurationError, match=r"metrics: r2 \(R2Score\) of task 't' cannot leave out"):
        evaluation.update("test", "t", outputs, y)


# Training

TASKS = {"a": 2, "b": 3}


def hollow(which: dict[str, slice], seed: int = 0) -> Batch:
    """Return a batch of eight examples, with labels in some of each task's rows."""
    x, found = draw(8, FEATURES, seed=seed), {}
    for task, outputs in TASKS.items():
        y = torch.full((8,), -100)
        y[which[task]] = classes(8, outputs, seed + 7)[which[task]]
        found[task] = (x.clone(), y)
    return found


HALF = hollow({"a": slice(0, 3), "b": slice(2, 8)})
ONE = hollow({"a": slice(0, 3), "b": slice(0, 0)})
NONE = hollow({"a": slice(0, 0), "b": slice(0, 0)})
OPTIONS = {
    "plain": {},
    "mean": {"reduction": "mean"},
    "PCGrad": {"aggregator": "PCGrad"},
    "MGDA": {"aggregator": "MGDA"},
    "uncertainty": {"weighting": "uncertainty"},
    "gradnorm": {"weighting": "gradnorm"},
    "random": {"weighting": "random"},
}


@pytest.mark.parametrize("norm", [False, True])
def test_a_step_is_that_of_the_labels_of_each_task(norm: bool, tmp_path: Path) -> None:
    moved = train(module_of(TASKS, norm), [HALF], tmp_path)
    expected = expected_step(gradients_by_hand(module_of(TASKS, norm), HALF), lambda matrix: matrix.sum(0))
    for name, value in expected.items():
        torch.testing.assert_close(moved[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_task_without_a_label_is_as_absent(option: str, tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    options = OPTIONS[option]
    found = train(module_of(TASKS, lr=0.1, **options), [HALF, ONE, HALF], tmp_path)
    absent = {"a": ONE["a"]}
    expected = train(module_of(TASKS, lr=0.1, **options), [HALF, absent, HALF], tmp_path)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_step_without_any_label_changes_nothing(option: str, tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    moved = train(module_of(TASKS, **OPTIONS[option]), [NONE], tmp_path)
    assert all(not bool(value.any()) for value in moved.values())


STILL = PhaseSettings(
    max_epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), stop_at_training_loss=100.0
)


def data_of(train_batches: list[Batch], test_batches: list[Batch]) -> Any:
    class Served(Batches):
        def set_phase(self, tasks: list[str], order: str) -> None:
            pass

        def test_dataloader(self) -> Any:
            return DataLoader(test_batches, batch_size=None)  # type: ignore[arg-type]

    return Served(train_batches)


def test_a_run_reports_what_is_labelled_and_stops_on_it(tmp_path: Path) -> None:
    """Of three batches one has no label and the others have different numbers of them."""
    served = [{"a": b["a"]} for b in (HALF, NONE, hollow({"a": slice(0, 7), "b": slice(0, 8)}, seed=3))]
    x, y = (torch.cat(parts) for parts in zip(*(batch["a"] for batch in served), strict=True))
    model = SingleTaskModule(backbone(), {"a": 2}, task="a", settings=STILL)
    with torch.no_grad():
        logits = model(x, "a")
    known = y != -100
    loss = float(F.cross_entropy(logits[known], y[known]))
    accuracy = float((logits.argmax(1) == y)[known].float().mean())
    trainer = toy_trainer(tmp_path)
    trainer.fit(model, datamodule=data_of(served, served))
    (result,) = trainer.phase_results
    for stage in ("train", "test"):
        assert result.metrics[f"a/{stage}_loss"] == pytest.approx(loss, rel=1e-5)
        assert result.metrics[f"a/{stage}_accuracy"] == pytest.approx(accuracy, rel=1e-5)
    assert result.reason == f"training loss {loss:.3g} < 100 after 1 epoch"


def test_an_epoch_without_a_label_is_said(tmp_path: Path) -> None:
    model = MultiTaskModule(backbone(), TASKS, settings=PhaseSettings(max_epochs=2))
    with pytest.warns(UserWarning, match="task 'b' had no label in epoch 0"):
        toy_trainer(tmp_path).fit(model, datamodule=data_of([ONE], [HALF]))


def test_accumulated_batches_report_the_labelled_mean(tmp_path: Path) -> None:
    served = [{"a": b["a"]} for b in (HALF, hollow({"a": slice(0, 7), "b": slice(0, 8)}, seed=3))]
    model = SingleTaskModule(backbone(), {"a": 2}, task="a", settings=STILL)
    x, y = (torch.cat(parts) for parts in zip(*(batch["a"] for batch in served), strict=True))
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x, "a"), y, ignore_index=-100))
    trainer = toy_trainer(tmp_path, accumulate_grad_batches=2)
    trainer.fit(model, datamodule=data_of(served, served))
    assert trainer.phase_results[0].reason.startswith(f"training loss {loss:.3g} < 100")


def test_tasks_of_other_phases_are_refused_in_a_batch() -> None:
    model = SingleTaskModule(backbone(), TASKS, task="a")
    with pytest.raises(
        ConfigurationError, match=r"data: .* task 'b', which phase 'train' does not train.* of a"
    ):
        check_tasks(HALF, model.phases[0])
