"""Two and four gloo processes measure and learn what one does, from shares that are never equal.

One launch of ``several_processes_script.py`` runs every case, in float64, so that rounding hides nothing; one
process runs them here. Nothing in the network ties the samples of a batch together.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import together
from several_processes_script import CASES, activations, fit, metrics

from lit_aux.functional import effective_shared_dimensions, participation_ratio

MEASURED = {
    "pretraining and finetuning": [
        "test_loss",
        "test_accuracy",
        "RepresentationDimensionality",
        "TrajectoryLog",
        "KMeansInertia",
        "GradientConflict",
        "finetune epochs",
    ],
    "several tasks": ["test_loss", "test_accuracy", "TrajectoryLog", "KMeansInertia", "GradientConflict"],
    "published schedule": ["test_loss", "test_accuracy"],
    "missing labels": ["test_loss", "test_accuracy", "val_loss"],
}


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda n: f"{n} processes"
)
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("several")
    script = Path(__file__).with_name("several_processes_script.py")
    together(script, folder, str(request.param), processes=request.param)
    return folder, request.param


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {name: fit(tmp_path_factory.mktemp("single"), name, 1)[1] for name in CASES}


def left_by(several: tuple[Path, int], name: str) -> list[dict[str, Any]]:
    folder, processes = several
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(processes)]


@pytest.mark.parametrize("name", CASES)
def test_processes_end_with_the_weights_of_one(
    several: tuple[Path, int], single: dict[str, dict[str, Any]], name: str
) -> None:
    first, *others = (left["weights"] for left in left_by(several, name))
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    torch.testing.assert_close(first, single[name]["weights"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_processes_measure_what_one_does(
    several: tuple[Path, int], single: dict[str, dict[str, Any]], name: str
) -> None:
    expected = single[name]["numbers"]
    for measure in MEASURED[name]:
        assert any(measure in key and math.isfinite(value) for key, value in expected.items()), measure
    for left in left_by(several, name):
        assert left["numbers"].keys() == expected.keys()
        for key, number in expected.items():
            assert left["numbers"][key] == pytest.approx(number, rel=1e-6, abs=1e-6, nan_ok=True), key


def test_metrics_of_batches_of_all_sizes(several: tuple[Path, int]) -> None:
    x, y = activations()
    expected = {
        "PR": participation_ratio(x),
        "buffered PR": participation_ratio(x),
        "ENSD feature": effective_shared_dimensions(x, y),
        "ENSD sample": effective_shared_dimensions(x, y, pairing="sample"),
    }
    for left in (metrics(0, 1), *left_by(several, "metrics")):
        torch.testing.assert_close(left, expected, rtol=1e-6, atol=0)
