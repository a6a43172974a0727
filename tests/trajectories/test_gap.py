"""The generalization gap: closed forms, scipy's interpolation, and what must not change it."""

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.stats import norm

from lit_aux.trajectories.gap import gap, overlap, path_of


def straight(shift: float, start: float = 2.0, end: float = 0.02, epochs: int = 9):
    """Return a path on which accuracy is .5 and a shift at loss 1, and .2 more a decade."""
    loss = np.geomspace(start, end, epochs)
    return loss, 0.5 + shift - 0.2 * np.log10(loss)


def test_a_known_shift_is_the_gap() -> None:
    found = gap(
        [straight(s) for s in (-0.01, 0, 0.01)], [straight(0.1 + s, 1.5, 0.005, 30) for s in (-0.01, 0, 0.01)]
    )
    assert found is not None
    assert found.losses == pytest.approx((1.5, 0.02))
    np.testing.assert_allclose(found.difference, 0.1, rtol=1e-9)
    np.testing.assert_allclose(found.single.two_sd, 0.02, rtol=1e-9)
    np.testing.assert_allclose(found.multi.averages - found.single.averages, 0.1, rtol=1e-9)
    assert (found.share_higher, found.share_lower) == (1, 0)
    middle = 0.5 - 0.2 * np.log10(np.sqrt(1.5 * 0.02))  # the mean of a straight line
    np.testing.assert_allclose(found.single.averages, middle + np.array([-0.01, 0, 0.01]), rtol=1e-9)


@pytest.mark.parametrize(
    ("shift", "higher", "lower"), [(0.041, 1, 0), (0.039, 0, 0), (-0.041, 0, 1), (-0.039, 0, 0)]
)
def test_significant_is_where_the_intervals_do_not_overlap(shift: float, higher: float, lower: float) -> None:
    spread = (-0.01, 0, 0.01)  # a standard deviation of .01: the intervals touch at .04
    found = gap([straight(s) for s in spread], [straight(shift + s) for s in spread])
    assert found is not None
    assert (found.share_higher, found.share_lower) == (higher, lower)


def test_the_share_of_the_range_in_which_it_is_significant() -> None:
    """The gap opens linearly in log loss from 0: beyond .04 in the last 60 % of a rise to .1."""
    spread = (-0.01, 0, 0.01)

    def opening(shift: float):
        loss = np.geomspace(1, 0.01, 5)
        return loss, 0.5 + shift - 0.05 * np.log10(loss)

    flat = [(np.array([1, 0.01]), np.full(2, 0.5 + s)) for s in spread]
    found = gap(flat, [opening(s) for s in spread])
    assert found is not None
    assert found.share_higher == pytest.approx(0.6, abs=0.006)
    assert (found.multi.averages - found.single.averages).mean() == pytest.approx(0.05)


def test_one_run_of_a_kind_is_never_significant() -> None:
    found = gap([straight(0)], [straight(0.5), straight(0.5)])
    assert found is not None
    assert (found.share_higher, found.share_lower) == (0, 0)
    assert np.isnan(found.single.two_sd).all()
    np.testing.assert_allclose(found.difference, 0.5)


def test_against_scipy_on_noisy_runs() -> None:
    draw = np.random.default_rng(1)

    def noisy():
        loss = np.exp(0.5 - np.linspace(0, 3, 25) + draw.normal(0, 0.2, 25))
        return loss, norm.cdf(-np.log(loss)) + draw.normal(0, 0.02, 25)

    runs = [[noisy() for _ in range(3)] for _ in range(2)]
    found = gap(*[[path_of(*run) for run in kind] for kind in runs])
    assert found is not None
    means = []
    for kind in runs:
        values = []
        for loss, metric in kind:
            kept = [i for i in range(len(loss)) if all(loss[i] < earlier for earlier in loss[:i])]
            values.append(interp1d(np.log(loss[kept]), metric[kept])(np.log(found.single.loss[1:-1])))
        means.append(np.mean(values, axis=0))
        band = found.single if kind is runs[0] else found.multi
        np.testing.assert_allclose(band.two_sd[1:-1], 2 * np.std(values, axis=0, ddof=1), rtol=1e-7)
    np.testing.assert_allclose(found.difference[1:-1], means[1] - means[0], atol=1e-12)


def test_epochs_without_a_new_minimum_do_not_matter() -> None:
    loss, metric = np.array([2.0, 1.0, 0.5]), np.array([0.1, 0.5, 0.7])
    more = path_of([2.0, 2.5, 1.0, 1.0, 1.7, 0.5, 0.6], [0.1, 0.9, 0.5, 0.0, 0.2, 0.7, 0.99])
    np.testing.assert_array_equal(more[0], loss)
    np.testing.assert_array_equal(more[1], metric)


def test_the_order_of_runs_does_not_matter() -> None:
    single, multi = [straight(s) for s in (0, 0.1, 0.03)], [straight(s, 1) for s in (0.2, 0.1, 0.4)]
    one, other = gap(single, multi), gap(single[::-1], multi[::-1])
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.difference, other.difference)
    np.testing.assert_array_equal(one.significant, other.significant)


def test_the_range_is_that_of_all_runs() -> None:
    assert overlap([straight(0, 2, 0.1), straight(0, 1, 0.3), straight(0, 3, 0.01)]) == pytest.approx(
        (1, 0.3)
    )
    assert gap([straight(0, 2, 0.5)], [straight(0, 0.4, 0.1)]) is None
    assert gap([straight(0, 2, 0.5)], [straight(0, 0.5, 0.1)]) is None  # they touch in one loss
    assert gap([straight(0)], [path_of([0.0, 0.0], [1.0, 1.0])]) is None  # log 0
    assert overlap([]) is None


def test_losses_of_zero_are_left_out() -> None:
    loss, metric = path_of([1.0, 0.1, 0.0], [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(loss, [1.0, 0.1])
    np.testing.assert_array_equal(metric, [0.1, 0.2])
