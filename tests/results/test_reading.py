"""Tables are read as typed rows, ours and published ones."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from table_helpers import REFERENCE, failed, needs_reference, plain_csv, row, table

from lit_aux.errors import ConfigurationError
from lit_aux.runs.reading import read_measures, read_rows
from lit_aux.runs.table import COLUMNS


def test_values_have_their_kinds(tmp_path: Path) -> None:
    given = row("PT+FT", 3, 16, 1 / 3, correlation=(0.0, 0.9), rescale=1.0, steps=7, solver="exact")
    (read,) = read_rows(table(tmp_path / "results.csv", [given]))
    expected = {**dict.fromkeys(COLUMNS), **given}
    assert read == expected
    kinds = {name: type(value) for name, value in read.items() if value is not None}
    assert kinds["correlation"] is tuple
    assert kinds["rescale"] is kinds["loss_best"] is float
    assert kinds["seed"] is kinds["steps"] is int
    assert kinds["converged"] is bool
    assert read["accuracy"] is None


def test_failed_runs_are_rows(tmp_path: Path) -> None:
    path = table(tmp_path / "results.csv", [failed("STL", 0, 16, "no memory, none"), row("STL", 1, 16, 0.5)])
    assert [(r["error"], r["loss_best"]) for r in read_rows(path)] == [("no memory, none", None), (None, 0.5)]


def test_a_folder_stands_for_its_table_or_all_beneath(tmp_path: Path) -> None:
    table(tmp_path / "a" / "version_1" / "results.csv", [row("STL", 1, 8, 0.1)])
    table(tmp_path / "a" / "version_0" / "results.csv", [row("STL", 0, 8, 0.2)])
    assert [r["seed"] for r in read_rows(tmp_path / "a")] == [0, 1]
    table(tmp_path / "a" / "results.csv", [row("STL", 2, 8, 0.3)])
    assert [r["seed"] for r in read_rows(str(tmp_path / "a"))] == [2]
    assert len(read_rows([tmp_path / "a", tmp_path / "a" / "version_0", tmp_path / "a"])) == 2


def test_a_run_in_several_tables_counts_once_and_success_wins(tmp_path: Path) -> None:
    good, other = row("STL", 0, 8, 0.5), row("STL", 1, 8, 0.25)
    bad = failed("STL", 0, 8, "killed")
    measure = {"measure": "l1", "phase": "train", "layer": "student"}
    one = table(tmp_path / "one.csv", [bad, other], [{"run": other["run"], **measure, "value": 1}])
    two = table(
        tmp_path / "two.csv",
        [good, {**other, "loss_best": 9}],
        [{"run": run["run"], **measure, "value": 2} for run in (good, other)],
    )
    for paths in ([one, two], [two, one]):
        with pytest.raises(ConfigurationError, match="loss_best differs"):
            read_rows(paths)
        read = {r["run"]: r for r in read_rows(paths, "first")}
        assert read[good["run"]]["loss_best"] == 0.5
        assert len(read) == 2
        values = {m["run"]: m["value"] for m in read_measures(paths, "first")}
        first = paths[0] == one
        assert read[other["run"]]["loss_best"] == (0.25 if first else 9)
        assert values == {good["run"]: 2.0, other["run"]: 1.0 if first else 2.0}


def test_measures_of_runs_without_a_row_are_left_out(tmp_path: Path) -> None:
    path = table(
        tmp_path / "results.csv",
        [row("STL", 0, 8, 0.5)],
        [{"run": "STL/0/8", "measure": "lr", "value": 0.1}, {"run": "gone", "measure": "lr", "value": 9}],
    )
    (read,) = read_measures(path)
    assert read == {
        "run": "STL/0/8", "phase": None, "step": None, "layer": None, "measure": "lr", "value": 0.1
    }  # fmt: skip


def test_a_parameter_may_be_text(tmp_path: Path) -> None:
    measures = [
        {"run": "STL/0/8", "measure": "readout", "value": value, "step": 3} for value in ("keep", "2e3")
    ]
    path = table(tmp_path / "results.csv", [row("STL", 0, 8, 0.5)], measures)
    assert [m["value"] for m in read_measures(path)] == ["keep", 2000.0]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "results.csv", [row("STL", seed, 8, 0.5) for seed in (0, 1)])
    path.write_bytes(path.read_bytes()[:-1])
    assert [r["seed"] for r in read_rows(path)] == [0]


def test_other_shapes_are_read(tmp_path: Path) -> None:
    runs = [
        {"setup": "STL", "seed": 0, "correlation": "0.0|1.0", "n_main": 16, "loss_best": 0.5, "baseline": 2}
    ]
    (read,) = read_rows(plain_csv(tmp_path / "a.csv", runs))
    assert (read["correlation"], read["baseline"], read["run"], read["error"]) == (
        (0.0, 1.0),
        2.0,
        None,
        None,
    )
    means = [
        {"setup": "MTL", "rescale": "", "n_main": 10, "accuracy": 0.5, "accuracy_se": 0.1, "seeds": 50}
    ] * 2
    read = read_rows(plain_csv(tmp_path / "b.csv", means))
    assert len(read) == 2  # rows without a name are none the less rows
    assert (read[0]["rescale"], read[0]["accuracy_se"], read[0]["seeds"]) == (None, 0.1, 50)
    layers = [{"quantity": "ENSD", "rescale": 0.125, "layer": 0, "value": 2.5, "value_se": 0.1, "seeds": 38}]
    (read,) = read_rows(plain_csv(tmp_path / "c.csv", layers))
    assert (read["quantity"], read["layer"], read["value"], read["setup"]) == ("ENSD", "0", 2.5, None)


def test_a_last_line_of_others_needs_no_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("setup,seed,loss_best\r\nSTL,0,0.5\r\nSTL,1,0.25")
    assert [r["loss_best"] for r in read_rows(tmp_path / "a.csv")] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("run,phase,step,layer,measure,value\n", "no results table"),
        ("", "no results table"),
        ("setup,seed\nSTL,first\n", "line 2: seed cannot be 'first'"),
        ("setup,converged\nSTL,maybe\n", "converged cannot be 'maybe'"),
        ("setup,correlation\nSTL,0|x\n", "correlation cannot be"),
    ],
)
def test_what_is_no_table(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"FILE .*a\.csv") as error:
        read_rows(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00setup")
    with pytest.raises(ConfigurationError, match="not text"):
        read_rows(tmp_path / "a.csv")


def test_a_folder_without_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no results\.csv"):
        read_rows(tmp_path)


def test_reading_and_the_command_load_nothing_heavy() -> None:
    heavy = ["torch", "lightning", "pandas", "numpy", "scipy", "matplotlib", "wandb"]
    code = "import sys, lit_aux.runs.reading, lit_aux.cli.table; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@needs_reference
@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        (
            "diagonal_overlap",
            720,
            {"setup": "MTL", "seed": 0, "overlap": 0, "n_main": 16, "loss_best": 0.99522597},
        ),
        ("relu_overlap", 2016, {"correlation": (0.0,) * 6, "baseline": 0.23861763}),
        ("cifar100_vit_accuracy", 49, {"n_main": 10, "accuracy": 0.6885, "accuracy_se": 0.0165, "seeds": 50}),
        (
            "cifar100_resnet_dimensionality",
            140,
            {"quantity": "ENSD", "layer": "0", "value": 2.79264, "seeds": 38},
        ),
    ],
)
def test_published_tables(name: str, rows: int, first: dict[str, Any]) -> None:
    read = read_rows(Path(str(REFERENCE)) / f"{name}.csv")
    assert len(read) == rows
    assert {column: read[0][column] for column in first} == first
