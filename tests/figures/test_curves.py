"""Means, errors, and what may stand in one curve."""

import math

import pytest

from lit_aux.errors import ConfigurationError
from lit_aux.figures.curves import curve, relative, with_measures
from lit_aux.results.means import bar, mean_of, scaled


def row(seed, n_main, loss, setup="STL", **more):
    return {
        "run": f"{setup}{seed}{n_main}",
        "setup": setup,
        "seed": seed,
        "n_main": n_main,
        "loss": loss,
        **more,
    }


def test_averages():
    ends = 3.0, 3 - math.sqrt(14 / 3), 3 + math.sqrt(14 / 3)
    assert bar(mean_of([1.0, 2.0, 3.0, 6.0]), False) == pytest.approx(ends)
    mean, low, high = bar(mean_of([scaled(0.01, True), scaled(1.0, True)]), True)
    assert mean == pytest.approx(0.1)
    assert (low, high) == pytest.approx((0.001, 10.0))  # s.e. of the log10 is 1 / 2 of their distance
    assert bar(mean_of([5.0]), False)[0] == 5.0
    assert all(map(math.isnan, bar(mean_of([5.0]), False)[1:]))
    with pytest.raises(ConfigurationError, match="--mean geometric: -1 is among the values"):
        curve([row(0, 16, -1.0), row(1, 16, 1.0)], "n_main", "loss", "STL", "geometric")
    found = curve([row(0, 16, 0.0), row(1, 16, 1.0)], "n_main", "loss", "STL", "geometric")
    assert found.mean == pytest.approx((1e-15,))  # a loss of 0 counts as 1e-30


def test_points_are_in_order_and_seeds_are_counted():
    found = curve([row(0, 64, 3.0), row(0, 16, 1.0), row(1, 16, 2.0)], "n_main", "loss", "STL")
    assert found.x == (16, 64)
    assert found.mean == (1.5, 3.0)
    assert found.seeds == (2, 1)
    assert found.low[0] == pytest.approx(0.5)
    assert math.isnan(found.high[1])


def test_published_means_keep_their_errors():
    rows = [{"setup": "STL", "n_main": 10, "loss": 0.5, "loss_se": 0.1, "seeds": 28}]
    found = curve(rows, "n_main", "loss", "STL")
    assert (found.mean, found.seeds) == ((0.5,), (28,))
    assert (found.low[0], found.high[0]) == pytest.approx((0.3, 0.7))
    found = curve(rows, "n_main", "loss", "STL", "geometric")
    assert found.mean == pytest.approx((0.5,))
    # the logarithm's error is .1 / .5 to first order
    assert (found.low[0], found.high[0]) == pytest.approx((0.5 * math.exp(-0.4), 0.5 * math.exp(0.4)))


def test_a_curve_is_of_one_task():
    rows = [row(0, 16, 1.0, k_main=5), row(0, 32, 1.0, k_main=10)]
    with pytest.raises(ConfigurationError, match=r'differ in k_main \(5, 10\).*--where "k_main=5"'):
        curve(rows, "n_main", "loss", "STL")
    assert curve([{**r, "n_main": 16} for r in rows], "k_main", "loss", "STL").x == (5, 10)


def test_seeds_stand_once():
    twice = [row(0, 16, 1.0), row(0, 16, 2.0, lr=0.1) | {"run": "other"}]
    with pytest.raises(ConfigurationError, match=r"n_main 16, seed 0: there are two runs \(STL016, other\)"):
        curve(twice, "n_main", "loss", "STL")


def test_losses_relative_to_single_task_training():
    rows = [
        row(0, 16, 2.0),
        row(0, 64, 1.0),
        row(0, 64, 0.5, "MTL"),
        row(1, 64, 0.5, "MTL", baseline=4.0),
        row(2, 64, 0.5, "MTL"),
    ]
    assert [r["loss"] for r in relative(rows, "loss", 16)] == [1.0, 0.5, 0.25, 0.125]
    assert [r["loss"] for r in relative(rows, "loss", None)] == [1.0, 1.0, 0.5]
    assert rows[0]["loss"] == 2.0


def test_measures_become_columns():
    lines = [
        {"run": "STL016", "phase": "train", "step": 1, "layer": "student", "measure": "l1", "value": 3.0},
        {"run": "STL016", "phase": "train", "step": 1, "layer": "student", "measure": "l2", "value": None},
        {"run": "unknown", "phase": "train", "step": 1, "layer": "student", "measure": "l1", "value": 3.0},
    ]
    (found,) = with_measures([row(0, 16, 1.0), row(1, 16, 1.0)], lines, ["l1", "l2"])
    assert found == {**row(0, 16, 1.0), "student l1": 3.0}
