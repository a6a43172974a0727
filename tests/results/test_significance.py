"""Student's test, sign flips and numbers of seeds, against scipy, brute force and simulation."""

from itertools import product
from math import inf, nan
from random import Random

import numpy as np
import pytest
from scipy import stats

from lit_aux.results.means import mean_of
from lit_aux.results.significance import p_of, quantile, seeds_needed, sign_flip, within
from lit_aux.results.statistics import Difference

ONE, OTHER = ("PT+FT", 1.0), ("STL", None)


def difference(gaps: list[float]) -> Difference:
    return Difference((16,), ONE, OTHER, mean_of(gaps), len(gaps) - 1, tuple(gaps))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 10, 57, 1000, 9999, 20_000])
def test_the_distribution_is_that_of_scipy(df: int) -> None:
    for t in (0.0, 0.1, -1.0, 2.3, 7.0, 40.0):
        assert within(t, df) == pytest.approx(1 - 2 * stats.t.sf(abs(t), df), abs=2e-5)
    assert quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-4)


@pytest.mark.parametrize("count", [*range(2, 13)])
def test_the_sign_flip_test_is_that_of_all_signs(count: int) -> None:
    random = Random(count)
    for shift in (0.0, 0.5, 1.5):
        gaps = [round(random.gauss(shift, 1), 1) for _ in range(count)]  # rounded, so that some sums agree
        reach = abs(sum(gaps)) - 1e-9
        sums = [
            abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
            for signs in product((-1, 1), repeat=count)
        ]
        assert sign_flip(gaps) == sum(found >= reach for found in sums) / 2**count
        found = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=inf)
        assert sign_flip(gaps) == pytest.approx(min(1, found.pvalue))


def test_no_difference_at_all() -> None:
    assert (sign_flip([0.0] * 7), p_of(0.0, 0.0, 6), p_of(1.0, 0.0, 6)) == (1, 1, 0)
    assert p_of(1.0, nan, 0) != p_of(1.0, nan, 0)  # NaN


@pytest.mark.parametrize("effect", [0.15, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0])
def test_so_many_seeds_decide_with_a_probability_of_four_fifths(effect: float) -> None:
    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * n**0.5))

    wanted = next(n for n in range(3, 1000) if power(n) >= 0.8)
    assert seeds_needed(effect * 7, 7.0) == wanted
    assert seeds_needed(-effect, 1.0) == wanted


def test_where_no_number_of_seeds_is_known() -> None:
    assert (seeds_needed(0.0, 1.0), seeds_needed(0.0, 0.0), seeds_needed(0.01, 1.0)) == (None, None, None)
    assert seeds_needed(1.0, 0.0) == 3


def test_a_star_is_never_for_two_seeds() -> None:
    two = difference([1.0, 1.0])
    assert (two.p, two.known, two.clear, two.near, two.needed) == (0, False, False, False, 3)
    one = difference([1.0])
    assert (one.known, one.clear, one.needed) == (False, False, None)
    assert difference([1.0, 1.1, 0.9]).clear


def test_from_six_seeds_on_both_tests_must_agree() -> None:
    gaps = [1.0, 0.9, 1.1, 1.0, 1.2, -0.05]  # Student says yes; one seed of six the other way says 4 of 64
    found = difference(gaps)
    assert found.p < 0.05
    assert found.flip_p == sign_flip(gaps) == 4 / 64
    assert (found.clear, found.near, found.needed) == (False, True, 7)
    five = difference(gaps[1:])
    assert (five.clear, five.flip_p == five.flip_p) == (five.p < 0.05, False)  # not flipped


def test_what_is_near_the_threshold_is_marked() -> None:
    for shift in np.linspace(0.2, 1.5, 40):
        found = difference([shift - 1, shift, shift + 1, shift + 0.5])
        assert found.near == (0.03 <= found.p <= 0.07)


def test_intervals_hold_the_mean_as_often_as_they_say_and_stars_are_as_rare() -> None:
    random, count = Random(3), 4000
    for seeds in (3, 6, 10):
        drawn = [difference([random.gauss(0, 1) for _ in range(seeds)]) for _ in range(count)]
        covered = sum(low < 0 < high for low, high in (one.interval for one in drawn)) / count
        assert covered == pytest.approx(0.95, abs=0.012)
        assert sum(one.clear for one in drawn) / count < 0.062


def test_so_many_seeds_as_are_named_decide_in_most_draws() -> None:
    random, effect = Random(5), 1.2
    needed = seeds_needed(effect, 1.0)
    assert needed is not None
    drawn = [difference([random.gauss(effect, 1) for _ in range(needed)]) for _ in range(1500)]
    assert sum(one.p < 0.05 for one in drawn) / 1500 == pytest.approx(0.8, abs=0.06)
