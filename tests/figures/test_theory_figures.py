"""Pictures hold what the functions say: lines, levels, points, labels; and files are whole or absent."""

import math

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lit_aux.errors import ConfigurationError
from lit_aux.figures import MapPoints, draw_l_order, draw_penalties, draw_regime_map, draw_regimes, save
from lit_aux.figures.regime_map import BANDS, LEVELS, decades

MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF"}


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines if line.get_label()[0] != "_"}


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_penalties_are_those_of_theory(tmp_path):
    figure = draw_penalties()
    path = save(figure, str(tmp_path / "deep" / "penalties.png"))
    assert path == tmp_path / "deep" / "penalties.png"
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 800
    assert image.std() > 0.05
    titles = [axes.get_title("left") for axes in figure.axes]
    assert len(titles) == 6
    assert titles[:2] == ["Finetuning, diagonal", "Multi-task, diagonal"]
    assert [t.partition("rho = ")[2].rstrip("$") for t in titles[2:]] == ["1", "0.9", "0.5", "0"]
    for axes in figure.axes:
        assert [*lines_of(axes)][::-1] == ["10", "1", "0.1", "0.01"] == legend_of(figure)
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    q, mtl, *relu = (lines_of(axes) for axes in figure.axes)
    for beta_aux in (0.01, 0.1, 1.0, 10.0):
        beta, found = q[f"{beta_aux:g}"].T
        z = 2 * beta / beta_aux
        np.testing.assert_allclose(
            found, beta_aux * (2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2)), rtol=1e-9
        )
        beta, found = mtl[f"{beta_aux:g}"].T
        np.testing.assert_allclose(found, np.hypot(beta, beta_aux) - beta_aux, rtol=1e-9)
        beta, found = relu[-1][f"{beta_aux:g}"].T
        np.testing.assert_allclose(found, beta_aux + 2 * beta)
    inside = [(y.min(), y.max()) for panel in (q, mtl, *relu) for _, y in (line.T for line in panel.values())]
    low, high = figure.axes[0].get_ylim()
    assert max(top for _, top in inside) < high
    assert min(bottom for bottom, _ in inside) < 10 * low  # the room is used


def test_l_orders_and_their_second_axis():
    figure = draw_l_order()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert legend_of(figure) == [*lines][::-1]
    assert len(lines) == 6
    beta_aux, found = lines["multi-task, diagonal"].T
    np.testing.assert_allclose(found, 1 + beta_aux / np.hypot(1, beta_aux))
    beta_aux, found = lines[r"finetuning, ReLU, $\rho = 0$"].T
    np.testing.assert_allclose(found, 2 / (beta_aux + 2))  # R = beta_aux + 2 |beta|
    beta_aux, found = lines["finetuning, diagonal"].T
    assert np.interp(0.1, beta_aux, found) == pytest.approx(1.432, abs=1e-3)
    (right,) = axes.child_axes
    for order in (0.0, 1.0, 1.5, 2.0):  # the two axes agree in pixels
        places = axes.transData.transform((1, order)), right.transData.transform((0, 1 - order))
        assert places[0][1] == pytest.approx(places[1][1])
    assert "feature dependence" in right.get_ylabel()
    assert "nested" in [text.get_text() for text in axes.texts]


def test_the_map_has_the_lines_of_the_formula():
    """FD = -.5 of multi-task training is beta = sqrt(3) beta_aux, FD = -.1 beta = sqrt(99) beta_aux."""
    figure = draw_regime_map("mtl")
    axes = figure.axes[0]
    (contours,) = (c for c in axes.collections if set(c.levels) <= set(LEVELS))
    for level, ratio in ((-0.5, math.sqrt(3)), (-0.1, math.sqrt(99))):
        line = np.concatenate(contours.allsegs[list(contours.levels).index(level)])  # broken by its label
        np.testing.assert_allclose(line[:, 1] / line[:, 0], ratio, rtol=5e-3)
        assert f"\N{MINUS SIGN}{-level:g}" in [text.get_text() for text in axes.texts]
    assert axes.get_title("left") == "Multi-task, diagonal"
    assert [text.get_text() for text in axes.texts if text.get_text() in ("lazy", "rich")] == ["lazy", "rich"]
    assert legend_of(figure) == [meaning for _, _, meaning in BANDS[:3]]


def test_names_lie_in_their_regions():
    axes = draw_regime_map().axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    ratio = {name: places[name][1] / places[name][0] for name in ("lazy", "nested", "rich")}
    assert ratio["lazy"] < 6.53 < ratio["nested"] < 29926 < ratio["rich"]


def test_the_map_makes_room_for_points():
    beta = torch.tensor([-0.5, 0.02, 0.1], requires_grad=True)
    points = [
        MapPoints("as trained", beta, torch.tensor([0.3, 0.0, 1e-3]), torch.tensor([1.0, 0.5, 0.0])),
        MapPoints("suggested", beta, torch.tensor([-3e-4, 0.0, 1e-6])),
    ]
    figure = draw_regime_map("relu", points, correlation=0.9)
    axes = figure.axes[0]
    first, second = (c for c in axes.collections if len(c.get_offsets()) == 3)
    edge = axes.get_xlim()[0]
    np.testing.assert_allclose(first.get_offsets(), [[0.3, 0.5], [edge, 0.02], [1e-3, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(second.get_offsets()[:, 0], [3e-4, edge, 1e-6], rtol=1e-6)
    assert first.get_sizes().tolist() == sorted(first.get_sizes().tolist(), reverse=True)
    assert len(set(first.get_sizes())) == 3
    assert axes.get_xlim()[0] < 1e-6 < 0.3 < axes.get_xlim()[1] < 3
    assert axes.get_ylim()[0] < 0.02 < 0.5 < axes.get_ylim()[1]
    assert legend_of(figure)[:2] == ["as trained", "suggested"]
    assert "rho = 0.9" in axes.get_title("left")


def test_names_and_levels_keep_away_from_points():
    beta = torch.logspace(-3, 3, 60, dtype=torch.float64)
    axes = draw_regime_map("q", [MapPoints("a", beta, torch.full_like(beta, 0.1))], gamma=1e-3).axes[0]
    assert {"nested", "lazy", "\N{MINUS SIGN}0.5"} <= {text.get_text() for text in axes.texts}
    points = axes.transAxes.inverted().transform(axes.transData.transform(axes.collections[-1].get_offsets()))
    for text in axes.texts:
        place = axes.transAxes.inverted().transform(axes.transData.transform(text.get_position()))
        assert (np.abs(points - place) > [0.05, 0.03]).any(axis=1).all(), text.get_text()


def test_all_maps(tmp_path):
    figure = draw_regimes()
    assert save(figure, tmp_path / "regimes.png").stat().st_size < 100_000
    panels = [axes for axes in figure.axes if axes.axison]
    assert len({axes.get_title("left") for axes in panels}) == len(panels) == 5
    shades = [next(c for c in axes.collections if len(c.levels) == 5) for axes in panels]
    # only turning units avoid what was pretrained, and they are never lazy
    areas = [[any(map(len, s.allsegs[band])) for band in range(4)] for s in shades]
    assert areas[:4] == [[True, True, True, False]] * 4
    assert areas[4] == [False, True, True, True]


def test_a_map_where_the_dependence_has_no_bounds(tmp_path):
    figure = draw_regime_map("relu", correlation=0.95, readout=0.5)
    image = matplotlib.image.imread(save(figure, tmp_path / "map.png"))
    assert not np.isnan(image).any()
    shades = next(c for c in figure.axes[0].collections if len(c.levels) == 5)
    assert all(any(map(len, segments)) for segments in shades.allsegs)


def test_limits_of_axes():
    assert decades([]) == decades([torch.zeros(3)]) == (-3.0, 3.0)
    assert decades([torch.tensor([10.0])]) == (-0.5, 2.5)
    low, high = decades([torch.tensor([1e-40, 1.0]), torch.tensor([100.0, 0.0])])
    assert (low, high) == pytest.approx((-8.5, 2.5))


@pytest.mark.parametrize("ending", MAGIC)
def test_the_ending_is_the_format(tmp_path, ending):
    path = save(draw_l_order(), tmp_path / f"picture.{ending.upper()}")
    assert path.read_bytes().startswith(MAGIC[ending])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: save(draw_penalties(), f / "a.gif"), "path: .* ends in no known format; end it in .png"),
        (lambda f: save(draw_l_order(), f / "noending"), "ends in no known format"),
        (lambda f: draw_regime_map("l1"), "penalty: 'l1' is unknown"),
        (lambda f: draw_regime_map("q", correlation=1.0), "correlation: 'q' has no such option"),
        (lambda f: draw_regime_map(gamma=torch.ones(2)), "gamma: .* for a map; give one number"),
        (lambda f: save(draw_regimes(), f / "file" / "a.png"), "path: .* cannot be written"),
        (lambda f: MapPoints("x", torch.ones(2), torch.ones(3)), r"beta_aux: shape \(3,\) for 2 points"),
        (lambda f: MapPoints("x", torch.tensor([math.nan]), torch.ones(1)), "beta: shape"),
        (lambda f: MapPoints("x", torch.ones(2, 1), torch.ones(2, 1)), "beta: shape"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, call, message):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(ConfigurationError, match=message):
        call(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "l.png"
    path.write_bytes(b"\x89PNG old")

    def full(self, file, **kwargs):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left"):
        save(draw_l_order(), path)
    assert path.read_bytes() == b"\x89PNG old"
    assert len(list(tmp_path.iterdir())) == 1
