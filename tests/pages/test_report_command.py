"""``lit-aux report``: its options, what it refuses, and pages that are kept up to date while runs go on."""

import re
from pathlib import Path
from time import monotonic, sleep

import pytest
from page_helpers import Page, row, rows, table
from sweeps.sweep_helpers import toy, write_sweep

from lit_aux.cli import main
from lit_aux.cli import report as command
from lit_aux.cli.sweep import run as sweep
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.pages import LivePage
from lit_aux.pages.live import SECONDS


def refreshes(path: Path) -> list[str]:
    """Return after how many seconds a browser reads a page again; nothing for never."""
    return [given["content"] for given in Page(path).all("meta") if given.get("http-equiv") == "refresh"]


def test_the_page_lies_beside_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("a/results.csv"), rows())
    table(Path("b/results.csv"), [row("LP", 0)])
    for words, out in (
        (["a"], "a/report.html"),
        (["b/results.csv"], "b/report.html"),
        (["a", "b"], "report.html"),
    ):
        assert main(["report", *words]) == 0
        assert capsys.readouterr().out == f"report: {out}\n"
        assert Path(out).is_file()
    assert main(["report", "a", "--out", "new/folder/page.html"]) == 0
    assert Page(Path("new/folder/page.html")).headings[0] == (1, "a")
    assert [path.name for path in Path("a").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RUN: nothing is given"),
        (["gone"], "RUN gone: there is no such file or folder"),
        (["empty"], "RUN empty: there is nothing to report on"),
        ([""], "RUN '': names no file or folder"),
        (["t", "--out="], "--out"),
        (["t", "--out=empty"], "--out empty: is a folder"),
        (["t", "--duplicates=some"], "--duplicates: 'some' is unknown"),
        (["t", "--opne"], "did you mean '--open'"),
        (["torn"], "RUN torn/results.csv: line 2"),
        (["other.csv"], "RUN other.csv: is no results table"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("t", "empty", "torn"):
        Path(folder).mkdir()
    table(Path("t/results.csv"), rows())
    Path("torn/results.csv").write_text("setup,n_main\nSTL\n")
    Path("other.csv").write_text("a,b\n1,2\n")
    assert main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(Path().rglob("*.html")) == []


def test_rows_of_one_run_that_differ_are_decided(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("a/results.csv"), [row("STL", 0)])
    table(Path("b/results.csv"), [row("STL", 0, accuracy=0.9)])
    assert main(["report", "a", "b"]) == 2
    assert "--duplicates" in capsys.readouterr().err
    assert main(["report", "a", "b", "--duplicates=last"]) == 0
    assert Page(Path("report.html")).table("accuracy")[1][1] == "0.9"


def test_it_is_opened_where_there_is_a_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(Path("a/results.csv"), rows())
    opened: list[Path] = []
    monkeypatch.setattr(command, "open_file", lambda page: opened.append(page) or len(opened) > 1)
    assert main(["report", "a"]) == 0
    assert opened == []
    assert main(["report", "a", "--open"]) == 0
    assert "there is no display here" in capsys.readouterr().out
    assert main(["report", "a", "--open"]) == 0
    assert capsys.readouterr().out == "report: a/report.html\n"
    assert opened == [Path("a/report.html")] * 2


def test_a_page_follows_its_tables_until_it_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    path = table(Path("a/results.csv"), [row("STL", 0)])
    seen: list[tuple[list[str], int]] = []

    def wait(seconds: float) -> None:
        assert seconds == SECONDS
        page = Path("a/report.html")
        seen.append((refreshes(page), len(Page(page).table("Each run"))))
        if len(seen) == 4:
            path.write_text(whole)
            raise KeyboardInterrupt
        if len(seen) == 1:
            with ResultsTable(path) as opened:
                opened.append([row("STL", 1)])
        if len(seen) == 2:
            path.write_text(f"{whole}torn\n")

    whole = path.read_text()
    assert command.run(["a", "--live"], wait) == 0
    assert seen == [([str(SECONDS)], 2), *[([str(SECONDS)], 3)] * 3]
    assert capsys.readouterr().out.count("note: the report is as it was: RUN a/results.csv: line 3") == 1
    assert refreshes(Path("a/report.html")) == []


# While runs go on


def shown_rows(page: Path) -> int:
    """Return how many runs a page lists; 0 while there is none, or no row."""
    lines = Page(page).tables.get("Each run", []) if page.is_file() else []
    return max(0, len(lines) - 1)


def test_a_live_page_has_every_row_in_a_while_and_is_written_a_last_time() -> None:
    page = LivePage(Path("a/results.csv"), seconds=0.01)
    with ResultsTable("a/results.csv", page) as opened:
        for seed in range(4):
            opened.append([row("STL", seed)])
        until = monotonic() + 60
        while shown_rows(page.path) < 4 and monotonic() < until:
            sleep(0.05)
        assert shown_rows(page.path) == 4
        assert refreshes(page.path) == [str(SECONDS)]
        opened.append([row("STL", 4)])
    page.close()
    assert shown_rows(page.path) == 5
    assert refreshes(page.path) == []


def test_rows_that_come_one_after_the_other_cost_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int | None] = []

    def write(*_: object, refresh: int | None, **__: object) -> None:
        written.append(refresh)

    monkeypatch.setattr("lit_aux.pages.live.write_report", write)
    path = table(Path("a/results.csv"), [row("STL", 0)])
    page = LivePage(path, seconds=60)
    with ResultsTable(path, page) as opened:
        for seed in range(1, 9):
            opened.append([row("STL", seed)])
    page.close()
    assert written[-1] is None
    assert len(written) <= 2


def test_a_page_that_fails_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no\nmore")

    monkeypatch.setattr("lit_aux.pages.live.write_report", broken)
    page = LivePage(Path("a/results.csv"), said.append)
    with ResultsTable("a/results.csv", page) as opened:
        opened.append([row("STL", 0)])
    page.close()
    assert len(table_rows(Path("a/results.csv"))) == 1
    assert said == ["note: the report a/report.html cannot be written: no more"]


def table_rows(path: Path) -> list[dict[str, str]]:
    with ResultsTable(path) as opened:
        return opened.rows()


def test_a_file_in_its_place_is_refused_before_anything_runs() -> None:
    Path("a").mkdir()
    Path("a/report.html").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"--live a/report\.html: is there already"):
        LivePage(Path("a/results.csv"))


def test_a_sweep_names_the_command_or_keeps_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path / "small.yaml", {"data.n_main": [4, 8], "data.seed": 0})
    assert sweep([str(file), "--out=my runs"], toy) == 0
    assert "report: lit-aux report 'my runs' --open\n" in capsys.readouterr().out
    assert list(Path("my runs").glob("*.html")) == []
    assert sweep([str(file), "--out=other", "--live"], toy) == 0
    said = capsys.readouterr().out
    assert "report: other/report.html, brought up to date while runs go on\n" in said
    assert said.endswith("report: other/report.html\n")
    page = Page(Path("other/report.html"))
    assert refreshes(page_path := Path("other/report.html")) == []
    assert len(page.table("Each run")) == 3
    assert {href for href in page.links.values() if href.startswith("runs/")} == {
        f"runs/{folder.name}/" for folder in Path("other/runs").iterdir()
    }
    assert page_path.is_file()


@pytest.mark.parametrize("way", ["--collect", "--task=0", "--slurm=run.sh"])
def test_a_page_follows_runs_that_are_carried_out_here(way: str, tmp_path: Path) -> None:
    file = write_sweep(tmp_path / "small.yaml", {"data.n_main": [4, 8], "data.seed": 0})
    with pytest.raises(
        ConfigurationError, match=r"--live: does not go with --\w+; lit-aux report OUT --live"
    ):
        sweep([str(file), way, "--live"], toy)


def test_reproduce_names_the_command_or_keeps_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "diagonal-overlap", "--setups=STL", "--seeds=0", "--n-main=4", "--overlap=1"]
    words += ["--integrator=exact", "--out=grid/results.csv"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("report: lit-aux report grid --open\n")
    assert main([*words, "--live"]) == 0
    assert capsys.readouterr().out.endswith("report: grid/report.html\n")
    assert re.search(r"<h1[^>]*>grid</h1>", Path("grid/report.html").read_text())
