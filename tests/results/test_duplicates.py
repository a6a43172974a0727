"""Rows of one run that are there several times: one row, or an error that names what differs and where."""

from pathlib import Path
from typing import Any

import pytest
from table_helpers import failed, plain_csv, row, table

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import reproduce
from lit_aux.results.from_wandb import Fetched, _settle
from lit_aux.runs.reading import read_measures, read_rows
from lit_aux.runs.table import COLUMNS


def image(accuracy: float | None, **more: Any) -> dict[str, Any]:
    plain = {"experiment": "digits-lenet", "loss_best": None, "accuracy": accuracy, "seconds": 1.0}
    return row("STL", 0, 8, None) | plain | more


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Write two tables with another accuracy of one run."""
    paths = [table(tmp_path / f"{name}.csv", [image(value)]) for name, value in (("a", 0.25), ("b", 0.75))]
    return [str(path) for path in paths]


def test_both_files_and_values_are_named(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", *two]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "lit-aux: error: FILE: there are 2 rows of run STL/0/8 and accuracy differs: "
        f"0.25 ({two[0]}, line 2), 0.75 ({two[1]}, line 2); --duplicates first, last or mean decides\n"
    )


@pytest.mark.parametrize(("how", "value"), [("first", "0.25"), ("last", "0.75"), ("mean", "0.5")])
def test_the_option_decides(how: str, value: str, two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", *two, "--duplicates", how]) == 0
    (words,) = [line.split() for line in capsys.readouterr().out.splitlines() if "STL" in line.split()[:1]]
    assert words[1] == value
    assert words[2] == "1"  # one seed: it is one row


def test_an_unknown_choice(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["table", *two], ["figures", "accuracy", "--results", *two]):
        assert main([*words, "--duplicates", "average"]) == 2
        assert "--duplicates: 'average' is unknown" in capsys.readouterr().err


def test_within_one_file(tmp_path: Path) -> None:
    path = plain_csv(tmp_path / "results.csv", [image(0.25), image(0.5) | {"run": "other"}, image(0.75)])
    with pytest.raises(ConfigurationError, match=r"0\.25 \(.*results\.csv, line 2\), 0\.75 \(.*, line 4\)"):
        read_rows(path)
    assert [r["accuracy"] for r in read_rows(path, "last")] == [0.75, 0.5]


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"accuracy": 0.5}, {"accuracy": 0.5049}, None),
        ({"accuracy": 0.5}, {"accuracy": 0.5051}, "accuracy differs: 0.5 "),
        ({"loss_best": 1e-9}, {"loss_best": 1.02e-9}, "loss_best differs: 1e-09 "),
        ({"loss_final": 0.0}, {"loss_final": 0.0}, None),
        ({"seconds": 1.0}, {"seconds": 900.0}, None),
        ({"steps": 100}, {"steps": 101}, None),
        ({"steps": 100}, {"steps": 102}, r"steps differs: 100 .*, 102 "),
        ({"converged": True}, {"converged": False}, r"converged differs: true .*, false "),
        ({"train_loss": 0.5}, {"train_loss": None}, r"train_loss differs: 0.5 .*, nothing "),
        ({"n_main": 20}, {"n_main": 40}, r"n_main differs: 20 .*, 40 "),
        ({"solver": None}, {"solver": "exact"}, None),  # older tables lack a column
        ({"loss_final": 1.0, "steps": 1}, {"loss_final": 2.0, "steps": 2}, "loss_final differs.*so do steps"),
    ],
)
def test_what_differs(
    one: dict[str, Any], other: dict[str, Any], differs: str | None, tmp_path: Path
) -> None:
    paths = [
        table(tmp_path / f"{name}.csv", [image(0.5, run="r", **{"loss_final": 1.0}) | given])
        for name, given in (("a", one), ("b", other))
    ]
    if differs is None:
        (found,) = read_rows(paths)
        assert found["run"] == "r"
    else:
        with pytest.raises(ConfigurationError, match=differs) as error:
            read_rows(paths)
        assert "\n" not in str(error.value)


def test_the_third_row_counts_and_failed_ones_do_not(tmp_path: Path) -> None:
    # 1.009 is close to both others, which are not close to each other
    values = [1.0, 1.009, 1.018]
    paths = [table(tmp_path / f"{v}.csv", [image(0.5, loss_final=v)]) for v in values]
    assert len(read_rows(paths[:2])) == 1
    with pytest.raises(ConfigurationError, match=r"3 rows of run .*: 1 \(.*, 1\.018 \("):
        read_rows(paths)
    bad = table(tmp_path / "bad.csv", [failed("STL", 0, 8, "killed")])
    for order in ([bad, paths[0]], [paths[0], bad]):
        for how in (None, "first", "last", "mean"):
            assert [r["loss_final"] for r in read_rows(order, how)] == [1.0]


def test_there_is_no_mean_of_two_places(tmp_path: Path) -> None:
    paths = [table(tmp_path / f"{n}.csv", [image(0.5, run="r", n_main=n)]) for n in (20, 40)]
    with pytest.raises(
        ConfigurationError, match=r"--duplicates mean: .*n_main differs: 20 .*; take first or last"
    ):
        read_rows(paths, "mean")
    assert [r["n_main"] for r in read_rows(paths, "last")] == [40]


def test_the_mean_of_a_row(tmp_path: Path) -> None:
    one = image(0.2, loss_final=1.0, steps=10, seconds=2.0, converged=True)
    other = image(0.4, loss_final=3.0, steps=20, seconds=4.0, converged=False)
    (found,) = read_rows([table(tmp_path / "a.csv", [one]), table(tmp_path / "b.csv", [other])], "mean")
    numbers = {name: found[name] for name in ("accuracy", "loss_final", "steps", "seconds", "converged")}
    assert numbers == {
        "accuracy": pytest.approx(0.3), "loss_final": 2, "steps": 15, "seconds": 3, "converged": False
    }  # fmt: skip


def measure(value: float, name: str = "pr") -> dict[str, Any]:
    return {"run": "STL/0/8", "phase": "train", "layer": "net", "measure": name, "value": value}


def test_measures_follow_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        table(tmp_path / name / "results.csv", [image(0.5)], [measure(value), measure(7, "ensd")])
        for name, value in (("a", 2.0), ("b", 4.0))
    ]
    words = ["table", *map(str, paths), "--value"]
    assert main([*words, "ensd"]) == 0
    capsys.readouterr()
    assert main([*words, "pr"]) == 2
    said = capsys.readouterr().err
    assert f"the measure pr differs: 2 ({paths[0]}, line 2), 4 ({paths[1]}, line 2)" in said
    values = {
        how: {m["measure"]: m["value"] for m in read_measures(paths, how)}
        for how in ("first", "last", "mean")
    }
    assert values == {
        "first": {"pr": 2, "ensd": 7},
        "last": {"pr": 4, "ensd": 7},
        "mean": {"pr": 3, "ensd": 7},
    }


def test_measures_of_two_rows_in_one_file_are_in_their_order(tmp_path: Path) -> None:
    path = plain_csv(tmp_path / "results.csv", [image(0.25), image(0.75)])
    plain_csv(tmp_path / "measures.csv", [{"step": 1, **measure(2.0)}, {"step": 1, **measure(4.0)}])
    assert {how: read_measures(path, how)[0]["value"] for how in ("first", "last", "mean")} == {
        "first": 2, "last": 4, "mean": 3
    }  # fmt: skip


def test_figures(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["figures", "accuracy", "--results", *two, "--out", str(tmp_path / "a.png")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "--results: there are 2 rows of run STL/0/8 and accuracy differs: 0.25" in said
    assert not (tmp_path / "a.png").exists()
    assert main([*words, "--duplicates", "mean"]) == 0


def test_a_reference(two: list[str], tmp_path: Path) -> None:
    both = plain_csv(tmp_path / "both.csv", [image(0.25), image(0.75)])
    assert main(["table", two[0], "--reference", str(both)]) == 2
    assert main(["table", two[0], "--reference", str(both), "--duplicates", "first"]) == 0


def test_reproduce_and_regime_name_them_before_they_work(tmp_path: Path) -> None:
    place = {"experiment": "diagonal-overlap", "setup": "PT+FT", "seed": 0, "n_main": 16, "overlap": 40}
    rows = [
        dict.fromkeys(COLUMNS, "") | place | {"run": "r", "loss_best": loss, "converged": "true"}
        for loss in (0.1, 0.2)
    ]
    path = plain_csv(tmp_path / "results.csv", rows)
    with pytest.raises(ConfigurationError, match=r"--out .*line 2\), 0\.2 \(.*line 3\); leave one of them"):
        reproduce("diagonal-overlap", setups="STL", seeds=0, n_main=16, out=path)
    assert main(["regime", "--results", str(path)]) == 2


def fetched(name: str, accuracy: float) -> Fetched:
    return Fetched("finished", [image(accuracy)], [], f"wandb-{name}")


def test_runs_of_wandb() -> None:
    there = {"STL/0/8": {**{k: str(v) for k, v in image(0.25).items() if v is not None}, "converged": "true"}}
    with pytest.raises(ConfigurationError, match=r"--from-wandb: .* 0\.25 \(my\.csv\), 0\.75 \(W&B run aa\)"):
        _settle([fetched("aa", 0.75)], there, "my.csv", None)
    with pytest.raises(ConfigurationError, match=r"0\.5 \(W&B run aa\), 0\.75 \(W&B run bb\)"):
        _settle([fetched("aa", 0.5), fetched("bb", 0.75)], {}, "my.csv", None)
    for how, accuracy in ((None, 0.2501), ("first", 0.75), ("last", 0.75)):
        one = fetched("aa", accuracy)
        _settle([one], there, "my.csv", how)
        assert float(one.rows[0]["accuracy"]) == (0.75 if how == "last" else 0.25)


def published(setup: str, value: float) -> dict[str, Any]:
    return {"setup": setup, "n_main": 10, "accuracy": value, "accuracy_se": 0.01, "seeds": 5}


def test_published_tables_of_two_experiments_are_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They name neither run nor experiment: means of the second took the place of those of the first."""
    one = plain_csv(tmp_path / "resnet.csv", [published("STL", 0.5)])
    other = plain_csv(tmp_path / "vit.csv", [published("STL", 0.75)])
    part = plain_csv(tmp_path / "part.csv", [published("MTL", 0.25)])
    assert main(["table", str(one), str(other)]) == 0
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["resnet", "STL", "0.5"] in lines
    assert ["vit", "STL", "0.75"] in lines
    assert {row["experiment"] for row in read_rows([one, part])} == {None}  # parts of one experiment
    twice = plain_csv(tmp_path / "twice.csv", [published("STL", 0.5), published("STL", 0.75)])
    assert main(["table", str(twice)]) == 2
    assert "two published means of one cell (setup STL, n_main 10)" in capsys.readouterr().err


def test_tables_in_hidden_folders_are_left_out(tmp_path: Path) -> None:
    table(tmp_path / "a" / "results.csv", [image(0.25)])
    table(tmp_path / ".Trash" / "a" / "results.csv", [image(0.75)])
    assert [r["accuracy"] for r in read_rows(tmp_path)] == [0.25]
