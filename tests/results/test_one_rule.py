"""One file, and all who take means of it: they say the same numbers."""

from math import isnan, log10
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import pytest
from table_helpers import failed, row, table

from lit_aux.cli import main
from lit_aux.experiments.reproduction import print_summary
from lit_aux.experiments.student_report import student_table
from lit_aux.figures.curves import curve
from lit_aux.figures.tables import load
from lit_aux.results import query, read_rows
from lit_aux.results.means import TIMES
from lit_aux.results.sheets import means, means_in_full
from lit_aux.runs.table import ResultsTable

SIZES = (8, 16, 32)


def of_students(several: bool) -> list[dict[str, Any]]:
    """Return rows of one setup: a loss of 0, one that is missing, a failed run, a size with one seed.

    Args:
        several: Whether seed 0 has three runs at n 8, two of them alike.
    """
    random = Random(1)
    rows = [row("STL", s, n, 10 ** random.uniform(-6, 0), overlap=0) for n in (8, 16) for s in range(4)]
    rows[1]["loss_best"] = 0.0
    rows[2]["loss_best"] = None
    rows += [failed("STL", 9, 16, "killed", overlap=0), row("STL", 0, 32, 0.25, overlap=0)]
    if several:
        rows += [rows[0] | {"run": f"again {i}", "loss_best": loss} for i, loss in enumerate((0.9, 0.9))]
    return [one | {"loss_final": one["loss_best"]} for one in rows]


def by_hand(rows: list[dict[str, Any]]) -> dict[int, tuple[float, float, int]]:
    """Return mean of log10, standard error and seeds by size; the runs of a seed are one value."""
    found = {}
    for n in SIZES:
        seeds: dict[int, list[float]] = {}
        for one in rows:
            if one["n_main"] == n and one["loss_best"] is not None:
                seeds.setdefault(one["seed"], []).append(log10(max(one["loss_best"], 1e-30)))
        values = [fmean(own) for own in seeds.values()]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        found[n] = fmean(values), error, len(values)
    return found


def shown(mean: float, error: float) -> str:
    return f"{10**mean:.4g}" if isnan(error) else f"{10**mean:.3g} {TIMES}{10**error:.2f}"


@pytest.mark.parametrize("several", [False, True], ids=["one run a seed", "several"])
def test_all_say_the_same_of_one_file(
    several: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = of_students(several)
    path = table(tmp_path / "results.csv", rows)
    wanted = by_hand(rows)
    texts = [shown(mean, error) for mean, error, _ in wanted.values()]

    look = query(read_rows(path))
    (line,) = means(look).rows
    assert line[1:4] == texts

    numbers = [[float(field or "nan") for field in one[3:6]] for one in means_in_full(look).rows]
    assert numbers == [pytest.approx(wanted[n], nan_ok=True) for n in SIZES]

    assert main(["table", str(path)]) == 0
    printed = capsys.readouterr().out
    with ResultsTable(path) as opened:
        print_summary(opened.rows(), "loss_best", path)  # what reproduce prints in the end
    summary = capsys.readouterr().out
    assert printed.startswith(summary.rstrip("\n"))
    assert all(text in summary for text in texts)

    fitted = [{**one, "evaluations": 100} for one in rows]
    assert [one[1] for one in student_table(fitted).rows] == texts  # what fit prints
    assert [one[3] for one in student_table(fitted).rows] == ["6/6" if several else "4/4", "4/4", "1/1"]

    if several:
        return  # figures say which runs they are, and draw nothing
    tables = load([path])
    drawn = curve(
        [r for r in tables.rows if r["loss_best"] is not None], "n_main", "loss_best", "STL", "geometric"
    )
    assert drawn.x == SIZES
    assert drawn.seeds == tuple(seeds for *_, seeds in wanted.values())
    for n, mean, low, high in zip(SIZES, drawn.mean, drawn.low, drawn.high, strict=True):
        log_mean, error, _ = wanted[n]
        ends = [10**log_mean, 10 ** (log_mean - 2 * error), 10 ** (log_mean + 2 * error)]
        assert [mean, low, high] == pytest.approx(ends, nan_ok=True)
