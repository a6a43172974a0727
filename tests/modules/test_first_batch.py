"""What is said of a first batch that does not fit loss or metrics, and what is made of one that does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from method_helpers import FEATURES, backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef
from toys import TASKS, ToyData, toy_module, toy_trainer

from lit_aux import PhaseSettings
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.modules.evaluation import TaskEvaluation

N = 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTPUTS, LABELS = draw(N, 3), torch.arange(N) % 3
BITS = (draw(N, 3, seed=1) > 0).float()
VALUES = draw(N, seed=2)


def loss_of(loss: nn.Module | None, outputs: Tensor, y: Any, metrics: Any = None) -> float:
    evaluation = TaskEvaluation({"t": outputs.shape[1]}, loss, metrics)
    return float(evaluation.train_step("t", outputs, y).value.detach())


@pytest.mark.parametrize("kind", ["int32", "uint8", "float32", "column", "numpy", "list"])
def test_numbers_of_classes_of_any_kind(kind: str) -> None:
    y: Any = {
        "int32": LABELS.int(),
        "uint8": LABELS.byte(),
        "float32": LABELS.float(),
        "column": LABELS[:, None],
        "numpy": LABELS.numpy(),
        "list": LABELS.tolist(),
    }[kind]
    expected = float(F.cross_entropy(OUTPUTS, LABELS))
    assert loss_of(None, OUTPUTS, y, None) == pytest.approx(expected)
    some: Any = torch.where(torch.arange(N) < 5, float("nan"), LABELS.double())
    assert loss_of(None, OUTPUTS, some, None) == pytest.approx(
        float(F.cross_entropy(OUTPUTS[5:], LABELS[5:]))
    )


def test_truth_values_are_two_classes() -> None:
    y = LABELS > 0
    assert loss_of(None, OUTPUTS[:, :2], y) == pytest.approx(float(F.cross_entropy(OUTPUTS[:, :2], y.long())))


@pytest.mark.parametrize(
    "y", [VALUES, VALUES.double(), VALUES[:, None], VALUES.numpy(), VALUES[:, None, None]]
)
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss()])
def test_one_value_an_example_is_never_spread_over_others(loss: Any, y: Any) -> None:
    outputs = draw(N, 1).requires_grad_()
    evaluation = TaskEvaluation({"t": 1}, loss)
    value = evaluation.train_step("t", outputs, y).value
    value.backward()  # also where targets are in double precision
    assert float(value.detach()) == pytest.approx(float(loss(outputs.detach()[:, 0], VALUES)), rel=1e-5)


def test_bits_of_any_kind() -> None:
    expected = float(F.binary_cross_entropy_with_logits(OUTPUTS, BITS))
    for y in (BITS, BITS.long(), BITS.bool(), BITS.double(), BITS.byte()):
        assert loss_of(nn.BCEWithLogitsLoss(), OUTPUTS, y, None) == pytest.approx(expected)


class Squares(nn.Module):
    """Somebody's own squared error, which spreads (B,) over (B, 1) without a word."""

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return ((outputs - y) ** 2).mean()


class FirstColumn(nn.Module):
    """Somebody's own squared error of the first column."""

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return ((outputs[:, 0] - y) ** 2).mean()


class Squeezed(nn.Module):
    """Somebody's own squared error of what is left without the last dimension."""

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return ((outputs.squeeze(-1) - y) ** 2).mean()


class Error(Metric):
    """Somebody's own metric, which would spread (B,) over (B, 1)."""

    def __init__(self, column: bool = False) -> None:
        super().__init__()
        self.column = column
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("count", torch.zeros(()), "sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        error = ((outputs[:, 0] if self.column else outputs) - y).abs()
        self.total, self.count = self.total + error.sum(), self.count + error.numel()

    def compute(self) -> Tensor:
        return self.total / self.count


@pytest.mark.parametrize("loss", [Squares(), FirstColumn(), Squeezed()])
def test_somebodys_own_loss_and_metric_of_one_value(loss: nn.Module) -> None:
    outputs, missing = draw(N, 1), torch.where(torch.arange(N) < 5, float("nan"), VALUES)
    metrics = {"a": Error(), "b": Error(True), "r": PearsonCorrCoef(), "mse": MeanSquaredError()}
    for y in (VALUES, missing):
        evaluation = TaskEvaluation({"t": 1}, loss, metrics)
        for part in (slice(0, 7), slice(7, N)):
            evaluation.update("test", "t", outputs[part], y[part])
        found = evaluation.compute("test")["t"]
        error = (outputs[:, 0] - y)[~y.isnan()]
        assert float(found["loss"]) == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert float(found["mse"]) == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert float(found["a"]) == pytest.approx(float(error.abs().mean()), rel=1e-5)
        assert float(found["b"]) == pytest.approx(float(error.abs().mean()), rel=1e-5)
        pair = torch.stack([outputs[:, 0], y])[:, ~y.isnan()]
        assert float(found["r"]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-5)


MANY = {
    "classes from 1": (
        None,
        OUTPUTS,
        LABELS + 1,
        "CrossEntropyLoss of task 't' takes classes 0 to 2, .* 1 to 3; subtract 1",
    ),
    "negative classes": (None, OUTPUTS, LABELS - 1, "got -1 to 1; -100 is for missing labels"),
    "fractions": (None, OUTPUTS, LABELS + 0.5, "takes numbers of classes, and got 0.5"),
    "several classes": (
        None,
        OUTPUTS,
        BITS.long(),
        r"int64 of shape \(12, 3\); for several classes .* BCEWithLogits",
    ),
    "bits of cross entropy": (None, OUTPUTS, BITS, "targets that sum to 1 .*BCEWithLogitsLoss"),
    "values of many": (
        nn.MSELoss(),
        OUTPUTS,
        VALUES,
        r"targets of shape \(12, 3\) for outputs \(12, 3\).* \(12,\)",
    ),
    "many of one": (nn.MSELoss(), OUTPUTS[:, :1], draw(N, 3), r"targets of shape \(12, 1\)"),
    "a square": (nn.MSELoss(), draw(3, 3), draw(3), r"targets of shape \(3, 3\) .* float32 of shape \(3,\)"),
    "infinite": (nn.MSELoss(), OUTPUTS[:, 0:1], VALUES / 0, "infinite targets; NaN is for missing"),
    "whole values": (nn.MSELoss(), OUTPUTS[:, :1], LABELS - 100, "floats, with NaN for what is missing"),
    "signs for bits": (nn.BCEWithLogitsLoss(), OUTPUTS, BITS * 2 - 1, "from 0 to 1, and got -1 to 1"),
    "bits for signs": (nn.SoftMarginLoss(), OUTPUTS, BITS, "targets of 1 and -1, and got 0 to 1"),
    "counts": (nn.PoissonNLLLoss(), OUTPUTS[:, :1], VALUES, "takes counts"),
    "no log-probabilities": (nn.NLLLoss(), OUTPUTS, LABELS, "log-probabilities, .* use CrossEntropyLoss"),
    "nor here": (nn.KLDivLoss(reduction="batchmean"), OUTPUTS, OUTPUTS.softmax(1), "use CrossEntropyLoss"),
    "no probabilities": (nn.BCELoss(), OUTPUTS, BITS, "use BCEWithLogitsLoss"),
    "fewer targets": (None, OUTPUTS, LABELS[:7], r"targets of shape \(7,\) for 12 examples"),
    "a single target": (None, OUTPUTS, LABELS[0], r"targets of shape \(\) for 12 examples"),
    "words": (None, OUTPUTS, ["a"] * N, "refuses outputs .* and targets"),
    "another kind of loss": (nn.CTCLoss(), OUTPUTS, LABELS, "CTCLoss of task 't' refuses outputs .* int64"),
}


@pytest.mark.parametrize("case", MANY)
@pytest.mark.parametrize("stage", ["train", "val"])
def test_what_cannot_be_meant_is_refused_in_one_line(case: str, stage: str) -> None:
    loss, outputs, y, message = MANY[case]
    evaluation = TaskEvaluation({"t": outputs.shape[1]}, loss, {})
    with pytest.raises(ConfigurationError, match=message) as caught:
        evaluation.train_step("t", outputs, y) if stage == "train" else evaluation.update(
            "val", "t", outputs, y
        )
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("losses: ")


METRICS = {
    "classes of bits": (
        nn.BCEWithLogitsLoss(),
        BITS,
        MulticlassF1Score(3),
        "compares classes, .* MultilabelAcc",
    ),
    "classes of values": (
        nn.MSELoss(),
        draw(N, 3),
        MulticlassF1Score(3),
        "compares classes, and the targets are",
    ),
    "other classes": (
        None,
        LABELS,
        MulticlassF1Score(5),
        r"refuses outputs \(12, 3\) and targets int64 \(12,\)",
    ),
    "values of classes": (None, LABELS, MeanSquaredError(), "refuses outputs"),
}


@pytest.mark.parametrize("case", METRICS)
def test_metrics_that_are_for_something_else(case: str) -> None:
    loss, y, metric, message = METRICS[case]
    evaluation = TaskEvaluation({"t": 3}, loss, {"m": metric})
    with pytest.raises(
        ConfigurationError, match=rf"metrics: m \({type(metric).__name__}\) of task 't' .*{message}"
    ):
        evaluation.train_step("t", OUTPUTS, y)


def test_somebodys_own_loss_of_bits_needs_metrics() -> None:
    class Own(nn.Module):
        def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(outputs, y)

    with pytest.raises(ConfigurationError, match=r"metrics: accuracy .* compares classes"):
        TaskEvaluation({"t": 3}, Own()).train_step("t", OUTPUTS, BITS)


@pytest.mark.parametrize("loss", [None, nn.NLLLoss(), Squares()])
def test_one_output_is_no_classification(loss: nn.Module | None) -> None:
    with pytest.raises(ConfigurationError, match="one output, which is no classification"):
        TaskEvaluation({"t": 1}, loss)


def test_the_first_batch_with_a_label_is_the_one_that_is_checked() -> None:
    evaluation = TaskEvaluation({"t": 3})
    evaluation.train_step("t", OUTPUTS, torch.full((N,), -100))
    with pytest.raises(ConfigurationError, match="takes classes 0 to 2"):
        evaluation.train_step("t", OUTPUTS, LABELS + 1)


# In a run: nothing has been trained when it is said


class Wrong(ToyData):
    """Tasks whose labels are wrong in one of the splits, and whose validation comes first."""

    def __init__(self, split: int) -> None:
        super().__init__()
        self.split = split

    def _loader(self, offset: int, shuffle: bool) -> DataLoader[Any]:
        loader = super()._loader(offset, shuffle)
        if offset == self.split:
            items: Any = loader.dataset
            items.items = {task: (x, y + 1) for task, (x, y) in items.items.items()}
        return loader


@pytest.mark.parametrize("split", [0, 1])
def test_wrong_labels_are_refused_before_anything_is_trained(split: int, tmp_path: Path) -> None:
    module = toy_module()
    start = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(
        ConfigurationError, match="losses: CrossEntropyLoss of task 'aux' takes classes 0 to 1"
    ):
        toy_trainer(tmp_path).fit(module, datamodule=Wrong(split))
    assert all(torch.equal(p, start[name]) for name, p in module.named_parameters())


def test_wrong_labels_of_a_test_are_refused(tmp_path: Path) -> None:
    module = SingleTaskModule(backbone(), TASKS, settings=PhaseSettings(max_epochs=1))
    with pytest.raises(ConfigurationError, match="takes classes 0 to 1, and got 1 to 2"):
        toy_trainer(tmp_path).fit(module, datamodule=Wrong(2))


# Data that do not know of phases


class NoPhases(LightningDataModule):
    """Both tasks in every batch, whatever trains."""

    def train_dataloader(self) -> Any:
        x = draw(8, FEATURES)
        return DataLoader([{task: (x, LABELS[:8] % 2) for task in TASKS}] * 3, batch_size=None)  # type: ignore[arg-type]


class OnlyTasks(NoPhases):
    def set_phase(self, tasks: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"datamodule": NoPhases()},
            "data: NoPhases without set_phase would train the same tasks in each of",
        ),
        ({"train_dataloaders": NoPhases()}, "data: NoPhases without set_phase"),
        ({"train_dataloaders": NoPhases().train_dataloader()}, "data: loaders without set_phase"),
        ({"datamodule": OnlyTasks()}, "data: set_phase of OnlyTasks must take the tasks and their order"),
    ],
)
def test_data_without_set_phase_are_refused_for_several_phases(
    data: Any, message: str, tmp_path: Path
) -> None:
    module = toy_module()
    start = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(ConfigurationError, match=message) as caught:
        toy_trainer(tmp_path).fit(module, **data)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, start[name]) for name, p in module.named_parameters())


def test_phases_of_the_same_tasks_need_no_set_phase(tmp_path: Path) -> None:
    settings = PhaseSettings(max_epochs=1)
    module = PretrainFinetuneModule(
        backbone(),
        TASKS,
        finetune_tasks=["main", "aux"],
        finetune="probe_then_full",
        finetune_settings=settings,
    )
    trainer = toy_trainer(tmp_path)
    trainer.fit(module, datamodule=NoPhases())
    assert [result.name for result in trainer.phase_results] == ["probe", "finetune"]


def test_a_single_phase_does_not_train_other_tasks(tmp_path: Path) -> None:
    settings = PhaseSettings(max_epochs=1)
    module = SingleTaskModule(backbone(), TASKS, settings=settings)
    with pytest.raises(ConfigurationError, match="holds task 'aux', which phase 'train' does not train"):
        toy_trainer(tmp_path).fit(module, datamodule=NoPhases())
    both = MultiTaskModule(backbone(), TASKS, settings=settings)
    toy_trainer(tmp_path).fit(both, datamodule=NoPhases())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((draw(8, FEATURES), LABELS[:8]), r"a batch is a (list|tuple); it must be \{task: \(x, y\)\}"),
        ({"main": draw(8, FEATURES)}, r"a batch of task 'main' is a Tensor; it must be a pair"),
    ],
)
def test_batches_of_another_form(batch: Any, message: str, tmp_path: Path) -> None:
    module = SingleTaskModule(backbone(), TASKS, settings=PhaseSettings(max_epochs=1))
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        toy_trainer(tmp_path).fit(module, loader)


def test_numpy_targets_are_taken() -> None:
    assert loss_of(None, OUTPUTS, np.asarray(LABELS)) == loss_of(None, OUTPUTS, LABELS)
