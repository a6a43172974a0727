"""What tables and rows show of themselves: in a terminal, in Markdown, in a browser, in a notebook."""

import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from table_helpers import failed, row, table

from lit_aux import results
from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.results.sheet import Sheet, show
from lit_aux.spreadsheets import Bold

HEAD = ["table", "caption", "thead"]
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Keeps the tags of a page and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a table with a failure, names with markup, and a setup of one seed."""
    rows = [row(setup, seed, 8, 0.1 + seed, overlap=3) for setup in ("STL", EVIL) for seed in range(3)]
    rows += [failed("STL", 7, 8, f"no {EVIL}", overlap=3), row("[red]MTL[/red]", 0, 8, 0.5, overlap=3)]
    return table(tmp_path / "results.csv", rows)


def test_a_sheet_as_html() -> None:
    sheet = Sheet("a & b", ["name", "n <8>"], [["x", Bold("1")], [EVIL, "2 \x1b[31m"]], notes=["<b>"])
    page = Page(sheet.to_html())
    assert [tag for tag, _ in page.tags] == (
        [*HEAD, "tr", "th", "th", "tbody", "tr", "th", "td", "strong", "tr", "th", "td", "p"]
    )
    assert [told["scope"] for tag, told in page.tags if tag == "th"] == ["col", "col", "row", "row"]
    said = [text for text in page.texts if text.strip()]
    assert said == ["a & b", "name", "n <8>", "x", "1", EVIL, "2 \N{REPLACEMENT CHARACTER}[31m", "<b>"]


def test_what_stands_out() -> None:
    sheet = Sheet("t", ["name", "n"], [["x", Bold("0.5")], ["y", "0.25"]])
    assert "\x1b[1m 0.5\x1b[0m" in sheet.render("text", styled=True)
    assert "\x1b" not in sheet.render("text")
    assert "| x | **0.5** |" in sheet.render("markdown")
    assert sheet.render("csv") == "name,n\nx,0.5\ny,0.25\n"


def test_markup_is_text_everywhere(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = results.table(results.read_rows(path))
    page = Page(made._repr_html_())
    assert {tag for tag, _ in page.tags} <= {*HEAD, "tbody", "tr", "th", "td", "p", "strong"}
    assert f"{EVIL}" in page.texts
    show(made)
    shown = capsys.readouterr().out
    assert EVIL in shown
    assert "[red]MTL[/red]" in shown
    assert main(["table", str(path), "--format", "markdown"]) == 0
    assert "<script" not in capsys.readouterr().out.replace("\\<script", "")


def test_rows_show_the_columns_in_which_they_differ(path: Path) -> None:
    rows = results.read_rows(path)
    page = Page(rows._repr_html_())
    assert page.texts[1] == "8 rows, 1 of runs that failed"
    heads = page.texts[page.texts.index("run") :]
    assert "setup" in heads
    assert "overlap" not in [
        text for text, (tag, _) in zip(page.texts, page.tags, strict=False) if tag == "th"
    ]
    assert any("overlap 3" in text for text in page.texts), "what all rows have in common is said once"
    assert not any(tag == "script" for tag, _ in page.tags)
    many = Page(type(rows)(rows * 30)._repr_html_())
    assert sum(tag == "tr" for tag, _ in many.tags) == 1 + 20
    assert "the first 20 are shown" in many.texts
    assert Page(type(rows)()._repr_html_()).texts[1] == "0 rows"


def test_measures_show_themselves(tmp_path: Path) -> None:
    rows = [row("STL", 0, 8, 0.5)]
    path = table(tmp_path / "results.csv", rows, [{"run": rows[0]["run"], "measure": "pr", "value": 2.5}])
    assert "2.5" in results.read_measures(path)._repr_html_()


def test_tables_of_rows_are_those_of_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = results.read_rows(path)
    assert main(["table", str(path)]) == 0
    assert capsys.readouterr().out.rstrip("\n") == str(results.table(rows)).rstrip("\n")
    (only,) = results.table(rows, where="setup=STL", value="loss_best", mean="arithmetic")
    assert only.rows == [["STL", "1.1 ± 0.58", "3", "3/3", "1"]]
    look = results.query(rows)
    titles = [sheet.title for sheet in results.table(rows)]
    assert titles[1:] == [results.pairs(look, "STL").title, results.who_wins(look).title]
    with pytest.raises(ConfigurationError, match="did you mean 'loss_best'"):
        results.table(rows, value="los_best")
    with pytest.raises(ConfigurationError, match="--baseline"):
        results.table(rows, baseline="SLT")


@pytest.mark.parametrize("width", [30, 60, 200])
def test_long_fields_are_broken_where_they_may_be(width: int) -> None:
    sheet = Sheet("t", ["phase", "why"], [["train", "word " * 30], ["x", "y" * 100]], wrap=True, left=["why"])
    lines = sheet.render("text", width).splitlines()
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("word") == 30
    assert "".join(lines).count("y") == 100 + 1  # and in the head


def test_100_000_rows_take_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [(setup, seed, n, k) for setup in ("STL", "MTL", "PT+FT", EVIL) for seed in range(10)
              for n in (16, 32, 64, 128, 256) for k in range(500)]  # fmt: skip
    lines = [f"r{i},e,{s},{seed},{n},{k},{(7 * i) % 101 + 1}" for i, (s, seed, n, k) in enumerate(places)]
    path = tmp_path / "big.csv"
    path.write_text("\n".join(["run,experiment,setup,seed,n_main,k_main,loss_best", *lines, ""]))
    began = time.process_time()
    assert main(["table", str(path), "--where", "k_main=3,n_main=16"]) == 0
    assert "cells won" in capsys.readouterr().out
    assert time.process_time() - began < 20, "some seconds on a free core"
