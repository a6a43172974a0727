"""Two gloo processes write the same predictions as one: in the order of the data, each input once."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_helpers import together
from two_process_predictions_script import predict

pytestmark = pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("predictions")
    together(Path(__file__).with_name("two_process_predictions_script.py"), folder)
    predict(folder, 1)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["points", "digits", "single"])
def test_the_same_table(folder: Path, name: str) -> None:
    one, two = (rows_of(folder / f"{name}-{processes}.csv") for processes in (1, 2))
    assert len(one) == len(two) > 0
    for first, second in zip(one, two, strict=True):
        for column, value in first.items():
            expected: Any = value if "/" not in column or not value else pytest.approx(float(value), rel=1e-5)
            found = second[column]
            assert (float(found) if "/" in column and found else found) == expected, column


def test_the_order_of_the_data(folder: Path) -> None:
    numbers = [(row["task"], row["input"], row["label"]) for row in rows_of(folder / "points-2.csv")]
    assert numbers == [("main", str(i), str(i)) for i in range(11)]
    digits = [(row["task"], row["input"]) for row in rows_of(folder / "digits-2.csv")]
    assert digits == [(task, str(i)) for task in ("main", "aux") for i in range(7)]


def test_the_same_arrays(folder: Path) -> None:
    one, two = (np.load(folder / f"points-{processes}.npz") for processes in (1, 2))
    assert sorted(one) == sorted(two)
    assert two["main/inputs"].tolist() == list(range(11))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5)
