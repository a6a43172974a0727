"""Means, paired differences and winners, against brute force and scipy."""

from math import isnan, log10, sqrt
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_rel
from table_helpers import failed, plain_csv, row, table

from lit_aux.results.selection import is_higher_better
from lit_aux.results.sheets import Query
from lit_aux.results.statistics import Difference, cells, differences, repeated, winners
from lit_aux.runs.reading import read_rows


def random_rows(
    setups: dict[Any, float], sizes: tuple[int, ...] = (16, 64), seeds: int = 6
) -> list[dict[str, Any]]:
    """Return rows whose losses share a part by seed; keys are setups, or setups with a factor."""
    random, rows = Random(0), []
    for n in sizes:
        for seed in range(seeds):
            shared = random.gauss(0, 1)
            for key, level in setups.items():
                setup, factor = key if isinstance(key, tuple) else (key, None)
                more = {} if factor is None else {"rescale": factor}
                rows.append(row(setup, seed, n, 10 ** (level + shared + random.gauss(0, 0.1)), **more))
    return rows


def view_of(path: Path, rows: list[dict[str, Any]], value: str = "loss_best", log: bool = True) -> Query:
    return Query(read_rows(table(path, rows)), value, log, is_higher_better(value))


def by_brute_force(
    rows: list[dict[str, Any]], setup: str, n: int, factor: float | None = None
) -> dict[int, float]:
    """Return log10 of the losses of a cell by seed."""
    mine = [r for r in rows if (r["setup"], r["n_main"], r.get("rescale")) == (setup, n, factor)]
    return {r["seed"]: log10(r["loss_best"]) for r in mine}


def test_means_and_standard_errors(tmp_path: Path) -> None:
    rows = [row("STL", seed, 16, loss) for seed, loss in enumerate((1.0, 2.0, 6.0))]
    rows += [row("STL", 0, 32, 4.0), failed("STL", 1, 32, "killed"), row("STL", 2, 32, None)]
    read = read_rows(table(tmp_path / "a.csv", rows))
    found = cells(read, "loss_best", ["setup", "n_main"])
    assert list(found) == [("STL", 16), ("STL", 32)]
    one, other = found.values()
    assert one.stat is not None
    assert other.stat is not None
    assert one.stat.mean == pytest.approx(3)
    assert one.stat.error == pytest.approx(sqrt(7 / 3))  # the variance of 1, 2, 6 is 7
    assert (other.failed, other.empty, other.runs, other.stat.seeds) == (1, 1, 2, 1)
    assert isnan(other.stat.error)
    logs = cells(read, "loss_best", ["setup", "n_main"], log=True)["STL", 16].stat
    assert logs is not None
    assert logs.mean == pytest.approx(log10(12) / 3)


def test_cells_are_in_the_order_of_the_paper(tmp_path: Path) -> None:
    setups = ["PT+FT (LP)", "odd", "PT+FT", "MTL", "STL"]
    rows = [row(setup, 0, n, 0.5) for setup in setups for n in (128, 16)]
    read = read_rows(table(tmp_path / "a.csv", rows))
    found = list(cells(read, "loss_best", ["setup", "n_main"]))
    assert [setup for setup, n in found if n == 16] == ["STL", "MTL", "PT+FT", "PT+FT (LP)", "odd"]
    assert [n for setup, n in found if setup == "STL"] == [16, 128]


def test_several_runs_of_a_seed_are_one_value(tmp_path: Path) -> None:
    rows = [row("STL", 0, 16, loss, solver=str(loss)) for loss in (1.0, 3.0)] + [row("STL", 1, 16, 5.0)]
    read = read_rows(table(tmp_path / "a.csv", rows))
    assert repeated(read, "loss_best", ["setup", "n_main"])
    assert not repeated(read, "loss_best", ["setup", "solver", "n_main"])
    assert cells(read, "loss_best", ["setup"])[("STL",)].by_seed == {0: 2.0, 1: 5.0}


def found_pairs(view: Query, baseline: str = "STL") -> dict[Any, Difference]:
    return {(p.treatment, p.baseline, p.place): p for p in differences(view.table, baseline)}


def test_differences_are_those_of_the_paired_t_test(tmp_path: Path) -> None:
    rows = random_rows({"STL": 0.0, "MTL": -0.05, ("PT+FT", 1.0): -0.5, ("PT+FT", 0.125): -0.6})
    rows = [r for r in rows if not (r["setup"] == "MTL" and r["seed"] == 3)]  # pairs need both
    pairs = found_pairs(view_of(tmp_path / "a.csv", rows))
    stl, full, small = ("STL", None), ("PT+FT", 1.0), ("PT+FT", 0.125)
    expected = [(("MTL", None), stl), (small, stl), (full, stl), (small, full)]
    assert {key[:2] for key in pairs} == {*expected}
    for one, other in expected:
        for n in (16, 64):
            first, second = (
                by_brute_force(rows, one[0], n, one[1]),
                by_brute_force(rows, other[0], n, other[1]),
            )
            seeds = sorted(first.keys() & second.keys())
            test = ttest_rel([first[s] for s in seeds], [second[s] for s in seeds])
            pair = pairs[one, other, (n,)]
            assert pair.stat.seeds == len(seeds) == (5 if one[0] == "MTL" else 6)
            assert pair.stat.mean / pair.stat.error == pytest.approx(test.statistic)
            low, high = test.confidence_interval(0.95)
            assert pair.interval == pytest.approx((low, high))
            assert pair.lower == sum(first[s] < second[s] for s in seeds)
            gaps = np.array([first[s] - second[s] for s in seeds])
            flipped = permutation_test(
                (gaps,), np.mean, permutation_type="samples", n_resamples=np.inf
            ).pvalue
            assert pair.p == pytest.approx(test.pvalue, abs=1e-12)
            assert pair.clear == (test.pvalue < 0.05 and (len(seeds) < 6 or flipped < 0.05))


def test_a_baseline_of_the_same_factor_comes_first(tmp_path: Path) -> None:
    factors = (1.0, 0.1)
    rows = random_rows({(setup, f): 0.0 for setup in ("STL", "PT+FT") for f in factors}, sizes=(16,))
    pairs = found_pairs(view_of(tmp_path / "a.csv", rows))
    assert {(one, other) for one, other, _ in pairs} == {
        (("PT+FT", 1.0), ("STL", 1.0)),
        (("PT+FT", 0.1), ("STL", 0.1)),
        (("PT+FT", 0.1), ("PT+FT", 1.0)),
        (("STL", 0.1), ("STL", 1.0)),
    }


def test_another_baseline_and_seeds_that_are_not_shared(tmp_path: Path) -> None:
    rows = [row("STL", s, 16, 0.5) for s in (0, 1)] + [row("MTL", s, 16, 0.4) for s in (2, 3)]
    rows += [row("PT+FT", s, 16, 0.3) for s in (1, 2)]
    pairs = found_pairs(view_of(tmp_path / "a.csv", rows), "PT+FT")
    assert {key[0][0]: pair.stat.seeds for key, pair in pairs.items()} == {"STL": 1, "MTL": 1}
    assert all(
        isnan(pair.stat.error) and isnan(pair.interval[0]) and not pair.clear for pair in pairs.values()
    )
    assert not found_pairs(view_of(tmp_path / "b.csv", rows[:4]))


def test_places_are_not_mixed(tmp_path: Path) -> None:
    rows = [
        row(setup, s, 16, 0.5 + k, overlap=k) for setup in ("STL", "MTL") for s in (0, 1) for k in (0, 20)
    ]
    pairs = found_pairs(view_of(tmp_path / "a.csv", rows))
    assert {key[2] for key in pairs} == {(0, 16), (20, 16)}
    assert all(pair.stat.mean == 0 for pair in pairs.values())


def test_winners_are_decided_by_seed(tmp_path: Path) -> None:
    # Seeds differ by far more than setups, so that only pairs can tell.
    rows = random_rows({"STL": 0.0, "MTL": -1.0, "PT+FT": -1.4}, sizes=(16,))
    (won,) = winners(view_of(tmp_path / "a.csv", rows).table, higher=False)
    assert (won.best, won.second, won.decided) == (("PT+FT", None), ("MTL", None), True)
    (won,) = winners(view_of(tmp_path / "b.csv", rows).table, higher=True)
    assert (won.best, won.decided) == (("STL", None), True)
    noisy = [row("STL", s, 16, 1 + 0.1 * s) for s in range(4)] + [
        row("MTL", s, 16, 1.3 - 0.11 * s) for s in range(4)
    ]
    (won,) = winners(view_of(tmp_path / "c.csv", noisy).table, higher=False)
    assert (won.best, won.decided) == (("MTL", None), False)
    (won,) = winners(view_of(tmp_path / "d.csv", noisy[::4]).table, higher=False)
    assert won.decided is None
    two = [row(setup, s, 16, loss + s) for setup, loss in (("STL", 2.0), ("MTL", 1.0)) for s in (0, 1)]
    (won,) = winners(view_of(tmp_path / "e.csv", two, log=False).table, higher=False)
    assert won.decided is None, "two seeds decide nothing, though both differ by exactly as much"


def test_published_means_are_compared_without_seeds(tmp_path: Path) -> None:
    head = {"n_main": 10, "seeds": 50}
    rows = [
        {"setup": "STL", **head, "accuracy": 0.5, "accuracy_se": 0.03},
        {"setup": "MTL", **head, "accuracy": 0.7, "accuracy_se": 0.04},
        {"setup": "PT+FT", **head, "accuracy": 0.69, "accuracy_se": 0.04},
    ]
    view = Query(read_rows(plain_csv(tmp_path / "a.csv", rows)), "accuracy", False, True)
    pair = found_pairs(view)[("MTL", None), ("STL", None), (10,)]
    assert (pair.stat.mean, pair.stat.error) == (pytest.approx(0.2), pytest.approx(0.05))
    assert (pair.lower, pair.clear) == (None, True)
    (won,) = winners(view.table, higher=True)
    assert (won.best[0], won.second[0], won.decided) == ("MTL", "PT+FT", False)


def test_which_metrics_are_better_when_higher() -> None:
    known = {"accuracy": True, "main/test_r2": True, "aux/val_f1": True, "main/test_iou": True}
    known |= {"main/test_mae": False, "main/test_loss": False, "seconds": False}
    assert {value: is_higher_better(value) for value in known} == known
    assert is_higher_better("pr_after@layer4") is None
