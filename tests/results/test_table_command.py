"""``lit-aux table``: what it prints and what it refuses."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from table_helpers import failed, plain_csv, row, table

from lit_aux.cli import main
from lit_aux.results.means import TIMES
from lit_aux.results.sheet import Sheet

LOSSES = {"STL": (1e-2, 4e-2), "MTL": (1e-3, 4e-3), "PT+FT": (1e-5, 9e-5)}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write a table of three setups, one of them with two factors, and a failed run."""
    rows = [row(setup, s, n, loss * n) for setup, losses in LOSSES.items() for s, loss in enumerate(losses)
            for n in (8, 16) if setup != "PT+FT"]  # fmt: skip
    rows += [
        row("PT+FT", s, n, loss * n * factor, rescale=factor)
        for s, loss in enumerate(LOSSES["PT+FT"]) for n in (8, 16) for factor in (1.0, 0.25)
    ]  # fmt: skip
    rows.append(failed("MTL", 7, 8, "the disk is full"))
    measures = [
        {"run": r["run"], "phase": phase, "layer": layer, "measure": "pr", "value": value + number}
        for number, r in enumerate(rows)
        for phase, value in (("pretrain", 100), ("train", 1))
        for layer in ("net.backbone.layer1", "net.backbone.layer2")
    ]
    measures += [
        {"run": r["run"], "measure": "model.settings.lr", "value": 0.1 if r["seed"] == 0 else 0.2}
        for r in rows
    ]
    measures += [
        {"run": r["run"], "phase": "train", "measure": "main/val_accuracy", "value": 0.5} for r in rows
    ]
    return table(tmp_path / "results.csv", rows, measures)


def printed(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main(["table", *map(str, words)]) == 0
    return capsys.readouterr().out


def fields(text: str, *starts: str) -> list[str]:
    """Return the words of the only line that starts with some."""
    (line,) = [words for words in map(str.split, text.splitlines()) if words[: len(starts)] == [*starts]]
    return line[len(starts) :]


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_means_pairs_and_winners(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, results)
    means, pairs = text.split("\nlog10 loss_best: mean difference")
    won = text.rstrip().rpartition("\n\n")[2]
    assert "geometric mean" in means
    # sqrt(.01 * .04) * 8 = .16; of two values, the standard error is half their distance: log10(2)
    assert fields(means, "STL")[:2] == ["0.16", f"{TIMES}2.00"]
    assert fields(means, "MTL")[-3:] == ["2", "4/4", "1"]
    assert "1 runs failed and are left out: the disk is full (1)" in means
    assert "experiment diagonal-overlap" in means
    assert fields(pairs, "MTL", "STL")[0] == "-1"
    assert fields(pairs, "PT+FT", "s=0.25", "PT+FT", "s=1")[0] == "-0.602"  # log10(1/4)
    assert "*" not in pairs.partition("clear")[0].rstrip("* \n"), "a star for two seeds"
    assert "PT+FT s=0.25? [3]" in pairs
    assert "8 comparisons share fewer than 3 seeds" in pairs
    assert won.startswith("cells won: too few seeds 2\n")


def test_several_tables_are_read_as_one(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = table(tmp_path / "more.csv", [row("STL", 2, 8, 0.64)])
    text = printed(capsys, results, other, results)
    assert fields(text.partition("mean difference")[0], "STL")[-2] == "2-3"


def test_full_numbers_as_csv(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = records(printed(capsys, results, "--format", "csv"))
    (stl,) = [r for r in rows if (r["setup"], r["n_main"]) == ("STL", "16")]
    assert float(stl["mean_log10"]) == pytest.approx(-0.4948500)  # of .02 * 16
    assert (stl["seeds"], stl["runs"], stl["converged"], stl["failed"]) == ("2", "2", "2", "0")
    assert len(rows) == 8
    rows = records(printed(capsys, results, "--format", "csv", "--pairs", "true"))
    assert len(rows) == 2 * (3 + 1)
    (pair,) = [r for r in rows if (r["setup"], r["against"], r["n_main"]) == ("MTL", "STL", "8")]
    assert float(pair["difference_log10"]) == pytest.approx(-1)
    assert float(pair["low_95"]) <= -1 + 1e-9
    assert pair["lower"] == "2"


@pytest.mark.parametrize(
    ("words", "mean", "unit"),
    [
        (["--mean", "arithmetic"], 0.2, "mean"),
        (["--value", "loss_best"], -0.7958800, "mean_log10"),
        (["--value", "pr@layer2"], 2, "mean"),  # of the last phase: 1 and 3
        (["--value", "pr@net.backbone.layer1"], 2, "mean"),
        (["--value", "main/val_accuracy"], 0.5, "mean"),
        (["--value", "model.settings.lr"], 0.15, "mean"),
    ],
)
def test_other_columns(
    words: list[str], mean: float, unit: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = records(printed(capsys, results, *words, "--format", "csv"))
    (stl,) = [r for r in rows if (r["setup"], r["n_main"]) == ("STL", "8")]
    assert float(stl[unit]) == pytest.approx(mean)


def test_accuracies_are_the_default_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(s, seed, 8, None, accuracy=a + seed, loss_final=0.5) for s, a in (("STL", 0.25), ("MTL", 0.5))
            for seed in (0, 1)]  # fmt: skip
    text = printed(capsys, table(tmp_path / "results.csv", rows))
    assert "accuracy: mean ± standard error" in text
    assert "the highest mean accuracy" in text
    assert fields(text.partition("Who wins")[2], "MTL?") == ["[3]"]
    losses = printed(capsys, tmp_path, "--value", "loss_final")
    assert "loss_final: mean ± standard error" in losses  # of classifiers, not of students


@pytest.mark.parametrize(
    ("where", "setups", "sizes"),
    [
        ("setup=STL", {"STL"}, {"8", "16"}),
        ("setup=STL,MTL,n_main=8", {"STL", "MTL"}, {"8"}),
        ("rescale=0.25", {"STL", "MTL", "PT+FT"}, {"8", "16"}),
        ("n-main=16, setup=PT+FT ,rescale=1", {"PT+FT"}, {"16"}),
    ],
)
def test_filters(
    where: str, setups: set[str], sizes: set[str], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = records(printed(capsys, results, "--where", where, "--format", "csv"))
    assert {r["setup"] for r in rows} == setups
    assert {r["n_main"] for r in rows} == sizes
    factors = {r["rescale"] for r in rows if r["setup"] == "PT+FT"}
    wanted = {"0.25"} if "0.25" in where else {"1.0"} if "rescale" in where else set()
    assert factors == wanted


def test_correlations_by_one_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("STL", s, 8, 0.1 + c, correlation=(c, 1.0)) for s in (0, 1) for c in (0.0, 1.0)]
    path = table(tmp_path / "results.csv", rows)
    (only,) = records(printed(capsys, path, "--where", "correlation=1", "--format", "csv"))
    assert float(only["mean_log10"]) == pytest.approx(0.0413927)
    assert len(records(printed(capsys, path, "--where", "correlation=0|1", "--format", "csv"))) == 1


def test_parameters_of_a_sweep_tell_cells_apart(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = records(
        printed(capsys, results, "--by", "model.settings.lr", "--where", "setup=STL", "--format", "csv")
    )
    assert {(r["model.settings.lr"], r["seeds"]) for r in rows} == {("0.1", "1"), ("0.2", "1")}


def test_runs_of_one_seed_in_one_cell_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row("STL", 0, 8, loss), "run": str(loss)} for loss in (0.1, 0.2)]
    assert "--by OPTION tells them apart" in printed(capsys, table(tmp_path / "results.csv", rows))


def test_a_table_of_published_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = {"n_main": 10, "seeds": 50}
    rows = [
        {"setup": "STL", "rescale": "", **head, "accuracy": 0.5, "accuracy_se": 0.03},
        {"setup": "PT+FT", "rescale": 0.5, **head, "accuracy": 0.7, "accuracy_se": 0.04},
    ]
    text = printed(capsys, plain_csv(tmp_path / "a.csv", rows))
    assert fields(text.partition("difference")[0], "STL") == ["0.5", "±", "0.03", "50"]
    assert "converged" not in text
    assert "of means over different seeds" in text
    layers = [{"quantity": "PR", "rescale": 1, "layer": 3, "value": 2.5, "value_se": 0.5, "seeds": 9}]
    text = printed(capsys, plain_csv(tmp_path / "b.csv", layers))
    assert "2.5 ± 0.5" in text


def test_markdown_and_files(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "table.md"
    assert printed(capsys, results, "--out", out) == f"table: {out}\n"
    lines = out.read_text().splitlines()
    assert lines[0].startswith("**loss\\_best: geometric mean")
    assert lines[2] == "| setup | rescale | n 8 | n 16 | seeds | converged | failed |"
    assert lines[3] == "| :-- | :-- | --: | --: | --: | --: | --: |"
    assert all(line.count("|") == 8 for line in lines[2:8])
    printed(capsys, results, "--out", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().startswith("setup,rescale,n_main,mean_log10")


def test_a_published_table_beside_ours(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = [
        {"setup": setup, "seed": s, "n_main": n, "loss_best": loss * n * (2 * ((setup, n) == ("MTL", 8)) + 1)}
        for setup, losses in LOSSES.items() for s, loss in enumerate(losses) for n in (8, 16, 32)
        if setup != "MTL" or s == 0
    ]  # fmt: skip
    path = plain_csv(tmp_path / "published.csv", published)
    text = printed(capsys, results, "--reference", path, "--where", "seed=0")
    assert fields(text, "MTL", "0.008") == ["/", "0.024", "!", "0.016", "/", "0.016", "-", "/", "0.032"]
    tally = text.partition("Cells that agree")[2]
    assert fields(tally, "MTL") == ["1", "2", "3"]
    assert fields(tally, "all")[1:] == ["6", "9"]
    rows = records(printed(capsys, results, "--reference", path, "--where", "seed=0", "--format", "csv"))
    assert len(rows) == 9
    assert {r["agrees"] for r in rows if (r["setup"], r["n_main"]) == ("MTL", "8")} == {"false"}
    assert "**Cells that agree" in printed(capsys, results, "--reference", path, "--format", "markdown")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FILE: nothing is given"),
        (["nowhere.csv"], "FILE nowhere.csv: there is no such file"),
        (["R", "--valu", "accuracy"], "did you mean '--value'"),
        (["R", "--value", "los_best"], "did you mean 'loss_best'"),
        (["R", "--value", "accuracy"], "no row has it; this table has loss_best"),
        (["R", "--value", "pr"], "write pr@LAYER: layer1, layer2"),
        (["R", "--value", "pr@layer9"], "has no layer 'layer9'"),
        (["R", "--where", "setup"], "write COLUMN=VALUE"),
        (["R", "--where", "setpu=STL"], "did you mean 'setup'"),
        (["R", "--where", "n_main=9"], "no row is such; n_main is 8, 16"),
        (["R", "--by", "model.setings.lr"], "did you mean 'model.settings.lr'"),
        (["R", "--mean", "harmonic"], "--mean: 'harmonic' is unknown"),
        (["R", "--baseline", "SLT"], "did you mean 'STL'"),
        (["R", "--format", "html"], "--format: 'html' is unknown"),
        (["R", "--pairs", "maybe"], "--pairs"),
        (["R", "--reference", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["R", "--out", "R/x.md"], "cannot be written"),
        (["R", "--from-wandb", "me/it"], "leave FILE out"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            ["table", *(word.replace("R", str(results)) if word.startswith("R") else word for word in words)]
        )
        == 2
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lit-aux: error: ")
    assert message in lines[0]


def test_a_table_of_failures_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "results.csv", [failed("STL", 0, 8, "killed")])
    assert main(["table", str(path)]) == 2
    assert "none of 1 rows has a loss or an accuracy (1 runs failed)" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 200])
def test_numbers_are_never_cut_off(width: int) -> None:
    names = [f"n {n}" for n in (8, 16, 32, 64)]
    sheet = Sheet("t", ["setup", *names], [["PT+FT", *(f"{i}.25e-07 {TIMES}1.0{i}" for i in range(4))]])
    text = sheet.render("text", width)
    assert max(map(len, text.splitlines())) <= max(width, 40)
    for i in range(4):
        assert f"{i}.25e-07 {TIMES}1.0{i}" in text
    assert text.count("PT+FT") == {40: 4, 60: 2, 200: 1}[width]
