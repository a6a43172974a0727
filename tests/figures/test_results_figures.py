"""Figures of tables made here: every curve is the mean of its rows, its bars two standard errors."""

import math
import random
from itertools import chain

import pytest
from figure_helpers import (
    assert_same,
    draw_figure,
    drawn_curves,
    expected,
    kept_figures,
    losses,
    panels,
    published_curves,
    title,
    write_table,
)

from lit_aux.errors import ConfigurationError
from lit_aux.figures import Request

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def drawn(monkeypatch):
    return kept_figures(monkeypatch)


ARITHMETIC = Request(mean="arithmetic")


def by(*names):
    return lambda row: row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)


def loss(row):
    return row["loss_best"]


def sides(figure):
    """Return the panels by the title of their column and of their row."""
    shown = panels(figure)
    places = {axes: axes.get_subplotspec() for axes in shown}
    columns = {places[a].colspan.start: title(a) for a in shown if title(a)}
    rows = {places[a].rowspan.start: a.texts[-1].get_text() for a in shown if a.texts}
    return {(columns[p.colspan.start], rows[p.rowspan.start]): a for a, p in places.items()}


def test_overlap_of_diagonal_students(tmp_path, drawn):
    tasks = [
        losses("diagonal-overlap", ("STL", "MTL", "PT+FT (LP)"), k_main=40, overlap=overlap)
        for overlap in (40, 0, 20)
    ]
    write_table(tmp_path, [*chain(*tasks)])
    lines = draw_figure("overlap", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)
    found = {title(axes): axes for axes in panels(drawn[0])}
    assert list(found) == ["0 of 40 shared", "20 of 40 shared", "40 of 40 shared"]
    for rows in tasks:
        axes = found[f"{rows[0]['overlap']} of 40 shared"]
        assert_same(drawn_curves(axes), expected(rows, by("n_main"), by("setup"), loss))
    assert lines == [f"picture: {tmp_path / 'a.png'}", "  3 panels, 9 curves from 81 rows"]
    (legend,) = drawn[0].legends
    assert legend.get_title().get_text() == "Means over 3 seeds; error bars: 2 standard errors"
    assert [text.get_text() for text in legend.get_texts()] == ["STL", "MTL", "PT+FT (LP)"]


def test_relu_losses_are_divided_by_the_single_task_loss_of_the_seed(tmp_path, drawn):
    rows = losses("relu-sparsity", ("STL", "PT+FT"), k_main=2, correlation="1.0|1.0", magnitude=1.0)
    write_table(tmp_path, rows)
    draw_figure("sparsity", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)
    base = {r["seed"]: r["loss_best"] for r in rows if r["setup"] == "STL" and r["n_main"] == 16}
    wanted = expected(rows, by("n_main"), by("setup"), lambda r: r["loss_best"] / base[r["seed"]])
    (axes,) = panels(drawn[0])
    assert_same(drawn_curves(axes), wanted)
    assert drawn_curves(axes)["STL"][16] == (1.0, 1.0, 1.0)
    assert axes.get_ylabel() == "best test loss / STL's at n = 16"


def test_geometric_means_and_final_losses(tmp_path, drawn):
    rows = losses("diagonal-overlap", ("MTL",), k_main=40, overlap=0)
    write_table(tmp_path, rows)
    draw_figure("overlap", tmp_path / "a.png", [tmp_path], how=Request("loss_final"))
    (axes,) = panels(drawn[0])
    logs = expected(rows, by("n_main"), by("setup"), lambda r: math.log(r["loss_final"]))["MTL"]
    for n, (mean, error) in logs.items():
        got = drawn_curves(axes)["MTL"][n]
        assert got == pytest.approx([math.exp(mean), math.exp(mean - error), math.exp(mean + error)])
    assert axes.get_ylabel() == "geometric mean of final test loss"


def test_sparsity_has_a_row_for_what_is_shared(tmp_path, drawn):
    tasks = {
        (k, shared): losses(
            "diagonal-sparsity", ("STL", "MTL", "PT+FT"), k_main=k, overlap=k if shared else 0
        )
        for k in (5, 10)
        for shared in (True, False)
    }
    write_table(tmp_path, [*chain(*tasks.values())])
    draw_figure("sparsity", tmp_path / "a.pdf", [tmp_path], how=ARITHMETIC)
    found = sides(drawn[0])
    assert len(found) == 4
    for (k, shared), rows in tasks.items():
        axes = found[f"{k} main entries", f"{'all' if shared else 'none'} shared"]
        assert_same(drawn_curves(axes), expected(rows, by("n_main"), by("setup"), loss))
    assert len({axes.get_ylim() for axes in found.values()}) == 1


def test_rescaling_has_a_curve_for_each_factor_and_stl_to_compare(tmp_path, drawn):
    rows = [
        row
        for setup, factors in (("PT+FT", (1.0, 0.1, 0.001)), ("STL", (1.0, 0.1)))
        for factor in factors
        for row in losses("diagonal-rescaling", (setup,), k_main=5, overlap=0, rescale=factor)
    ]
    write_table(tmp_path, rows)
    draw_figure("rescaling", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)
    found = {side.split("\n")[0]: axes for (_, side), axes in sides(drawn[0]).items()}

    def key(row):
        return f"{TIMES} {row['rescale']:g}"

    tuned = expected([r for r in rows if r["setup"] == "PT+FT"], by("n_main"), key, loss)
    single = expected([r for r in rows if r["setup"] == "STL"], by("n_main"), key, loss)
    assert_same(drawn_curves(found["PT+FT"]), {**tuned, "STL": single[f"{TIMES} 1"]})
    assert_same(drawn_curves(found["STL"]), single)
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == ["factor 1", "factor 0.1", "factor 0.001", "STL"]


def test_correlation_is_relative_to_single_task_training_of_the_same_size(tmp_path, drawn):
    tasks = {
        (rho, size): losses(
            "relu-correlation",
            ("STL", "MTL", "PT+FT"),
            k_main=2,
            correlation=f"{rho}|{rho}",
            magnitude=size,
        )
        for rho in (0.8, 1.0)
        for size in (0.1, 1.0)
    }
    write_table(tmp_path, [*chain(*tasks.values())])
    draw_figure("correlation", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)
    found = sides(drawn[0])
    assert len(found) == 4
    for (rho, size), rows in tasks.items():
        base = {(r["seed"], r["n_main"]): r["loss_best"] for r in rows if r["setup"] == "STL"}
        wanted = expected(
            [r for r in rows if r["setup"] != "STL"],
            by("n_main"),
            by("setup"),
            lambda r, base=base: r["loss_best"] / base[r["seed"], r["n_main"]],
        )
        axes = found[rf"all $\rho$ = {rho:g}", f"output {TIMES} {size:g}"]
        assert_same(drawn_curves(axes), wanted)
        (level,) = (line for line in axes.lines if line.get_label() == "level")
        assert set(level.get_ydata()) == {1.0}


def _measured(rows, names, draw):
    """Return measures of rows, and the rows with them as further columns."""
    measures, wide = [], []
    for number, row in enumerate(rows):
        values = {name: draw.random() for name in names}
        run = row["run"] = f"{number:012x}"
        measures += [(run, "train", 3, *name.split(), value) for name, value in values.items()]
        wide.append({**row, **values})
    return measures, wide


def test_norms_and_the_teachers(tmp_path, drawn):
    rows = [r for o in (0, 40) for r in losses("diagonal-overlap", ("STL", "MTL"), k_main=40, overlap=o)]
    measures, wide = _measured(rows, [f"student {n}" for n in ("l1", "l2", "l12")], random.Random(0))
    taught = {(o, s): random.Random(o + s).random() for o in (0, 40) for s in range(3)}
    measures += [(r["run"], "train", 3, "teacher", "l1", taught[r["overlap"], r["seed"]]) for r in wide]
    write_table(tmp_path, rows, measures)
    draw_figure("norms", tmp_path / "a.png", [tmp_path])
    shown = panels(drawn[0])
    assert len(shown) == 6
    for number, name in enumerate(("l1", "l2", "l12")):
        for column, overlap in enumerate((0, 40)):
            own = [row for row in wide if row["overlap"] == overlap]
            wanted = expected(own, by("n_main"), by("setup"), by(f"student {name}"))
            axes = shown[2 * number + column]
            assert_same(drawn_curves(axes), wanted)
            line = [line for line in axes.lines if line.get_label() == "teacher"]
            assert len(line) == (name == "l1")
            if line:
                mean = sum(taught[overlap, seed] for seed in range(3)) / 3
                assert line[0].get_ydata() == pytest.approx([mean] * 3)


def test_shares_and_features(tmp_path, drawn):
    rows = losses("diagonal-overlap", ("STL", "PT+FT"), k_main=40, overlap=20)
    measures, wide = _measured(rows, ["student top_share", "student aux_share"], random.Random(1))
    write_table(tmp_path, rows, measures)
    draw_figure("top-share", tmp_path / "a.png", [tmp_path])
    for axes, name in zip(panels(drawn[0]), ("top_share", "aux_share"), strict=True):
        assert_same(drawn_curves(axes), expected(wide, by("n_main"), by("setup"), by(f"student {name}")))


def test_features_of_students_with_different_numbers_of_units(tmp_path, drawn):
    rows = losses("relu-sparsity", ("STL", "MTL"), k_main=1, correlation="1.0", magnitude=1.0)
    rows += losses("relu-sparsity", ("STL", "MTL"), k_main=3, correlation="1.0|1.0|1.0", magnitude=1.0)
    clusters = (1, 3, 6)
    names = [f"student inertia_k{k}" for k in clusters] + ["student alignment_k6_aux"]
    measures, wide = _measured(rows, names, random.Random(2))
    draw = random.Random(3)
    for row in wide:
        row["main"] = draw.random()
        measures.append((row["run"], "train", 3, "student", f"alignment_k{row['k_main']}", row["main"]))
    write_table(tmp_path, rows, measures)
    draw_figure("features", tmp_path / "a.png", [tmp_path])
    shown = panels(drawn[0])
    assert len(shown) == 8
    for column, k in enumerate((1, 3)):
        own = [row for row in wide if row["k_main"] == k]
        long = [
            {**row, "K": c, "inertia": row[f"student inertia_k{c}"]}
            for row in own
            for c in clusters
            if row["n_main"] == 256
        ]
        against_n = (by(f"student inertia_k{k}"), by("main"), by("student alignment_k6_aux"))
        wanted = [expected(long, by("K"), by("setup"), by("inertia"))]
        wanted += [expected(own, by("n_main"), by("setup"), value) for value in against_n]
        for axes, curves in zip(shown[column::2], wanted, strict=True):
            assert_same(drawn_curves(axes), curves)


def _images(factors=(1.0, 0.5)):
    draw = random.Random(4)
    return [
        {
            "experiment": "fashion-resnet18",
            "setup": setup,
            "seed": seed,
            "n_main": n,
            "rescale": factor,
            "accuracy": draw.random(),
        }
        for setup, chosen in (("STL", ("",)), ("MTL", ("",)), ("PT+FT", factors))
        for factor in chosen
        for seed in range(4)
        for n in (20, 200)
    ]


def test_accuracy_and_its_paired_differences(tmp_path, drawn):
    rows = _images()
    write_table(tmp_path, rows)
    lines = draw_figure("accuracy", tmp_path / "a.png", [tmp_path])
    (axes,) = panels(drawn[0])
    plain = [row for row in rows if row["rescale"] != 0.5]
    assert_same(drawn_curves(axes), expected(plain, by("n_main"), by("setup"), by("accuracy")))
    assert lines[2].startswith("  8 rows at other rescale factors than 1 are left out")
    draw_figure("accuracy-rescale", tmp_path / "b.png", [tmp_path])
    left, right = panels(drawn[1])

    def key(row):
        return "STL" if row["setup"] == "STL" else f"{TIMES} {row['rescale']:g}"

    own = [row for row in rows if row["setup"] != "MTL"]
    assert_same(drawn_curves(left), expected(own, by("n_main"), key, by("accuracy")))
    ones = {(r["seed"], r["n_main"]): r["accuracy"] for r in rows if r["rescale"] == 1.0}
    half = [r for r in rows if r["rescale"] == 0.5]
    wanted = expected(half, by("n_main"), key, lambda r: r["accuracy"] - ones[r["seed"], r["n_main"]])
    assert_same(drawn_curves(right), wanted)


def test_dimensionality_of_layers(tmp_path, drawn):
    rows = [row for row in _images() if row["setup"] == "PT+FT" and row["n_main"] == 20]
    draw = random.Random(5)
    measures, long = [], []
    for number, row in enumerate(rows):
        row["run"] = f"{number:012x}"
        for place, layer in enumerate(("net.backbone.layer1", "net.backbone.network.layer2", "net.readout")):
            for name in ("pr_before", "pr_after", "ensd"):
                value = draw.random()
                measures.append((row["run"], "finetune", 9, layer, name, value))
                long.append({**row, "place": place, "quantity": name, "value": value})
    write_table(tmp_path, rows, measures)
    draw_figure("dimensionality", tmp_path / "a.png", [tmp_path])
    half, one = panels(drawn[0])
    for axes, factor in ((half, 0.5), (one, 1.0)):
        own = [row for row in long if row["rescale"] == factor]
        assert title(axes) == f"factor {factor:g}"
        assert_same(drawn_curves(axes), expected(own, by("place"), by("quantity"), by("value")))
        assert [t.get_text() for t in axes.get_xticklabels()] == ["layer1", "layer2", "readout"]


def test_published_curves_are_dashed_and_in_the_legend(tmp_path, drawn):
    rows = losses("diagonal-overlap", ("STL", "PT+FT"), k_main=40, overlap=20)
    theirs = losses("", ("STL", "MTL"), seeds=range(2), n_main=(8, 16, 32, 256, 512), overlap=20)
    write_table(tmp_path / "ours", rows)
    (tmp_path / "theirs").mkdir()
    text = ["setup,seed,overlap,n_main,loss_best"]
    text += [",".join(str(r[c]) for c in text[0].split(",")) for r in theirs]
    (tmp_path / "theirs" / "diagonal_overlap.csv").write_text("\n".join([*text, ""]))
    lines = draw_figure(
        "overlap", tmp_path / "a.png", [tmp_path / "ours"], tmp_path / "theirs", how=ARITHMETIC
    )
    assert lines[1] == "  1 panel, 2 curves from 18 rows; 1 published curve"
    (axes,) = panels(drawn[0])
    shared = [r for r in theirs if r["setup"] == "STL" and 16 <= r["n_main"] <= 256]
    wanted = expected(shared, by("n_main"), by("setup"), loss)
    (name,) = published_curves(axes)
    assert published_curves(axes)[name] == pytest.approx({n: m for n, (m, _) in wanted[name].items()})
    (line,) = (line for line in axes.lines if line.get_label() == "published STL")
    (ours,) = (c for c in axes.containers if c.get_label() == "STL")
    assert line.is_dashed()
    assert line.get_color() == ours[0].get_color()
    assert line.get_linewidth() < ours[0].get_linewidth()
    assert drawn[0].legends[0].get_texts()[-1].get_text() == "published"


def test_a_single_seed_has_no_bar_and_failed_runs_are_counted(tmp_path, drawn):
    rows = losses("diagonal-overlap", ("MTL",), seeds=range(2), k_main=40, overlap=0)
    rows = [row for row in rows if row["seed"] == 0 or row["n_main"] == 16]
    failed = {**rows[0], "seed": 7, "loss_best": "", "converged": "false", "error": "RuntimeError: no"}
    write_table(tmp_path, [*rows, failed])
    lines = draw_figure("overlap", tmp_path / "a.png", [tmp_path])
    assert lines[-1] == "note: 1 failed run is left out"
    curve = drawn_curves(panels(drawn[0])[0])["MTL"]
    assert all(math.isfinite(end) for end in curve[16][1:])
    assert all(math.isnan(end) for n in (64, 256) for end in curve[n][1:])
    assert drawn[0].legends[0].get_title().get_text().startswith("Means over 1 to 2 seeds")


def test_rows_that_differ_in_what_is_not_shown_are_never_averaged(tmp_path):
    rows = losses("diagonal-overlap", ("STL",), k_main=40, overlap=0)
    solved = [{**row, "solver": "exact"} for row in rows]
    write_table(tmp_path, rows + solved)
    with pytest.raises(ConfigurationError, match=r'differ in solver .*--where "solver='):
        draw_figure("overlap", tmp_path / "a.png", [tmp_path])
    twice = [dict(row) for row in rows]
    write_table(tmp_path, rows[:1] + [{**row, "run": f"b{i}"} for i, row in enumerate(twice)])
    with pytest.raises(ConfigurationError, match=r"seed 0: there are two runs"):
        draw_figure("overlap", tmp_path / "a.png", [tmp_path])
    assert not (tmp_path / "a.png").exists()


def test_rows_without_a_loss_or_a_single_task_run_are_counted(tmp_path, drawn):
    rows = losses("relu-overlap", ("STL", "MTL"), k_main=2, correlation="0.0|1.0", magnitude=1.0)
    kept = [row for row in rows if row["setup"] == "MTL" or row["seed"] != 2]  # three of MTL are left alone
    kept[0]["loss_best"] = ""  # STL, seed 0, n 16: those of seed 0 have no divisor
    write_table(tmp_path, kept)
    lines = draw_figure("overlap", tmp_path / "a.png", [tmp_path])
    assert lines[1] == "  1 panel, 2 curves from 6 rows"
    assert lines[2] == "  rows without loss_best, or without STL's to compare with: 9"


def test_another_factor_than_one_is_told(tmp_path, drawn):
    rows = losses("diagonal", ("PT+FT",), k_main=40, overlap=0, rescale=0.5)
    write_table(tmp_path, rows)
    assert (
        draw_figure("overlap", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)[2]
        == "  all rescaled rows are at factor 0.5"
    )
    rows += losses("diagonal", ("PT+FT",), k_main=40, overlap=0, rescale=1.0)
    write_table(tmp_path, [{k: v for k, v in row.items() if k != "run"} for row in rows])
    lines = draw_figure("overlap", tmp_path / "a.png", [tmp_path], how=ARITHMETIC)
    assert lines[1:] == [
        "  1 panel, 1 curve from 9 rows",
        "  9 rows at other rescale factors than 1 are left out; choose with --where",
    ]
    wanted = expected([r for r in rows if r["rescale"] == 1.0], by("n_main"), by("setup"), loss)
    assert_same(drawn_curves(panels(drawn[1])[0]), wanted)
