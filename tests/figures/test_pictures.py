"""Pictures are figures that show themselves; what callbacks, fits and sweeps draw is what was measured."""

import subprocess
import sys
from io import BytesIO

import matplotlib
import pytest
from figure_helpers import losses, write_table
from matplotlib.figure import Figure
from PIL import Image

from lit_aux.callbacks import LayerDimensionality, MixingMeasurement
from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, looks_of, side_by_side
from lit_aux.drawing.style import QUANTITIES, ordered_looks
from lit_aux.errors import ConfigurationError
from lit_aux.figures import draw_factors, draw_figure, draw_layers, draw_mixing, figures_of, load, save
from lit_aux.regimes.sweep import FactorFit
from lit_aux.regimes.sweep_report import by_factor


def panels_of(figure):
    return [axes for axes in figure.axes if axes.axison]


def curves(axes):
    return {c.get_label(): c.get_xydata().tolist() for c in axes.lines if c.get_label()[0] != "_"}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def small(**how) -> Figure:
    panel = Panel(("a",), (0, 0), (Curve("one <&>", (1.0, 2.0), (1.0, 4.0)),), "x", "y", **how)
    return draw(Layout((panel,), 0, looks_of(["one <&>"], ordered_looks(1)), caption=""))


def test_a_figure_shows_itself_in_a_notebook():
    data, size = small()._repr_png_()
    with Image.open(BytesIO(data)) as image:
        assert image.format == "PNG"
        assert image.width / size["width"] == pytest.approx(150 / 96, rel=0.01)
        assert image.height / size["height"] == pytest.approx(150 / 96, rel=0.01)


def test_svg_is_the_same_each_time_and_holds_text_as_text(tmp_path):
    before = dict(matplotlib.rcParams)
    text = small(title="a title").svg()
    assert text == small(title="a title").svg()
    assert ">a title</text>" in text
    assert ">one &lt;&amp;&gt;</text>" in text
    assert "<dc:date>" not in text
    assert small().svg("one") != small().svg("other")
    assert save(small(title="a title"), tmp_path / "a.svg").read_text() == text
    assert dict(matplotlib.rcParams) == before


def test_drawing_opens_no_window_and_no_global_figure():
    code = (
        "import sys; from lit_aux.figures import draw_l_order; print('matplotlib' in sys.modules); "
        "draw_l_order(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("count", range(1, 26))
def test_equal_panels_have_a_place_each(count):
    places = side_by_side(count)
    assert len({*places}) == count
    rows, columns = (1 + max(axis) for axis in zip(*places, strict=True))
    assert rows * columns - count < columns
    assert rows <= columns


def test_every_figure_of_tables(tmp_path):
    rows = losses("diagonal-overlap", ("STL", "PT+FT"), k_main=40, overlap=0)
    rows += losses("relu-overlap", ("STL", "MTL"), k_main=2, correlation="0.0|1.0", magnitude=1.0)
    write_table(tmp_path, rows)
    missing = []
    found = list(figures_of(load([tmp_path]), say=missing.append))
    assert [one.name for one in found] == ["overlap-diagonal-overlap", "overlap-relu-overlap"]
    assert "(relu-overlap)" in found[1].title
    assert found[0].notes == ("1 panel, 2 curves from 18 rows",)
    assert all(isinstance(one.figure, Figure) for one in found)
    assert any(text.startswith("norms: no run has l1") for text in missing)
    alone = draw_figure("overlap", tmp_path, experiment="relu-overlap", where=["n_main=16,64"])
    (axes,) = panels_of(alone)
    assert {len(c.lines[0].get_xdata()) for c in axes.containers} == {2}
    with pytest.raises(ConfigurationError, match="name: 'overlaps' is unknown; did you mean 'overlap'"):
        draw_figure("overlaps", tmp_path)
    with pytest.raises(ConfigurationError, match="choose with"):
        draw_figure("overlap", load([tmp_path]))


def layer(phase, name, *values):
    return LayerDimensionality.compare(phase, name, *values)


def test_layers_have_a_row_each_and_their_verdict():
    rows = [layer("pretrain", "net.body.a", 10.0, 9.0, 9.0), layer("pretrain", "net.body.b", 10.0, 4.0, 3.9)]
    rows += [layer("finetune", "net.body.a", 10.0, 7.9, 1.0), layer("finetune", "net.head", 10.0, 7.5, 7.0)]
    figure = draw_layers(rows)
    first, second = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["pretrain · net.body", "finetune · net"]
    assert [t.get_text() for t in second.get_yticklabels()] == ["body.a", "head"]
    assert curves(first)["pr_after"] == [[9.0, 0.0], [4.0, 1.0]]
    assert curves(second)["ensd"] == [[1.0, 0.0], [7.0, 1.0]]
    texts = [text.get_text() for text in second.texts]
    assert texts == [
        "verdict\n(borderline)", "PR after\n/ before", "ENSD\n/ PR after",
        "replaced", "0.79", "0.13",
        "(nested)", "0.75", "0.93",
    ]  # fmt: skip
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim()[0] > first.get_ylim()[1], "the first layer is above"
    assert legend(figure) == [label for label, _ in QUANTITIES.values()]
    wide = draw_layers([layer("", "a", 100.0, 50.0, 1.0)]).axes[0]
    assert wide.get_xscale() == "log"


def test_mixtures_of_each_task_and_the_best():
    rows = [
        MixingMeasurement("p", m, task, f"{split}_{measure}", m + len(task))
        for m in (0.0, 0.5, 1.0)
        for task in ("a", "other")
        for split in ("val", "test")
        for measure in ("loss", "accuracy")
    ]
    figure = draw_mixing(rows, 0.5)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "accuracy"
    names = [f"{task}, {split}" for task in ("a", "other") for split in ("test", "validation")]
    assert legend(figure) == [*names, "best on validation"]
    found = curves(axes)
    assert found["other, test"] == [[0.0, 5.0], [0.5, 5.5], [1.0, 6.0]]
    assert [x for x, _ in found["best on validation"]] == [0.5, 0.5]
    assert "best on validation" not in curves(draw_mixing(rows).axes[0])
    assert draw_mixing([MixingMeasurement("p", 0.5, "a", "test_loss", 2.0)]).axes[0].get_ylabel() == "loss"


def test_factors_have_grounds_of_their_verdicts_and_a_panel_of_validation():
    fits = [
        FactorFit(
            f,
            0,
            (layer("p", "a", 10.0, 9.5, 9.0), layer("p", "head", 10.0, 10 * f, 10 * f)),
            val_accuracy=f / 2,
        )
        for f in (1.0, 0.5, 0.25)
    ]
    figure = draw_factors(by_factor(fits), "head")
    a, head, validation = panels_of(figure)
    assert [axes.get_title("left") for axes in (a, head, validation)] == ["a", "head", "validation accuracy"]
    assert [axes.title.get_fontweight() for axes in (a, head)] == ["normal", "normal"]
    assert [axes._left_title.get_fontweight() for axes in (a, head)] == ["normal", "bold"]
    assert curves(head)["pr_after"] == [[0.25, 2.5], [0.5, 5.0], [1.0, 10.0]]
    assert curves(validation)["validation"] == [[0.25, 0.125], [0.5, 0.25], [1.0, 0.5]]
    assert [text.get_text() for text in head.texts] == ["nested", "lazy"]
    assert legend(figure)[-2:] == ["nested", "lazy"]
    ends = [patch.get_extents().transformed(head.transData.inverted()).x1 for patch in head.patches]
    assert ends[0] == pytest.approx(0.5**0.5)
