"""Runge-Kutta-Chebyshev coefficients against the Chebyshev polynomials that they stand for."""

from typing import Any

import numpy as np
import pytest
from numpy.polynomial import Chebyshev, Polynomial

from lit_aux.integrators.chebyshev import coefficients, longest_step, stages_for

STAGES = [2, 3, 4, 7, 20, 100, 250]


def step(y: Any, slope: Any, h: Any, stages: int) -> Any:
    """One step by the table, for anything that can be added and multiplied."""
    table = coefficients(stages)
    start = slope(y)
    old, now = y, y + table[0, 3] * h * start
    for c in table[1:]:
        old, now = now, c[0] * y + c[1] * now + c[2] * old + c[3] * h * slope(now) + c[4] * h * start
    return now


def polynomial(z: np.ndarray, stages: int) -> np.ndarray:
    """a_s + b_s T_s(w0 + w1 z), from numpy's Chebyshev series."""
    t = Chebyshev.basis(stages)
    w0 = 1 + 2 / 13 / stages**2
    first, second = t.deriv()(w0), t.deriv(2)(w0)
    b = second / first**2
    return 1 - b * t(w0) + b * t(w0 + first / second * z)


@pytest.mark.parametrize("stages", STAGES)
def test_a_step_on_a_linear_equation_is_the_stability_polynomial(stages: int) -> None:
    z = np.linspace(-0.653 * (stages**2 - 1), 0, 3001)
    found = step(np.ones_like(z), lambda y: y, z, stages)
    np.testing.assert_allclose(found, polynomial(z, stages), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stages", STAGES)
def test_stable_and_damped(stages: int) -> None:
    z = np.linspace(-0.653 * (stages**2 - 1), 0, 20_001)
    found = np.abs(step(np.ones_like(z), lambda y: y, z, stages))
    assert found.max() <= 1 + 1e-12
    assert found[z < -1].max() < 0.97  # nothing is left to ring, however stiff


@pytest.mark.parametrize("stages", [2, 3, 4, 7, 12])
def test_second_order_consistent(stages: int) -> None:
    z = Polynomial([0.0, 1.0])
    found = step(Polynomial([1.0]), lambda y: y, z, stages)
    assert found.degree() == stages
    np.testing.assert_allclose(found.coef[:3], [1, 1, 0.5], rtol=1e-10)


@pytest.mark.parametrize("stages", [2, 5, 9])
def test_order_two_at_a_fixed_step_on_a_nonlinear_equation(stages: int) -> None:
    errors = []
    for steps in (10, 20, 40, 80):
        y = 2.0
        for _ in range(steps):
            y = step(y, lambda y: -(y**2), 1 / steps, stages)
        errors.append(abs(y - 2 / (1 + 2)))  # y0 / (1 + y0 t)
    ratios = np.divide(errors[:-1], errors[1:])
    assert (ratios > 3.2).all()
    assert (ratios < 5).all()


def test_the_stages_are_enough_and_no_more() -> None:
    h, curvature = np.geomspace(1e-6, 1e4, 500), np.full(500, 3.0)
    stages = stages_for(h, curvature)
    assert stages.min() == 2
    assert (0.653 * (stages**2 - 1) >= h * curvature).all()
    fewer = 0.653 * ((stages - 1) ** 2 - 1)
    assert ((fewer <= 1.01 * h * curvature) | (stages == 2)).all()


@pytest.mark.parametrize("stages", STAGES)
def test_the_longest_step_can_be_made_and_is_worth_its_stages(stages: int) -> None:
    curvature = np.array([1e-3, 1.0, 700.0])
    h = longest_step(stages, curvature)
    assert (stages_for(h * (1 - 1e-9), curvature) <= stages).all()
    assert (h * curvature > 0.2 * (stages**2 - 1)).all()
