"""The page of ``lit-aux report``: what is on it, with the numbers of ``lit-aux table``; names are names."""

import csv
import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from page_helpers import MARKUP, Page, layers, row, rows, table
from trajectories.trajectory_helpers import small_study

import lit_aux.pages.page as page_module
from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.pages import write_report
from lit_aux.runs.table import COLUMNS


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[list[str]]]:
    """Return the cells of every table that ``lit-aux table`` prints as Markdown."""
    assert main(["table", *words, "--format", "markdown"]) == 0
    blocks = re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.MULTILINE)
    lines = [[re.split(r" (?<!\\)\| ", f" {line[1:-1]} ") for line in block.splitlines()] for block in blocks]
    return [
        [
            [re.sub(r"\\(.)", r"\1", field).strip() for field in line]
            for number, line in enumerate(block)
            if number != 1
        ]
        for block in lines
    ]


@pytest.mark.parametrize("source", ["own", "docs/results/digits-finetuning", "docs/results/relu-correlation"])
def test_its_numbers_are_those_of_the_printed_table(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(__file__).parents[2] / source
    if source == "own":
        folder = table(
            tmp_path / "own" / "results.csv", [*rows(), row("STL", 9, error="out of memory", accuracy=None)]
        ).parent
    page = Page(write_report(folder, tmp_path / "page.html"))
    expected = printed(capsys, str(folder))
    assert len(expected) > 1
    shown = [lines for title, lines in page.tables.items() if "Experiments" not in title]
    for lines in expected:
        assert lines in shown


def test_experiments_about_different_columns_have_tables_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = table(tmp_path / "images" / "results.csv", rows())
    losses = [
        {**one, "run": f"a{one['run']}", "experiment": "diagonal-overlap", "overlap": 10} for one in rows()
    ]
    losses = [{**one, "loss_best": one.pop("accuracy")} for one in losses]
    students = table(tmp_path / "students" / "results.csv", losses)
    page = Page(write_report([images, students], tmp_path / "page.html"))
    for one in (images, students):
        for lines in printed(capsys, str(one)):
            assert lines in page.tables.values() or lines in _all_tables(page)


def _all_tables(page: Page) -> list[list[list[str]]]:
    return list(page.tables.values())


def test_a_reader_finds_the_way(tmp_path: Path) -> None:
    page = Page(write_report(table(tmp_path / "results.csv", rows()).parent))
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.all("html")[0]["lang"] == "en"
    names = [tag for tag, _ in page.elements]
    for landmark in ("header", "nav", "main", "footer"):
        assert names.count(landmark) == 1
    assert page.links["Skip to the content"] == "#main"
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert len(ids) == len({*ids}), "no name is there twice, also of those within pictures"
    pointed = re.findall(r'(?:href|aria-labelledby)="#?([\w-]+)"', page.source) + re.findall(
        r"url\(#([^)]+)\)", page.source
    )
    assert {name for name in pointed if name not in ids} == set()
    assert names.count("caption") == names.count("table") == names.count("thead")
    assert all(given.get("scope") for tag, given in page.elements if tag == "th")
    pictures = page.all("svg")
    assert len(pictures) >= 1
    assert all(given["role"] == "img" for given in pictures)
    assert sum(tag == "title" for tag in names) == 1 + len(pictures)
    assert ">STL</text>" in page.source or ">MTL</text>" in page.source, "text is text"


def test_it_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = Page(write_report(table(tmp_path / "results.csv", rows())))
    policy = next(
        given["content"] for given in page.all("meta") if given.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    for _, given in page.elements:
        for name in ("src", "href"):
            assert not re.match(r"(?:\w+:)?//|http|javascript:", given.get(name, "")), given
    assert "@import" not in page.source
    assert [given for given in page.all("meta") if given.get("http-equiv") == "refresh"] == []
    assert page.all("script") == [{}]


def test_runs_have_links_where_their_folders_are(tmp_path: Path) -> None:
    known, gone, *_ = own = rows()
    path = table(tmp_path / "sweep 1" / "results.csv", own)
    (path.parent / "runs" / known["run"]).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    beside = Page(write_report(path.parent))
    assert beside.links[known["run"]] == f"runs/{known['run']}/"
    assert gone["run"] not in beside.links
    assert beside.classes[gone["run"]] == "gone"
    other = Page(write_report(path.parent, tmp_path / "elsewhere" / "page.html"))
    assert other.links[known["run"]] == f"../sweep%201/runs/{known['run']}/"


def test_names_are_names(tmp_path: Path) -> None:
    odd = [
        row(f"STL{MARKUP}", 0, experiment=f"digits{MARKUP}$x", solver=MARKUP),
        row(f"MTL{MARKUP}", 0, experiment=f"digits{MARKUP}$x", solver=f'"{MARKUP}'),
        row("STL", 1, error=f"ValueError: {MARKUP}\u202e\x1b[31m", accuracy=None, converged=False),
        row("PT+FT", 2) | {"run": f"javascript:alert(1){MARKUP}"},
        row("PT+FT", 3) | {"run": "../../etc"},
    ]
    measures = [
        {
            "run": odd[0]["run"],
            "phase": f"phase{MARKUP}",
            "layer": f"layer{MARKUP}",
            "measure": name,
            "value": 1.0,
        }
        for name in ("pr_before", "pr_after", "ensd", "pr_ratio", "ensd_ratio")
    ]
    measures += [
        {"run": one["run"], "measure": f"model.option{MARKUP}", "value": f"{number}{MARKUP}"}
        for number, one in enumerate(odd[:2])
    ]
    folder = tmp_path / "a<img src=x onerror=alert(1)>'\""
    table(folder / "results.csv", odd, measures)
    page = Page(write_report(folder))
    assert "<script>alert" not in page.source
    assert "<img src=x" not in page.source
    assert "\x1b" not in page.source
    assert page.all("script") == [{}]
    assert [given for _, given in page.elements if any(name.startswith("on") for name in given)] == []
    assert [href for href in page.links.values() if "javascript" in href or "etc" in href] == []
    assert page.text.count(MARKUP) > 6
    for text in (f"layer{MARKUP}", f"model.option{MARKUP}", f"ValueError: {MARKUP}"):
        assert text in page.text


def test_what_is_odd_is_told_of(tmp_path: Path) -> None:
    empty = tmp_path / "empty" / "results.csv"
    empty.parent.mkdir()
    empty.write_text(",".join(COLUMNS) + "\n")
    assert "no rows yet" in Page(write_report(empty)).text
    failed = [row("STL", seed, accuracy=None, converged=False, error="no space is left") for seed in range(2)]
    page = Page(write_report(table(tmp_path / "failed" / "results.csv", failed)))
    assert "none of 2 rows has a loss or an accuracy (2 runs failed)" in page.text
    assert [line[-1] for line in page.table("2 failed")] == ["why", "no space is left", "no space is left"]
    page = Page(write_report(table(tmp_path / "one" / "results.csv", [row("STL", 0)])))
    assert page.table("accuracy")[1] == ["STL", "0.516", "1", "1/1"]
    published = tmp_path / "published.csv"
    published.write_text("setup,n_main,accuracy,accuracy_se,seeds\nSTL,16,0.5,0.1,5\nMTL,16,0.7,0.1,5\n")
    page = Page(write_report(published, tmp_path / "page.html"))
    assert ["MTL", "0.7 ± 0.1", "5"] in page.table("accuracy: mean")


def test_very_many_rows_are_their_means_and_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_aux.pages.runs.MOST_LINES", 10)
    monkeypatch.setattr("lit_aux.pages.runs.NEWEST", 4)
    own = rows()
    page = Page(write_report(table(tmp_path / "results.csv", own)))
    assert [line[0] for line in page.table("Each run")[1:]] == [one["run"] for one in own[-4:]]
    assert "the 4 newest of 18 rows" in page.text
    assert len(page.table("accuracy: mean ±")) == 4  # a line for each setup, as before


@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number in range(100_000):
            cell = {
                "setup": ("STL", "MTL")[number % 2],
                "n_main": 16,
                "seed": number // 2,
                "overlap": 10,
                "k_main": 40,
            }
            known = {"run": f"{number:012x}", "experiment": "diagonal-overlap", "converged": "true"}
            writer.writerow({**known, **cell, "loss_best": 0.1 + number % 7})
    page = Page(write_report(tmp_path))
    assert "the 500 newest of 100,000 rows" in page.text
    assert len(page.source) < 5e6


def test_layers_have_the_verdicts_of_fits_else_those_of_the_numbers(tmp_path: Path) -> None:
    one, other, single = row("PT+FT", 0, rescale=0.5), row("PT+FT", 1, rescale=0.5), row("STL", 0)
    measures = [*layers(one["run"]), *layers(other["run"]), *layers(single["run"], ("train",))]
    path = table(tmp_path / "results.csv", [one, other, single], measures)
    home = path.parent / "runs" / other["run"] / "version_0"
    home.mkdir(parents=True)
    known = {"phase": "finetune", "layer": "net.backbone.layer1", "verdict": "lazy", "note": ""}
    (home / "summary.json").write_text(json.dumps({"phases": [], "layers": [known]}))
    lines = Page(write_report(path.parent)).table("What runs did")
    columns = lines[0]
    found = {(line[0], line[columns.index("layer")]): line[columns.index("verdict")] for line in lines[1:]}
    assert found == {
        (one["run"], "layer1"): "nested",
        (one["run"], "readout"): "(lazy)",
        (other["run"], "layer1"): "lazy",  # by thresholds of its own
        (other["run"], "readout"): "(lazy)",
        (single["run"], "layer1"): "",  # which began, for all that is known, with random weights
        (single["run"], "readout"): "",
    }
    line = dict(zip(columns, lines[1], strict=True))
    assert [line[name] for name in ("PR before", "PR after", "ENSD", "PR ratio")] == [
        "10.00",
        "2.00",
        "1.90",
        "0.20",
    ]


def test_a_fit_is_shown_with_its_phases_and_options(tmp_path: Path) -> None:
    home = tmp_path / "runs" / "version_3"
    table(home / "results.csv", [row("PT+FT", 0, rescale=0.5)])
    phase = {"name": "finetune", "tasks": ["main"], "reason": "done", "epochs": 3, "steps": 9, "seconds": 1.5}
    metrics = {"main/test_accuracy": 0.75, "main/test_loss": 0.5, "main/train_loss": 0.25}
    (home / "summary.json").write_text(json.dumps({"phases": [{**phase, "metrics": metrics}], "layers": []}))
    (home / "config.yaml").write_text(
        "# lightning.pytorch==2.6.4\ntrainer: {max_epochs: 3}\ndata: {n_main: 16}\n"
    )
    (home / "summary.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (home / "students.png").write_text("no picture")
    page = Page(write_report(home))
    assert page.headings[0] == (1, "runs/version_3")
    (line,) = page.table("How each phase")[1:]
    assert line == [
        "runs/version_3",
        "finetune",
        "main",
        "done",
        "3",
        "9",
        "1.5",
        "test accuracy 0.75",
        "0.5",
        "0.25",
    ]
    assert ["trainer.max_epochs", "3"] in page.table("Options that are the same")
    assert "lightning.pytorch 2.6.4" in page.text
    assert len([given for given in page.all("img") if given["alt"]]) == 1


def test_options_that_differ_are_told_apart(tmp_path: Path) -> None:
    own = [row("STL", seed) for seed in range(3)]
    path = table(tmp_path / "results.csv", own)
    for number, one in enumerate(own):
        home = tmp_path / "runs" / one["run"]
        home.mkdir(parents=True)
        lr = 0.1 if number else 0.2
        (home / "config.yaml").write_text(
            f"model: {{class_path: a.B, init_args: {{lr: {lr}}}}}\nseed: {number}\n"
        )
        (home / "output.txt").write_text("x.py:3: UserWarning: beware\nfine\n")
    page = Page(write_report(path))
    assert ["model.lr", "0.1 (2), 0.2 (1)", "3"] in page.table("Options that differ")
    assert ["model", "a.B"] in page.table("Options that are the same")
    assert "UserWarning: beware (3 runs)" in page.text


def test_trajectories_are_compared_as_by_their_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study(tmp_path / "study", {"a": 0.1, "b": -0.1}, factors={"sharpness": (1.0, 2.0)})
    page = Page(write_report(study))
    assert main(["trajectories", str(study)]) == 0
    said = capsys.readouterr().out
    transfer = page.table("Transfer")
    assert [line[0] for line in transfer[1:]] == ["a", "b"]
    for line in transfer[1:]:
        assert re.search(r"\s+".join(map(re.escape, line)), said)
    assert len(page.all("svg")) == 3
    alone = Page(write_report(study / "stl-a-0", tmp_path / "alone.html"))
    assert "trajectories are not compared" in alone.text


def test_regimes_are_shown_as_they_were_found(tmp_path: Path) -> None:
    layer = {"phase": "finetune", "layer": "layer4", "pr_before": 9.0, "pr_after": 2.0, "ensd": 1.8}
    layer |= {"pr_ratio": 2 / 9, "ensd_ratio": 0.9, "verdict": "nested", "note": ""}
    one: dict[str, Any] = {"factor": 0.5, "fits": 1, "layers": {"layer4": layer}, "val_accuracy": 0.8}
    said = {"layer": "layer4", "nested": [0.5], "borderline": [], "best": 0.5, "best_nested": 0.5}
    folder = tmp_path / "regime"
    folder.mkdir()
    gone = {**one, "factor": 1.0, "layers": {}}
    (folder / "regime.json").write_text(json.dumps({"conclusion": said, "factors": [gone, one]}))
    page = Page(write_report(folder))
    lines = page.table("layer4 at each rescale factor")
    assert lines[1:] == [
        ["1", "1", "0.800", *[""] * 5, "diverged"],
        ["0.5", "1", "0.800", "9.00", "2.00", "1.80", "0.22", "0.90", "nested"],
    ]
    (folder / "regime.json").write_text('{"cells": 3}')
    assert "is no regime.json" in Page(write_report(folder)).text


def test_files_that_are_broken_cost_no_page(tmp_path: Path) -> None:
    table(tmp_path / "results.csv", rows())
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "trajectory.csv").write_text("a,b\n")
    assert "accuracy: mean" in Page(write_report(tmp_path)).text


def test_a_picture_that_is_too_large_is_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_aux.pages.pictures.MOST_BYTES", 1000)
    page = Page(write_report(table(tmp_path / "results.csv", rows())))
    assert page.all("svg") == []
    assert [given["src"][:22] for given in page.all("img")] == ["data:image/png;base64,"]
    monkeypatch.setattr(page_module, "MOST_TOGETHER", 10)
    page = Page(write_report(tmp_path / "results.csv"))
    assert page.all("img") == []
    assert "too large for a mail" in page.text


@pytest.mark.parametrize("given", ["gone", "nothing", "", None])
def test_what_is_not_there_is_said(given: str | None, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigurationError, match=r"^RUN"):
        write_report([] if given is None else given)
    assert not Path("report.html").exists()


def test_what_others_wrote_may_be_anything(tmp_path: Path) -> None:
    own = row("PT+FT", 0, rescale=0.5)
    folder = tmp_path / os.fsdecode(b"caf\xe9")  # no UTF-8
    table(folder / "results.csv", [own], layers(own["run"]))
    bomb = "a0: &a0 {x: {}}\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 20)}]\n" for i in range(1, 12)
    )
    (folder / "config.yaml").write_text(bomb)
    phase = {"name": ["x"], "tasks": 3, "reason": None, "epochs": 10**400, "steps": "y", "metrics": [1]}
    odd: list[Any] = [{"phase": ["finetune"], "layer": {}, "verdict": 3}, 7, {"pr_before": 10**400}]
    (folder / "summary.json").write_text(json.dumps({"phases": [phase, 7], "layers": odd}))
    (folder / "regime.json").write_text(
        '{"conclusion": {"layer": [], "nested": 0}, "factors": [{"layers": {}}]}'
    )
    page = Page(write_report(folder, tmp_path / "page.html"))
    assert page.table("How each phase")[1][1] == "['x']"
    assert "is no regime.json" in page.text
