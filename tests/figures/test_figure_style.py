"""Setups are told apart in grey, by people who do not see red or green, and by marker and line."""

from itertools import combinations

import numpy as np
import pytest

from lit_aux.drawing.style import QUANTITIES, SETUPS, ordered_looks
from lit_aux.experiments.grids import KERNELS, PROBES, TRAINED

# Machado, Oliveira, Fernandes 2009: how linear RGB is seen without one kind of cone
SEEN = {
    "all": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen="all"):
    """Return a colour in CIELAB (D65)."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(SEEN[seen] @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_white_and_black():
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.05)
    assert lab("#000000") == pytest.approx([0, 0, 0], abs=0.05)


def test_every_setup_has_a_look_of_its_own():
    assert {*SETUPS} == {*TRAINED, *PROBES, "PT+FT (LoRA)", *KERNELS}
    for part in range(3):
        assert len({look[part] for look in SETUPS.values()}) == len(SETUPS)


@pytest.mark.parametrize(
    ("looks", "least"),
    [
        (SETUPS, 6),
        ({name: look for name, (_, look) in QUANTITIES.items()}, 10),
        (dict(enumerate(ordered_looks(5))), 10),
    ],
)
def test_lightness_differs_and_white_is_far(looks, least):
    lightness = sorted(lab(look.colour)[0] for look in looks.values())
    assert min(np.diff(lightness)) > least
    assert lightness[-1] < 85


@pytest.mark.parametrize("seen", SEEN)
def test_colours_differ_for_everybody(seen):
    looks = [*SETUPS.values()]
    assert (
        min(np.linalg.norm(lab(a.colour, seen) - lab(b.colour, seen)) for a, b in combinations(looks, 2)) > 10
    )


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_ordered_series_run_from_dark_to_light(count):
    looks = ordered_looks(count)
    assert len(looks) == count
    lightness = [lab(look.colour)[0] for look in looks]
    assert lightness == sorted(lightness)
    for part in range(3):
        assert len({look[part] for look in looks}) == count
