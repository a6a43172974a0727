"""Figures of the published tables alone: every curve is what the table says, read back from the artists."""

import math
from collections import Counter
from pathlib import Path

import pytest
from figure_helpers import (
    REFERENCE,
    assert_same,
    draw_figure,
    drawn_curves,
    expected,
    kept_figures,
    needs_reference,
    panels,
    published_curves,
    read,
    title,
)

from lit_aux.figures import Request

pytestmark = needs_reference
ARITHMETIC = Request(mean="arithmetic")
FOLDER = Path(REFERENCE or "")


@pytest.fixture
def drawn(monkeypatch):
    return kept_figures(monkeypatch)


def test_diagonal_overlap(tmp_path, drawn):
    lines = draw_figure("overlap", tmp_path / "a.png", [FOLDER / "diagonal_overlap.csv"], how=ARITHMETIC)
    rows = read(FOLDER / "diagonal_overlap.csv")
    points = 0
    for axes, overlap in zip(panels(drawn[0]), ("0", "20", "30", "40"), strict=True):
        own = [row for row in rows if row["overlap"] == overlap]
        wanted = expected(own, lambda r: r["n_main"], lambda r: r["setup"], lambda r: r["loss_best"])
        assert title(axes) == f"{overlap} shared"
        assert axes.get_xscale() == axes.get_yscale() == "log"
        points += assert_same(drawn_curves(axes), wanted)
    assert points == 120
    assert lines[1] == f"  4 panels, 20 curves from {len(rows)} rows"


def test_relu_overlap_is_relative_to_the_baseline(tmp_path, drawn):
    draw_figure("overlap", tmp_path / "a.svg", [FOLDER / "relu_overlap.csv"], how=ARITHMETIC)
    rows = read(FOLDER / "relu_overlap.csv")
    by_title = {}
    for row in rows:
        values = Counter(float(part) for part in row["correlation"].split("|"))
        spelled = ", ".join(f"{v:g} (\N{MULTIPLICATION SIGN}{c})" for v, c in sorted(values.items())[::-1])
        name = rf"all $\rho$ = {next(iter(values)):g}" if len(values) == 1 else rf"$\rho$ = {spelled}"
        by_title.setdefault(name, []).append(row)
    found = {title(axes): axes for axes in panels(drawn[0])}
    assert found.keys() == by_title.keys()
    assert len(found) == 8
    points = 0
    for name, own in by_title.items():
        wanted = expected(
            own,
            lambda r: r["n_main"],
            lambda r: r["setup"],
            lambda r: float(r["loss_best"]) / float(r["baseline"]),
        )
        points += assert_same(drawn_curves(found[name]), wanted)
    assert points == 8 * 7 * 6


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_accuracy(network, tmp_path, drawn):
    file = FOLDER / f"cifar100_{network}_accuracy.csv"
    draw_figure("accuracy", tmp_path / "a.png", [file])
    rows = [row for row in read(file) if row["rescale"] in ("", "1.0000")]
    wanted = _published(rows, lambda r: r["setup"], "n_main", "accuracy")
    (axes,) = panels(drawn[0])
    assert assert_same(drawn_curves(axes), wanted) == 21


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_accuracy_by_factor(network, tmp_path, drawn):
    file = FOLDER / f"cifar100_{network}_accuracy.csv"
    draw_figure("accuracy-rescale", tmp_path / "a.png", [file])
    rows = [row for row in read(file) if row["setup"] != "MTL"]
    wanted = _published(rows, _factor, "n_main", "accuracy")
    left, right = panels(drawn[0])
    assert assert_same(drawn_curves(left), wanted) == 42
    ones = wanted[_factor({"setup": "PT+FT", "rescale": "1"})]
    differences = {
        name: {
            n: (mean - ones[n][0], 2 * math.hypot(error / 2, ones[n][1] / 2))
            for n, (mean, error) in places.items()
        }
        for name, places in wanted.items()
        if places is not ones and name != "STL"
    }
    assert_same(drawn_curves(right), differences)


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_dimensionality(network, tmp_path, drawn):
    file = FOLDER / f"cifar100_{network}_dimensionality.csv"
    draw_figure("dimensionality", tmp_path / "a.png", [file])
    names = {"PR Pre": "pr_before", "PR Post": "pr_after", "ENSD": "ensd"}
    rows = [row for row in read(file) if row["quantity"] in names]
    found = {title(axes): axes for axes in panels(drawn[0])}
    factors = sorted({float(row["rescale"]) for row in rows})
    assert list(found) == [f"factor {factor:g}" for factor in factors]
    for factor in factors:
        own = [row for row in rows if float(row["rescale"]) == factor]
        wanted = _published(own, lambda r: names[r["quantity"]], "layer", "value")
        assert_same(drawn_curves(found[f"factor {factor:g}"]), wanted)


def test_published_curves_lie_over_ours(tmp_path, drawn):
    """A table of ours with half of the published runs: the other half's means are laid over all the same."""
    rows = [row for row in read(FOLDER / "relu_overlap.csv") if int(row["seed"]) < 3]
    text = ["run,experiment,setup,seed,correlation,n_main,loss_best"]
    text += [
        ",".join(
            [
                f"{i:012x}",
                "relu-overlap",
                *(r[c] for c in ("setup", "seed", "correlation", "n_main", "loss_best")),
            ]
        )
        for i, r in enumerate(rows)
    ]
    (tmp_path / "results.csv").write_text("\n".join([*text, ""]))
    lines = draw_figure("overlap", tmp_path / "a.png", [tmp_path], FOLDER, how=ARITHMETIC)
    assert lines[1].endswith("; 56 published curves")
    whole = read(FOLDER / "relu_overlap.csv")
    zero = "|".join(["0.0"] * 6)
    for table, curves in ((rows, drawn_curves), (whole, published_curves)):
        own = [row for row in table if row["correlation"] == zero]
        wanted = expected(
            own,
            lambda r: r["n_main"],
            lambda r: r["setup"],
            lambda r: float(r["loss_best"]) / float(r["baseline"]),
        )
        (axes,) = (a for a in panels(drawn[0]) if title(a) == r"all $\rho$ = 0")
        if curves is drawn_curves:
            assert_same(curves(axes), wanted)
        else:
            means = {name: {n: mean for n, (mean, _) in v.items()} for name, v in wanted.items()}
            assert curves(axes).keys() == means.keys()
            for name, places in means.items():
                assert curves(axes)[name] == pytest.approx(places)


def _factor(row) -> str:
    return "STL" if row["setup"] == "STL" else f"\N{MULTIPLICATION SIGN} {float(row['rescale']):g}"


def _published(rows, key, x, value):
    """Return means and two standard errors as a table says them."""
    found: dict = {}
    for row in rows:
        found.setdefault(key(row), {})[float(row[x])] = float(row[value]), 2 * float(row[f"{value}_se"])
    return found
