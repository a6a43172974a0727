"""Places of features and suggested factors, where they are known in closed form."""

import math
from typing import Any

import pytest
import torch

from lit_aux.functional import nested_ratios
from lit_aux.regimes import StudentFeatures, suggest, summarize
from lit_aux.regimes.student_summary import groups_of, nested_shares, weighted_median


def student(beta: Any, w: Any, gamma: float = 1e-9, **options: Any) -> StudentFeatures:
    """A diagonal student with balanced pathways w+ = w- = w."""
    w = torch.tensor(w, dtype=torch.float64)
    v = torch.full((2, len(w)), gamma, dtype=torch.float64)
    cell = {"seed": 0, "n_main": 16, "rescale": 1.0, **options.pop("cell", {})}
    beta = torch.tensor(beta, dtype=torch.float64)
    return StudentFeatures("q", cell, 1.0, beta, torch.stack([w, w]), v, **options)


def test_balanced_pathways_have_the_strength_of_the_paper() -> None:
    place = student([1.0, -1.0], [2.0, 0.1], gamma=0.3).place([1.0, 0.5])  # type: ignore[arg-type]
    expected = torch.tensor([[4.0, 0.01], [1.0, 0.0025]], dtype=torch.float64)
    torch.testing.assert_close(place.beta_aux, expected)


def test_one_sided_pathways_have_half_of_it() -> None:
    w = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    v = torch.full((2, 1), 1e-6, dtype=torch.float64)
    one = StudentFeatures("q", {"seed": 0}, 1.0, torch.ones(1, dtype=torch.float64), w, v)
    assert float(one.place().beta_aux) == pytest.approx(2.0, rel=1e-6)
    for scale in (0.0, 1e-6, 1.0):  # never negative, also where nothing was pretrained
        assert float(one.place(scale).beta_aux) >= 0


@pytest.mark.parametrize("penalty", ["q", "relu"])
def test_the_suggested_range_is_that_of_the_theory(penalty: str) -> None:
    """With one strength for all and no readout, beta / (s^2 beta_aux) has to be a nested ratio."""
    beta, strength = 0.3, 0.5
    if penalty == "q":
        one = student([beta] * 3, [strength**0.5] * 3)
    else:
        ones = torch.ones(3, dtype=torch.float64)
        norm, nothing = strength**0.5 * ones[None], torch.zeros(1, 3, dtype=torch.float64)
        cell = {"seed": 0, "n_main": 16}
        one = StudentFeatures("relu", cell, 1.0, beta * ones, norm, nothing, correlation=ones)
    low, high = nested_ratios(penalty)
    found = suggest([one])
    assert found.factor is not None
    grid = 10 ** (1 / 100)  # of the factors
    assert found.low == pytest.approx(math.sqrt(beta / (strength * high)), rel=grid - 1)
    assert found.high == pytest.approx(math.sqrt(beta / (strength * low)), rel=grid - 1)
    assert found.factor == pytest.approx(math.sqrt(found.low * found.high), rel=0.05)
    assert found.factor == float(f"{found.factor:.2g}")
    assert found.share == 1.0


def test_unused_pretraining_gets_no_factor() -> None:
    found = suggest([student([0.01, 1.0], [1.0, 1e-6])])
    assert found.factor is None
    assert found.reason == "1% of |beta| on pretrained features"


def test_features_too_far_apart_get_no_factor() -> None:
    found = suggest([student([1e-8, 1e-4, 1.0], [1.0, 1.0, 1.0])])
    assert found.factor is not None  # one feature has nearly all of |beta|
    ones = torch.ones(2, dtype=torch.float64)
    cell = {"seed": 0, "n_main": 16}
    relu = StudentFeatures(
        "relu", cell, 1.0, ones, ones[None], 0 * ones[None], correlation=torch.tensor([0.0, 0.0])
    )
    found = suggest([relu])
    assert found.factor is None
    assert found.reason.startswith("at most 0% nested")


def test_small_features_count_for_little() -> None:
    one = student([1.0] + [1e-4] * 50, [0.1] + [1.0] * 50)
    summary = summarize([one])
    assert summary.shares["nested"] == pytest.approx(1 / 1.005)
    assert summary.shares["lazy"] == pytest.approx(0.005 / 1.005)
    shares = nested_shares([one], torch.tensor([1.0], dtype=torch.float64))
    assert float(shares) == pytest.approx(1 / 1.005, abs=2e-3)


def test_seeds_count_the_same() -> None:
    lazy, nested = student([1e-3], [1.0]), student([100.0], [1.0], cell={"seed": 1})
    summary = summarize([lazy, nested])
    assert summary.shares == pytest.approx({"lazy": 0.5, "nested": 0.5, "rich": 0.0})
    assert summary.seeds == (0, 1)


def test_a_student_that_learned_nothing() -> None:
    summary = summarize([student([0.0, 0.0], [1.0, 0.0])])
    assert summary.shares == {"lazy": 0.0, "nested": 0.0, "rich": 0.0}
    assert math.isnan(summary.l_order)
    assert summary.suggestion.factor is None


def test_cells_are_put_together() -> None:
    places = [{"seed": s, "n_main": n, "overlap": o} for s in (0, 1) for n in (64, 16) for o in (0, 3)]
    found = groups_of([student([1.0], [1.0], cell=place) for place in places])
    cells = [(members[0].cell["overlap"], members[0].cell["n_main"], len(members)) for members in found]
    assert cells == [(0, 16, 2), (0, 64, 2), (3, 16, 2), (3, 64, 2)]


def test_weighted_median() -> None:
    values = torch.tensor([3.0, 1.0, 2.0])
    assert weighted_median(values, torch.tensor([1.0, 1.0, 1.0])) == 2.0
    assert weighted_median(values, torch.tensor([5.0, 1.0, 1.0])) == 3.0
    assert weighted_median(values, torch.tensor([0.0, 1.0, 0.0])) == 1.0
