"""Cells beside published ones, against brute force and against the tool that published tables come with."""

import re
import subprocess
import sys
from importlib.util import find_spec
from math import log10, sqrt
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import pytest
from table_helpers import REFERENCE, needs_reference, plain_csv, row, table

from lit_aux.errors import ConfigurationError
from lit_aux.results.reference import ReferenceComparison, compare
from lit_aux.runs.reading import read_rows


def compared(
    folder: Path, ours: list[dict[str, Any]], published: list[dict[str, Any]]
) -> ReferenceComparison:
    mine, theirs = table(folder / "ours.csv", ours), plain_csv(folder / "published.csv", published)
    return compare(read_rows(mine), read_rows(theirs))


def test_losses_agree_by_the_larger_of_two_bounds(tmp_path: Path) -> None:
    random = Random(1)
    ours, published, expected = [], [], {}
    for n, spread, shift in [(16, 0.0, 0.04), (32, 0.0, 0.06), (64, 0.3, 0.3), (128, 0.3, 0.9)]:
        logs = [[random.gauss(-1, spread) for _ in range(6)] for _ in range(2)]
        ours += [row("STL", s, n, 10 ** (value + shift), overlap=20) for s, value in enumerate(logs[0])]
        published += [
            {"setup": "STL", "seed": s, "overlap": 20, "n_main": n, "loss_best": 10**value}
            for s, value in enumerate(logs[1])
        ]
        gap = fmean(logs[0]) + shift - fmean(logs[1])
        error = sqrt(sum((stdev(part) / sqrt(6)) ** 2 for part in logs))
        expected[n] = abs(gap) <= max(0.05, 2 * error)
    found = compared(tmp_path, ours, published)
    assert found.names == ("setup", "overlap", "n_main")
    assert {cell.key[-1]: cell.agrees for cell in found.cells} == expected
    assert {*expected.values()} == {True, False}
    assert found.by_setup() == {"STL": (sum(expected.values()), 4, 4)}


def test_cells_that_we_lack_are_counted_apart(tmp_path: Path) -> None:
    published = [
        {"setup": setup, "seed": 0, "n_main": n, "loss_best": 0.5}
        for setup in ("STL", "MTL")
        for n in (8, 16)
    ]
    found = compared(tmp_path, [row("STL", 0, 8, 0.5), row("PT+FT", 0, 8, 0.1)], published)
    assert found.by_setup() == {"STL": (1, 1, 2), "MTL": (0, 0, 2)}


def test_solved_and_rescaled_rows_are_left_out(tmp_path: Path) -> None:
    published = [{"setup": "PT+FT", "seed": 0, "n_main": 8, "loss_best": 0.5}]
    ours = [row("PT+FT", 0, 8, 0.5, rescale=1.0, solver="gradient_flow")]
    ours += [row("PT+FT", 0, 8, 50, rescale=0.1, solver="gradient_flow")]
    ours += [row("PT+FT", 0, 8, 500, rescale=1.0, solver="exact")]
    found = compared(tmp_path, ours, published)
    assert [cell.agrees for cell in found.cells] == [True]
    (only,) = compared(tmp_path / "b", ours[2:], published).cells if (tmp_path / "b").mkdir() is None else ()
    assert only.ours is not None
    assert only.ours.mean == pytest.approx(log10(500))


def accuracy(setup: str, value: float, rescale: Any = "") -> dict[str, Any]:
    cell = {"setup": setup, "rescale": rescale, "n_main": 10}
    return cell | {"accuracy": value, "accuracy_se": 0.02, "seeds": 25}


def test_accuracies_agree_within_two_standard_errors(tmp_path: Path) -> None:
    def runs(setup: str, *values: float, **more: Any) -> list[dict[str, Any]]:
        return [row(setup, s, 10, None, accuracy=v, **more) for s, v in enumerate(values)]

    ours = (
        runs("MTL", 0.60, 0.62)
        + runs("PT+FT", 0.7, 0.9, rescale=0.125)
        + runs("PT+FT", 0.3, 0.31, rescale=1.0)
    )
    published = [accuracy("MTL", 0.65), accuracy("PT+FT", 0.65, 0.125), accuracy("PT+FT", 0.4, 1.0)]
    found = compared(tmp_path, ours, published)
    assert found.names == ("setup", "rescale", "n_main")
    verdicts = {cell.key[:2]: cell.agrees for cell in found.cells}
    # standard errors of ours: .01, .1 and .005, of the published ones .02
    assert verdicts == {("MTL", None): True, ("PT+FT", 0.125): True, ("PT+FT", 1.0): False}
    allowed = {cell.key[:2]: cell.allowed for cell in found.cells}
    assert allowed["MTL", None] == pytest.approx(2 * sqrt(0.01**2 + 0.02**2))


def test_of_one_seed_the_published_spread_is_taken(tmp_path: Path) -> None:
    found = compared(tmp_path, [row("MTL", 0, 10, None, accuracy=0.5)], [accuracy("MTL", 0.6)])
    assert found.cells[0].allowed == pytest.approx(2 * sqrt(0.02**2 + (0.02 * 5) ** 2))
    assert found.cells[0].agrees


@pytest.mark.parametrize(
    "published",
    [
        [{"setup": "STL", "seed": 0, "n_main": 999, "loss_best": 0.5}],
        [{"setup": "STL", "n_main": 8, "accuracy": 0.5, "accuracy_se": 0.1, "seeds": 5}],
        [{"quantity": "ENSD", "rescale": 1, "layer": 0, "value": 2, "value_se": 1, "seeds": 5}],
    ],
)
def test_tables_that_cannot_be_compared(published: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--reference"):
        compared(tmp_path, [row("STL", 0, 8, 0.5)], published)


def perturbed(name: str, path: Path) -> Path:
    """Write the published runs as if they were ours, a part of them moved far and the others little."""
    random, rows = Random(2), []
    for number, read in enumerate(read_rows(Path(str(REFERENCE)) / name)):
        shift = 10 ** random.gauss(0, 0.05) * (1.35 if read["n_main"] in (32, 128) else 1)
        columns = {k: v for k, v in read.items() if v is not None and k != "baseline"}
        rows.append({**columns, "run": str(number), "loss_best": read["loss_best"] * shift})
    return table(path, rows)


@needs_reference
@pytest.mark.skipif(find_spec("pandas") is None, reason="the tool needs pandas")
@pytest.mark.parametrize("name", ["diagonal_overlap.csv", "relu_overlap.csv"])
def test_counts_are_those_of_the_published_tool(name: str, tmp_path: Path) -> None:
    tool = Path(str(REFERENCE)).parent / "tools" / "parity.py"
    if not tool.is_file():
        pytest.skip("the tool is not beside the published tables")
    ours, published = perturbed(name, tmp_path / "ours.csv"), Path(str(REFERENCE)) / name
    words = [sys.executable, str(tool), str(ours), str(published)]
    text = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).stdout
    told = re.findall(r"^(.+): (\d+) of (\d+) cells agree$", text, flags=re.MULTILINE)
    expected = {setup: (int(agree), int(count)) for setup, agree, count in told}
    found = compare(read_rows(ours), read_rows(published)).by_setup()
    assert {setup: counts[:2] for setup, counts in found.items()} == expected
    assert any(agree < count for agree, count in expected.values())


@needs_reference
@pytest.mark.parametrize("name", ["diagonal_overlap.csv", "relu_overlap.csv"])
def test_published_runs_agree_with_themselves(name: str, tmp_path: Path) -> None:
    path = Path(str(REFERENCE)) / name
    ours = plain_csv(
        tmp_path / "ours.csv", [{k: v for k, v in r.items() if k in KEPT} for r in spelled(path)]
    )
    assert all(
        agree == have == count
        for agree, have, count in compare(read_rows(ours), read_rows(path)).by_setup().values()
    )


KEPT = ("setup", "seed", "overlap", "correlation", "n_main", "loss_best")


def spelled(path: Path) -> list[dict[str, Any]]:
    """Read rows and write their correlations as files have them."""
    rows = [{k: v for k, v in r.items() if v is not None} for r in read_rows(path)]
    return [{k: "|".join(map(str, v)) if isinstance(v, tuple) else v for k, v in r.items()} for r in rows]
