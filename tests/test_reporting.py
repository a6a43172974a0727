"""The report says what was measured, in a table, a picture and a file."""

import json
import math
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from toys import ToyData, toy_module, toy_trainer

from lit_aux import report
from lit_aux.callbacks import LayerDimensionality, RepresentationDimensionality
from lit_aux.figures import draw_summary, save
from lit_aux.phases import PhaseResult
from lit_aux.reporting import layer_table, phase_table, scores
from lit_aux.results.sheet import Sheet
from lit_aux.run_folder import RunFolder


def printed(table: Sheet) -> str:
    return table.render("text", 120)


def row(layer: str, before: float, after: float, ensd: float) -> LayerDimensionality:
    return LayerDimensionality.compare(
        "finetune", layer, before, after, ensd, nested_below=0.8, replaced_below=0.5
    )


def test_tables_hold_what_was_measured() -> None:
    phases = [
        PhaseResult("pretrain", ["aux", "other"], "max_epochs: 3 reached", reused=True),
        PhaseResult("finetune", ["main"], "training loss 0.009 < 0.01 after 7 epochs"),
    ]
    phases[0].metrics = {"aux/test_accuracy": 0.25, "aux/test_loss": 1.5, "other/val_accuracy": 0.125}
    text = printed(phase_table(phases))
    for part in ("aux", "0.250", "1.500", "0.125", "trained before; max_epochs: 3", "0.009 < 0.01"):
        assert part in text
    text = printed(layer_table([row("layer4", 6.8, 2.05, 2.62), row("layer1", math.nan, 1.0, 1.0)]))
    for part in ("layer4", "6.80", "2.05", "2.62", "0.30", "1.28", "nested", "undefined", "nan"):
        assert part in text


def test_tasks_show_the_metrics_that_they_have() -> None:
    phases = [
        PhaseResult("pretrain", ["tags", "map"], "max_epochs: 3 reached"),
        PhaseResult("finetune", ["main"], "max_epochs: 3 reached"),
    ]
    phases[0].metrics = {
        "tags/test_loss": 0.5,
        "tags/test_f1": 0.625,
        "map/test_loss": 1.5,
        "map/test_iou": 0.375,
    }
    phases[1].metrics = {"main/val_r2": -3.0, "main/val_mae": 2.25, "main/val_own": 9.5, "main/val_loss": 7.0}
    lines = printed(phase_table(phases)).splitlines()
    header = next(line for line in lines if "phase" in line and "task" in line)
    assert header.split()[2:8] == ["f1", "iou", "r2", "mae", "own", "loss"]
    (tags,), (main,) = ([line for line in lines if f" {task} " in line] for task in ("tags", "main"))
    assert tags.split()[:4] == ["pretrain", "tags", "0.625", "0.500"]
    assert [word for word in main.split() if word[0] in "-0123456789"][:4] == [
        "-3.000",
        "2.250",
        "9.500",
        "7.000",
    ]
    found = scores(phases)
    assert found == {
        "pretrain tags": ("f1", 0.625),
        "pretrain map": ("iou", 0.375),
        "finetune main": ("r2", -3.0),
    }
    (axes,) = draw_summary(found, []).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "pretrain tags (f1)",
        "pretrain map (iou)",
        "finetune main (r2)",
    ]
    assert [bar.get_width() for bar in axes.patches] == [0.625, 0.375, 0]
    assert [text.get_text() for text in axes.texts] == ["0.625", "0.375", "\N{MINUS SIGN}3.000"]
    assert axes.get_xlabel() == "score"


class Reader(HTMLParser):
    """Counts elements and gathers the text of cells; complains of what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] += 1
        self.sources += [value or "" for name, value in attrs if name == "src"]
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def check_html(folder: RunFolder) -> None:
    """See that a notebook shows the tables and the picture of a run, and nothing for paths in it."""
    page = Reader(str(folder._repr_html_()))
    assert page.found["table"] == 2
    assert page.found["img"] == 1
    assert {"pretrain", "finetune", "PR before", "0", "readout"} <= {*page.cells}
    picture = b64decode(page.sources[0].removeprefix("data:image/png;base64,"))
    assert picture == (folder / "summary.png").read_bytes()
    beside: Any = folder / "summary.json"  # a plain path, or (Python 3.11) one of the kind that shows nothing
    assert type(beside) is type(Path()) or beside._repr_html_() is None


def test_names_with_markup_are_text_in_a_notebook(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder._repr_html_() is None
    phases = [PhaseResult("<script>alert(1)</script>", ["a & b"], "[bold]why[/bold]")]
    folder.tables, folder.files = [phase_table(phases)], {"<b>": "<i>.csv"}
    page = Reader(str(folder._repr_html_()))
    assert not {"script", "b", "i"} & {*page.found}
    assert "<script>alert(1)</script>" in page.cells


def test_in_a_notebook_a_report_prints_nothing_and_shows_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    trainer = toy_trainer(tmp_path)
    trainer.fit(toy_module(), datamodule=ToyData())
    capsys.readouterr()
    folder = report(trainer)
    assert capsys.readouterr().out == ""
    assert Reader(str(folder._repr_html_())).found["table"] == 1


def test_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = ["net.backbone.0", "net.readout"]
    measure = RepresentationDimensionality(layers, num_samples=20, picture=False)
    trainer = toy_trainer(tmp_path, callbacks=[measure])
    trainer.fit(toy_module(), datamodule=ToyData())
    folder = report(trainer)
    assert folder == Path(str(trainer.log_dir))
    check_html(folder)
    content = json.loads((folder / "summary.json").read_text())
    assert [phase["name"] for phase in content["phases"]] == ["pretrain", "finetune"]
    assert content["phases"][1]["metrics"] == trainer.phase_results[1].metrics
    assert [(r["phase"], r["layer"]) for r in content["layers"]] == [
        (phase, layer) for phase in ("pretrain", "finetune") for layer in layers
    ]
    assert content["layers"][2]["pr_before"] == measure.results[2].pr_before
    image = matplotlib.image.imread(folder / "summary.png")
    assert image.std() > 0.05  # something is drawn
    text = capsys.readouterr().out
    for result in trainer.phase_results:
        assert str(result.checkpoint) in text
        assert f"{result.metrics[f'{result.tasks[0]}/test_accuracy']:.3f}" in text


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, logger=False)
    trainer.fit(toy_module(), datamodule=ToyData())
    trainer.phase_results[0].metrics["aux/odd"] = math.inf
    report(trainer)
    content = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert content["phases"][0]["metrics"]["aux/odd"] is None


def test_picture_without_layers_and_with_values_that_are_not_finite(tmp_path: Path) -> None:
    phases = [PhaseResult("train", ["main"], metrics={"main/test_accuracy": 0.5})]
    for name, layers in {"plain": [], "odd": [row("a", math.nan, 1.0, 1.0), row("b", 2.0, 1.0, 1.0)]}.items():
        figure = draw_summary(scores(phases), layers)
        assert [axes.get_title("left") for axes in figure.axes] == ["How each phase ended", "finetune"][
            : 1 + bool(layers)
        ]
        assert matplotlib.image.imread(save(figure, tmp_path / f"{name}.png")).std() > 0.02
