"""Text that a spreadsheet would carry out, in every CSV file that is written, and read back as it was."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from lit_aux.experiments import ResultsTable
from lit_aux.results.sheet import Sheet
from lit_aux.runs.reading import read_measures, read_rows
from lit_aux.spreadsheets import meant, shown

FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''-x",
    "\uff1d1+1",
    '=HYPERLINK("http://x","y")',
    "-1|=1",
    "-",
]
PLAIN = ["", "x", "'x", "a=b", "x-1", " =1", "it's", "-", "1|2"]
NUMBERS = ["-1", "+2.5", "-1e-05", "-.5", "-inf", "+nan", "-0.5|0.25", "-1|-1", "-3."]


def runs(field: str) -> bool:
    """Whether a spreadsheet takes a field for a formula."""
    try:
        [float(part) for part in field.strip("-").split("|")]
    except ValueError:
        return field[:1] in ("=", "+", "-", "@", "\t", "\r", "\uff1d") and field != "-"
    return False


@pytest.mark.parametrize("text", FORMULAS + PLAIN + NUMBERS)
def test_text_comes_back(text: str) -> None:
    assert meant(shown(text)) == text
    assert not runs(shown(text))
    assert shown(shown(text)) == shown(text) or meant(shown(shown(text))) == shown(text)


@pytest.mark.parametrize("text", PLAIN + NUMBERS)
def test_what_is_harmless_stays(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("value", [-1, -0.5, None, True, -1e300])
def test_what_is_no_text_stays(value: Any) -> None:
    assert shown(value) is value


def fields(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


ONE_LINE = [text for text in FORMULAS if "\r" not in text]


@pytest.mark.parametrize("text", ONE_LINE)
def test_results_and_measures(text: str) -> None:
    row = {"run": "a", "experiment": text, "setup": "STL", "seed": 0, "error": text, "loss_final": -0.5}
    measure = {"run": "a", "phase": text, "layer": text, "measure": text, "value": -1.5}
    worded = {"run": "a", "phase": "p", "measure": "option", "value": text}
    with ResultsTable(Path("results.csv")) as table:
        table.append([{**row, "correlation": (-0.5, 0.25)}], [measure, worded])
    for name in ("results.csv", "measures.csv"):
        assert not any(runs(field) for line in fields(Path(name)) for field in line)
    with ResultsTable(Path("results.csv")) as table:  # our own readers: of the writer,
        (again,) = table.rows()
        first, second = table.measures()
    assert (again["experiment"], again["error"], again["loss_final"]) == (text, text, "-0.5")
    assert again["correlation"] == "-0.5|0.25"
    assert (first["phase"], first["layer"], first["measure"], first["value"]) == (text, text, text, "-1.5")
    assert second["value"] == text
    (typed,) = read_rows("results.csv")  # and of tables and figures
    assert (typed["experiment"], typed["error"], typed["loss_final"]) == (text, text, -0.5)
    assert typed["correlation"] == (-0.5, 0.25)
    values = {one["measure"]: one["value"] for one in read_measures("results.csv")}
    assert values == {text: -1.5, "option": text}
    before = [path.read_bytes() for path in (Path("results.csv"), Path("measures.csv"))]
    with ResultsTable(Path("results.csv")) as table:  # rewritten as a whole, nothing is quoted twice
        table.append([{**row, "run": "b"}], [])
        table.remove({"b"})
    assert [path.read_bytes() for path in (Path("results.csv"), Path("measures.csv"))] == before


def test_printed_tables() -> None:
    sheet = Sheet("title", ["=name", "mean"], labels=1, rows=[[text, "-0.25"] for text in FORMULAS])
    lines = list(csv.reader(io.StringIO(sheet.render("csv"), newline="")))
    assert not any(runs(field) for line in lines for field in line)
    assert [[meant(field) for field in line] for line in lines] == [sheet.columns, *sheet.rows]
    assert {line[1] for line in lines[1:]} == {"-0.25"}


def test_printed_text_controls_no_terminal() -> None:
    odd = "\x1b]0;title\x07\x1b[2J\x9b31m"
    for kind in ("text", "markdown"):
        text = Sheet(odd, ["a", odd], labels=1, rows=[[odd, "1"]], notes=[odd]).render(kind)  # type: ignore[arg-type]
        assert not {"\x1b", "\x07", "\x9b"} & {*text}


def test_markdown_has_no_markup_of_others() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:1) `a` | b\\| c *d* _e_\nf"
    text = Sheet("t", ["a", "b"], labels=1, rows=[[hostile, "1"]]).render("markdown")
    (line,) = [line for line in text.splitlines() if "script" in line]
    assert line == (
        r"| \<script\>alert(1)\</script\> \[x\](javascript:1) \`a\` \| b\\\| c \*d\* \_e\_ f | 1 |"
    )


def test_trajectories_come_back() -> None:
    from lit_aux.callbacks.trajectory_log import COLUMNS
    from lit_aux.trajectories.reading import _read

    row = ["=method", 0, "-a|+b", "@phase", 1, 2, "-a", "=measure", "-0.5"]
    with Path("trajectory.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, list(map(shown, row))])
    assert not any(runs(field) for line in fields(Path("trajectory.csv")) for field in line)
    (method, seed, tasks), rows = _read(Path("trajectory.csv"))
    assert (method, seed, tasks) == ("=method", 0, ("-a", "+b"))
    assert rows == [("@phase", "-a", "=measure", 1, 2, -0.5)]


def test_measurements_of_callbacks(tmp_path: Path) -> None:
    """``wise_ft.csv``, ``trajectory.csv`` and ``regime.csv`` are written with names that others chose."""
    from lit_aux.callbacks import LayerDimensionality
    from lit_aux.regimes.sweep import FactorFit
    from lit_aux.regimes.sweep_report import as_csv
    from lit_aux.reporting import DIMENSIONS

    numbers: dict[str, float] = dict.fromkeys(DIMENSIONS, -1.5)
    layer = LayerDimensionality("p", "=layer", verdict="lazy", note="", **numbers)
    text = as_csv(
        [FactorFit(factor=1.0, seed=0, layers=(layer,), val_accuracy=0.5, val_loss=-2.0, seconds=1.0)]
    )
    _, line = csv.reader(io.StringIO(text))
    assert (line[2], line[3], line[-1]) == ("'=layer", "-1.5", "-2.0")
