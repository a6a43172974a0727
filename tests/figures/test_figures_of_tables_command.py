"""``lit-aux figures NAME --results``: what it prints, and what it says of tables that do not fit."""

import pytest
from figure_helpers import losses, write_table

from lit_aux.cli import main

MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture
def both(tmp_path):
    """A folder with tables of diagonal and ReLU students, one failed run among them."""
    rows = losses("diagonal-overlap", ("STL", "PT+FT"), k_main=40, overlap=0)
    write_table(tmp_path / "runs" / "diagonal", rows)
    rows = losses("relu-overlap", ("STL", "MTL"), k_main=2, correlation="0.0|1.0", magnitude=1.0)
    rows = [{**row, "run": f"relu{i}"} for i, row in enumerate(rows)]
    rows.append({**rows[0], "run": "x", "seed": 5, "loss_best": "", "error": "killed"})
    write_table(tmp_path / "runs" / "relu", rows)
    return tmp_path


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix != ".csv" and p.is_file())


@pytest.mark.parametrize("ending", MAGIC)
def test_the_ending_is_the_format(ending, both, capsys):
    out = f"deep/overlap.{ending}"
    assert main(["figures", "overlap", "--results", "runs/diagonal", "--out", out]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"picture: {out}", "  1 panel, 2 curves from 18 rows"]
    assert said.err == ""
    assert (both / out).read_bytes().startswith(MAGIC[ending])
    assert left(both) == [out]


def test_which_of_two_networks_is_chosen(both, capsys):
    assert main(["figures", "overlap", "--results", "runs"]) == 2
    error = capsys.readouterr().err
    assert "the tables have rows of diagonal-overlap, relu-overlap; choose with" in error
    assert "--network" in error
    assert main(["figures", "overlap", "--results", "runs", "--network", "relu"]) == 0
    out = capsys.readouterr().out
    assert "picture: overlap.png" in out
    assert "note: 1 failed run is left out" in out
    assert main(["figures", "overlap", "--results", "runs", "--experiment", "diagonal-overlap"]) == 0
    assert left(both) == ["overlap.png"]


def test_all_draws_what_is_covered(both, capsys):
    assert main(["figures", "all", "--results", "runs/diagonal", "runs/relu", "--out", "drawn"]) == 0
    out = capsys.readouterr().out
    assert left(both) == ["drawn/overlap-diagonal-overlap.png", "drawn/overlap-relu-overlap.png"]
    assert "not drawn: norms: no run has l1" in out
    assert out.count("not drawn: norms") == 1


def test_where_narrows_rows_down(both, capsys):
    base = ["figures", "overlap", "--results", "runs/diagonal", "--where"]
    assert main([*base, "n_main=16,64", "setup=STL"]) == 0
    assert "1 panel, 1 curve from 6 rows" in capsys.readouterr().out
    for condition, message in (
        ("n_main", "--where 'n_main': write COLUMN=VALUE"),
        ("size=3", "--where: 'size' is unknown; did you mean"),
        ("n_main=17", "--where n_main=17: no row is such; n_main is 16, 64, 256"),
    ):
        assert main([*base, condition]) == 2
        assert message in capsys.readouterr().err
    relu = ["figures", "overlap", "--results", "runs/relu", "--where", "correlation=0|1", "n-main=16"]
    assert main(relu) == 0
    assert "2 curves from 6 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["correlation"], "lit-aux reproduce relu-correlation makes such rows"),
        (["sparsity"], "the tables have rows of diagonal-overlap, none for this figure"),
        (["accuracy"], "lit-aux reproduce fashion-resnet18 makes such rows"),
        (["norms"], "norms: no run has l1 or l2"),
        (["top-share"], "measures.csv beside the table"),
        (["overlap", "--network", "linear"], "--network: 'linear' is unknown"),
        (["overlap", "--experiment", "diagonal"], "did you mean 'diagonal-overlap'"),
        (["overlap", "--reference", "nowhere"], "--reference nowhere: there is no such file"),
        (["overlap", "--value", "accuracy"], "--value"),
        (["all", "--where", "k_main=40", "--out", "empty.csv"], "--out: 'empty.csv' is no folder"),
    ],
)
def test_mistakes_are_one_line_and_draw_nothing(arguments, message, both, capsys):
    assert main(["figures", *arguments, "--results", "runs/diagonal"]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("lit-aux: error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert left(both) == []


def test_a_file_that_is_no_table(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "folder").mkdir()
    assert main(["figures", "overlap", "--results", "a.csv"]) == 2
    assert "--results a.csv: is no results table" in capsys.readouterr().err
    assert main(["figures", "overlap", "--results", "folder"]) == 2
    assert "--results folder: there is no results.csv in this folder" in capsys.readouterr().err
    write_table(tmp_path / "none", [])
    assert main(["figures", "overlap", "--results", "none"]) == 2
    assert "--results: the tables have no rows" in capsys.readouterr().err


def test_parameters_of_a_sweep_narrow_rows_down(tmp_path, capsys):
    """What is no column of the table stands among the measures, without phase and layer."""
    rows = losses("sweep", ("STL",), seeds=range(2), k_main=40, overlap=0)
    rows += [dict(row) for row in rows]
    for number, row in enumerate(rows):
        row["run"] = f"r{number}"
    rates = [(row["run"], "", "", "", "model.lr", 0.1 if i < 6 else 0.5) for i, row in enumerate(rows)]
    write_table(tmp_path, rows, rates)
    assert main(["figures", "overlap", "--results", "results.csv"]) == 2
    assert "there are two runs (r0, r6); they differ in model.lr" in capsys.readouterr().err
    assert main(["figures", "overlap", "--results", "results.csv", "--where", "model.lr=0.5"]) == 0
    assert "1 curve from 6 rows" in capsys.readouterr().out


def test_drawing_from_tables_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, lit_aux.figures.results; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]
