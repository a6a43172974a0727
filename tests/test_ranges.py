"""Ranges of numbers: what they hold, and how an option that is out of one is told."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import COUNT, FACTOR, LIMIT, POSITIVE, SCALE, Range, check, check_all

_LIMITED = Range(least=1, also={-1: "no limit"})


@pytest.mark.parametrize(
    ("allowed", "right", "wrong"),
    [
        (COUNT, [1, 7, 2**31 - 1, np.int64(3)], [0, -1, 2**31, 10**20, nan, inf, True, "1"]),
        (LIMIT, [1, 10**30, 2.5], [0, 0.5, nan, inf, -inf]),
        (POSITIVE, [5e-324, 1e300, np.float64(2)], [0, -1e-9, nan, inf]),
        (SCALE, [1e-12, 1, 1e12], [1e-300, 1e-13, 1e13, 0, -1, nan]),
        (FACTOR, [0, 1e-300, 1e12], [-1e-300, 1e20, nan]),
        (_LIMITED, [-1, 1, 3], [0, -2, nan]),
        (Range(above=0, below=1), [0.5], [0, 1]),
    ],
    ids=str,
)
def test_what_is_in_a_range(allowed: Range, right: list[Any], wrong: list[Any]) -> None:
    assert all(number in allowed for number in right)
    assert not any(number in allowed for number in wrong)


@pytest.mark.parametrize(
    ("value", "allowed", "told"),
    [
        (0, LIMIT, "x: 0 must be at least 1"),
        (inf, LIMIT, "x: inf must be finite and at least 1"),
        (-2, _LIMITED, "x: -2 must be at least 1, or -1 for no limit"),
        ([1.0, nan], POSITIVE, "x: nan must be finite and above 0"),
        (nan, Range(), "x: nan must be finite"),
        (3, Range(above=0, most=1), "x: 3 must be above 0 and at most 1"),
    ],
)
def test_the_line_names_option_value_and_what_would_be_right(value: Any, allowed: Range, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        check("x", value, allowed)
    assert str(error.value) == told


def test_options_that_are_left_to_their_defaults_are_right() -> None:
    check_all({"x": COUNT, "y": COUNT}, {"x": None, "z": -1})
    with pytest.raises(ConfigurationError, match=r"^y: 0 must"):
        check_all({"x": COUNT, "y": COUNT}, {"x": 1, "y": 0})
