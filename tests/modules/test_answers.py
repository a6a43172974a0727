"""What outputs say by their loss, against NumPy and scikit-learn's conventions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy

from lit_aux.modules import MultiTaskModule
from lit_aux.modules.evaluation import TaskEvaluation
from lit_aux.modules.predictions import predictions_of


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2)])
def test_classes(shape: tuple[int, ...]) -> None:
    given = outputs(*shape)
    predictions, probabilities, of_classes = predictions_of(nn.CrossEntropyLoss(), given)
    assert of_classes
    np.testing.assert_array_equal(predictions, given.numpy().argmax(1))
    np.testing.assert_allclose(probabilities, softmax(given.numpy()), rtol=1e-5)
    logs = given.log_softmax(1)
    np.testing.assert_allclose(
        predictions_of(nn.NLLLoss(), logs)[1], softmax(given.numpy()), rtol=1e-5
    )  # already normalized


def test_shares_signs_and_values() -> None:
    given = outputs(6, 4)
    x = given.numpy()
    predictions, probabilities, of_classes = predictions_of(nn.BCEWithLogitsLoss(), given)
    assert not of_classes
    np.testing.assert_array_equal(predictions, x > 0)
    np.testing.assert_allclose(probabilities, sigmoid(x), rtol=1e-5)
    shares = given.sigmoid()
    np.testing.assert_array_equal(predictions_of(nn.BCELoss(), shares)[1], shares)
    predictions, probabilities, _ = predictions_of(nn.SoftMarginLoss(), given)
    np.testing.assert_array_equal(predictions, np.sign(x))
    np.testing.assert_allclose(probabilities, sigmoid(x), rtol=1e-5)
    for loss in (nn.MSELoss(), nn.HingeEmbeddingLoss(), nn.PoissonNLLLoss(log_input=False)):
        predictions, probabilities, _ = predictions_of(loss, given)
        assert probabilities is None
        np.testing.assert_array_equal(predictions, x)
    np.testing.assert_allclose(predictions_of(nn.PoissonNLLLoss(), given)[0], np.exp(x), rtol=1e-5)


def test_scores_are_no_probabilities() -> None:
    predictions, probabilities, of_classes = predictions_of(nn.MultiMarginLoss(), outputs(4, 3))
    assert probabilities is None
    assert of_classes
    np.testing.assert_array_equal(predictions, outputs(4, 3).argmax(1))


class Own(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(MulticlassAccuracy(3), "classes"), (MultilabelAccuracy(3), "shares"), (MeanAbsoluteError(), "values")],
)
def test_own_losses_say_what_their_metrics_compare(metric: Metric, expected: str) -> None:
    given = outputs(4, 3)
    predictions, probabilities, of_classes = predictions_of(Own(), given, [metric])
    assert of_classes == (expected == "classes")
    assert (probabilities is None) == (expected == "values")
    assert predictions.shape == ((4,) if of_classes else (4, 3))


def test_half_precision() -> None:
    _, probabilities, _ = predictions_of(nn.CrossEntropyLoss(), outputs(4, 3).bfloat16())
    assert probabilities is not None
    assert probabilities.dtype == torch.float32


LABELS: dict[str, tuple[nn.Module, int, Tensor, list[Any]]] = {
    "classes": (nn.CrossEntropyLoss(), 3, torch.tensor([2, -100, 0]), [2, -100, 0]),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), 3, torch.tensor([2, 1, 0]), [2, -100, 0]),
    "floats": (nn.CrossEntropyLoss(), 3, torch.tensor([2.0, torch.nan, 0.0]), [2, -100, 0]),
    "distributions": (
        nn.CrossEntropyLoss(),
        2,
        torch.tensor([[0.1, 0.9], [1, 0], [torch.nan] * 2]),
        [1, 0, -100],
    ),
    "one value": (nn.MSELoss(), 1, torch.tensor([0.5, torch.nan, -100.0]), [0.5, None, -100.0]),
    "one value (B, 1)": (nn.MSELoss(), 1, torch.tensor([[0.5], [torch.nan], [2.0]]), [0.5, None, 2.0]),
    "several": (nn.BCEWithLogitsLoss(), 2, torch.tensor([[1, 0], [-100, 1]]), [[1.0, 0.0], [None, 1.0]]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_have_the_shape_of_predictions(name: str) -> None:
    loss, size, y, expected = LABELS[name]
    found = TaskEvaluation({"main": size}, loss).answers("main", outputs(len(y), size), y)
    assert found.labels is not None
    assert found.labels.shape == found.predictions.shape
    labels = found.labels.tolist()
    shown = [[None if v != v else v for v in row] if isinstance(row, list) else row for row in labels]
    assert [None if v != v else v for v in shown] == expected


def test_a_module_answers_for_its_tasks() -> None:
    losses = {"kind": nn.CrossEntropyLoss(), "size": nn.MSELoss()}
    module = MultiTaskModule(nn.Flatten(), {"kind": 3, "size": 1}, losses=losses, num_features=4)
    kind, size = (module.answers(task, outputs(5, n)) for task, n in module.tasks.items())
    assert (kind.of_classes, size.of_classes) == (True, False)
    assert kind.labels is None
    assert size.predictions.shape == (5,)
