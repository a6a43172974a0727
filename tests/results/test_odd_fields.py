"""Fields of tables that are no numbers, or long, or of several lines."""

import csv
from pathlib import Path
from statistics import fmean

import pytest
from table_helpers import row, table

from lit_aux.cli import main
from lit_aux.results.means import bar, mean_of
from lit_aux.runs.reading import read_rows
from lit_aux.runs.table import ResultsTable


def rows(field: str, value: object) -> list[dict[str, object]]:
    found = [row(setup, seed, 16, 0.1 * (seed + 1)) for setup in ("STL", "MTL") for seed in (0, 1)]
    return [found[0] | {field: value}, *found[1:]]


@pytest.mark.parametrize(
    "field", ["loss_best", "accuracy", "seconds", "rescale", "n_main", "seed", "overlap"]
)
@pytest.mark.parametrize("value", ["inf", "-inf", "1e400"])
@pytest.mark.parametrize("words", [["table", "t.csv"], ["figures", "overlap", "--results=t.csv"]], ids=str)
def test_what_is_infinite_is_told_with_its_line(
    field: str, value: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table(Path("t.csv"), rows(field, value))
    assert main(words) == 2
    line = capsys.readouterr().err
    assert "t.csv" in line
    assert f"line 2: {field} cannot be {value!r}" in line
    assert sorted(path.name for path in Path.cwd().iterdir() if path.suffix == ".png") == []


def test_what_is_no_number_is_missing() -> None:
    table(Path("t.csv"), rows("loss_best", "nan"))
    assert [one["loss_best"] for one in read_rows("t.csv")] == [None, 0.2, 0.1, 0.2]


def test_a_long_reason_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("t.csv"), rows("error", "x" * 200_000))
    assert read_rows("t.csv")[0]["error"] == "x" * 200_000
    assert main(["table", "t.csv"]) == 0
    table(Path("u.csv"), rows("error", "x"))
    Path("u.csv").write_text(Path("u.csv").read_text().replace(",x", "," + "x" * (1 << 26) + "y", 1))
    assert main(["table", "u.csv"]) == 2
    assert "u.csv: line 2" in capsys.readouterr().err


def test_a_value_of_several_lines_stays_in_its_row() -> None:
    told = "first\nsecond\r\nthird"
    with ResultsTable(Path("t.csv")) as made:
        made.append([row("STL", 0, 16, 0.1, error=told)], [])
    with Path("t.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 2
    assert read_rows("t.csv")[0]["error"] == r"first\nsecond\r\nthird"


def test_means_of_what_is_not_finite_have_no_error() -> None:
    inf = float("inf")
    assert mean_of([1.0, inf]).mean == inf
    assert mean_of([1.0, inf]).error != mean_of([1.0, inf]).error  # NaN
    centre, low, _ = bar(mean_of([1.0, inf]), False)
    assert centre == inf
    assert low != low
    assert mean_of([1.0, 3.0]).mean == fmean([1, 3])
    assert mean_of([1.0, 3.0]).error == pytest.approx(1.0)  # sqrt(2) / sqrt(2)
