"""Which task a row is about: rows of different tasks are never averaged or compared."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from table_helpers import plain_csv, row, table
from toys import ToyData, toy_backbone, toy_trainer

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments.fit_rows import CLASSES, TASK, task_measures, write_rows
from lit_aux.figures.request import Request
from lit_aux.figures.results import laid_out
from lit_aux.figures.tables import load
from lit_aux.modules import MultiTaskModule
from lit_aux.phases import PhaseSettings
from lit_aux.results.reference import compare
from lit_aux.runs.reading import read_rows

ALONE = {"a": (0.75, 0.85), "b": (0.5, 0.6), "c": (1.0, 0.9)}
"""Accuracy of each task alone, by seed."""
TOGETHER = {"a": (0.25, 0.35), "b": (0.75, 0.65), "c": (0.125, 0.375)}


def image(setup: str, seed: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    plain = {"experiment": "digits-lenet", "n_main": 100, "loss_best": None, "accuracy": accuracy}
    return row(setup, seed, 100, None) | plain | more


def measured(run: str, name: str, value: Any, phase: str = "train", layer: str = "") -> dict[str, Any]:
    return {"run": run, "phase": phase, "layer": layer, "measure": name, "value": value}


def study(told: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of a sweep of single-task runs and of one run of all, whose row is of ``a``.

    Args:
        told: How the measures tell the task: by its ``name``, the sweep's ``option``, or ``metrics``.
    """
    rows, measures = [], []

    def add(setup: str, seed: int, tasks: list[str], accuracy: float) -> None:
        run = f"{setup}{'|'.join(tasks)}{seed}"
        rows.append(image(setup, seed, accuracy, run=run))
        if told == "name":
            measures.append(measured(run, TASK, 2.0, layer=tasks[0]))
        elif told == "option":
            option = str(tasks).replace("'", '"')
            measures.append(measured(run, "model.train_tasks", option, phase=""))
        for task in tasks:
            measures.append(measured(run, f"{task}/fisher_trace", 3.0))
            if told == "metrics" and task != tasks[0]:
                measures.append(measured(run, f"{task}/test_loss", 0.5))
            if task != tasks[0]:
                measures.append(measured(run, f"{task}/test_accuracy", TOGETHER[task][seed]))

    for seed in (0, 1):
        for task, accuracies in ALONE.items():
            add("STL", seed, [task], accuracies[seed])
        add("MTL", seed, [*ALONE], TOGETHER["a"][seed])
    return rows, measures


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def printed(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main(["table", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("told", ["name", "option", "metrics"])
def test_a_sweep_of_tasks(told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "results.csv", *study(told))
    means = {
        (r["task"], r["setup"]): float(r["mean"]) for r in records(printed(capsys, path, "--format", "csv"))
    }
    # not STL .767, the mean of three tasks, against MTL .3, that of one
    assert means == pytest.approx({("a", "MTL"): 0.3, **{(t, "STL"): sum(v) / 2 for t, v in ALONE.items()}})
    (pair,) = records(printed(capsys, path, "--format", "csv", "--pairs", "true"))
    assert (pair["task"], pair["setup"], pair["against"]) == ("a", "MTL", "STL")
    assert float(pair["difference"]) == pytest.approx(-0.5)
    text = printed(capsys, path)
    assert "rows of different tasks are not compared" in text
    won = text.partition("Who wins")[2]
    assert "cells won: too few seeds 1\n" in won  # two seeds decide nothing
    assert {line.split()[0] for line in won.splitlines() if line.startswith("  ")} == {"task", "a"}
    one = printed(capsys, path, "--where", "task=b")
    assert "0.55 ± 0.05" in one
    assert "different tasks" not in one


@pytest.mark.parametrize("told", ["name", "option", "metrics"])
def test_other_tasks_of_the_run_of_all(told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their accuracy is a measure of the run of all, and in the row's column of the runs of one."""
    path = table(tmp_path / "results.csv", *study(told))
    words = (path, "--value", "b/test_accuracy", "--format", "csv")
    means = {
        r["setup"]: (r["seeds"], float(r["mean"])) for r in records(printed(capsys, *words)) if r["mean"]
    }
    assert means == {"STL": ("2", pytest.approx(0.55)), "MTL": ("2", pytest.approx(0.7))}
    (pair,) = records(printed(capsys, *words, "--pairs", "true"))
    assert float(pair["difference"]) == pytest.approx(0.15)


def test_what_tells_nothing(tmp_path: Path) -> None:
    known, measures = [image("STL", 0, 0.5, run="k")], [measured("k", TASK, 2.0, layer="main")]
    old = [image("MTL", 0, 0.5, run="o")]
    path = table(tmp_path / "a.csv", known + old, measures)
    assert [r["task"] for r in read_rows(path)] == ["main", "main"]  # as all that is known
    measures = [measured("k", TASK, 2.0, layer="left")]
    path = table(tmp_path / "b.csv", known + old, measures)
    assert [r.get("task") for r in read_rows(path)] == ["left", None]
    students = table(tmp_path / "c.csv", [row("STL", 0, 8, 0.5)], [measured("STL/0/8", "l1", 1.0)])
    assert "task" not in read_rows(students)[0]


@pytest.mark.parametrize(
    ("measures", "task"),
    [
        ([("", "model.init_args.train_tasks", '["x", "main"]')], "main"),
        ([("", "model.train_tasks", "[x, y]")], "x"),
        ([("pretrain", "aux/test_loss", 1.0), ("finetune", "main/val_loss", 1.0)], "main"),
        ([("pretrain", "aux/val_loss", 1.0)], "aux"),
        ([("train", "x/val_loss", 1.0), ("train", "y/val_loss", 1.0)], None),  # it could be either
        ([("train", "x/val_loss", 1.0), ("train", "x|y/cosine", 1.0)], "x"),
    ],
)
def test_older_tables(measures: list[tuple[str, str, Any]], task: str | None, tmp_path: Path) -> None:
    lines = [measured("r", name, value, phase=phase) for phase, name, value in measures]
    (found,) = read_rows(table(tmp_path / "results.csv", [image("STL", 0, 0.5, run="r")], lines))
    assert found.get("task") == task


def test_measures_that_are_none(tmp_path: Path) -> None:
    path = table(tmp_path / "results.csv", [image("STL", 0, 0.5)])
    for content in (b"a,b\n1,2\n", b"\xff\xfe", b"run,phase,step,layer,measure,value\nr,train,1,main,task\n"):
        (tmp_path / "measures.csv").write_bytes(content)
        assert "task" not in read_rows(path)[0]


@pytest.mark.parametrize(
    ("classes", "tasks"),
    [
        ([(0, "0|1"), (0, "0|1")], ["main", "main"]),
        ([(0, "0|1"), (1, "4|7")], ["main", "main"]),  # drawn by the seed
        ([(0, "0|1"), (0, "4|7")], ["main [0|1]", "main [4|7]"]),
        (
            [(0, "0|1"), (0, "4|7|8"), (1, "2|3")],
            ["main [2 classes]", "main [3 classes]", "main [2 classes]"],
        ),
        ([(0, "a|b|c|d|e"), (0, "a|b|c|d|f")], None),
    ],
)
def test_tasks_of_one_name_with_other_classes(
    classes: list[tuple[int, str]], tasks: list[str] | None, tmp_path: Path
) -> None:
    rows = [image("STL", seed, 0.5, run=f"r{i}") for i, (seed, _) in enumerate(classes)]
    measures = [
        measured(f"r{i}", name, 2.0, layer=layer)
        for i, (_, known) in enumerate(classes)
        for name, layer in ((TASK, "main"), (CLASSES, known))
    ]
    found = [r["task"] for r in read_rows(table(tmp_path / "results.csv", rows, measures))]
    if tasks is None:
        assert len({*found}) == 2
        assert all(name.startswith("main [a|b|c|5 classes ") for name in found)
    else:
        assert found == tasks


class Numbered:
    class_names = ("six", "zero", "two")
    task_classes = {"left": [1, 0]}


def test_a_fit_names_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ["left", "right"]
    for trained in (["left"], ["right"], tasks):
        settings = PhaseSettings(max_epochs=1)
        module = MultiTaskModule(
            toy_backbone(), dict.fromkeys(tasks, 2), num_features=10, train_tasks=trained, settings=settings
        )
        trainer = toy_trainer(tmp_path, phase_store=False, logger=False)
        trainer.fit(module, datamodule=ToyData(tasks=tasks))
        write_rows(module, trainer, tmp_path / "runs" / "-".join(trained))
    rows = {(r["setup"], r["task"]) for r in read_rows(tmp_path / "runs")}
    assert rows == {("STL", "left"), ("STL", "right"), ("MTL", "left")}
    assert "different tasks" in printed(capsys, tmp_path / "runs")
    found = [
        (m["measure"], m["layer"], m["value"])
        for m in task_measures([{"run": "r"}], "train", "left", Numbered())
    ]
    assert found == [(TASK, "left", 2.0), (CLASSES, "six|zero", 2.0)]


def test_figures_have_a_panel_for_each_task(tmp_path: Path) -> None:
    rows, measures = study("name")
    for factor, change in ((1.0, 0.0), (0.5, 0.125)):
        for task in ("a", "b"):
            run = f"PT+FT{task}{factor}"
            rows.append(image("PT+FT", 0, 0.5 + change, run=run, rescale=factor))
            measures += [measured(run, TASK, 2.0, layer=task)]
            measures += [measured(run, name, 1.0, layer="net") for name in ("pr_before", "pr_after", "ensd")]
    tables = load([table(tmp_path / "results.csv", rows, measures)])
    layout = laid_out("accuracy", tables, None, Request())
    curves = {p.title: {c.key: c.mean for c in p.curves} for p in layout.panels}
    assert curves["digits-lenet a"] == {"STL": (0.8,), "MTL": (0.3,), "PT+FT": (0.5,)}
    assert curves["digits-lenet b"] == {"STL": (0.55,), "PT+FT": (0.5,)}
    assert curves["digits-lenet c"] == {"STL": (pytest.approx(0.95),)}
    rescaled = laid_out("accuracy-rescale", tables, None, Request())
    levels = {(p.key[1], c.key): c.mean for p in rescaled.panels for c in p.curves if p.key[-1] == "accuracy"}
    assert levels["a", "STL"] == (0.8,)
    assert levels["b", "STL"] == (0.55,)
    dimensions = laid_out("dimensionality", tables, ("digits-lenet", "image"), Request())
    assert {p.row_title for p in dimensions.panels} == {"a, n = 100", "b, n = 100"}
    alone = laid_out("accuracy", tables.where(["task=a"]), None, Request())
    assert [(p.key, p.title) for p in alone.panels] == [(("digits-lenet",), "digits-lenet")]


@pytest.mark.parametrize("name", ["task", "experiment"])
def test_a_reference_that_does_not_tell_which(name: str, tmp_path: Path) -> None:
    rows = [image("STL", 0, 0.5, run="x"), image("STL", 0, 1.0, run="y")]
    measures = [measured("x", TASK, 2.0, layer="x"), measured("y", TASK, 2.0, layer="y")]
    if name == "experiment":
        rows[1]["experiment"] = "fashion-lenet"
        measures = []
    ours = read_rows(table(tmp_path / "results.csv", rows, measures))
    published = [{"setup": "STL", "n_main": 100, "accuracy": 0.5, "accuracy_se": 0.1, "seeds": 5}]
    theirs = read_rows(plain_csv(tmp_path / "theirs.csv", published))
    with pytest.raises(ConfigurationError, match=f"our rows are of several {name}s .*--where {name}="):
        compare(ours, theirs)
    (cell,) = compare(ours[:1], theirs).cells
    assert cell.ours is not None
    assert cell.ours.mean == 0.5
    both = compare(ours, ours)
    assert [c.ours.mean for c in both.cells if c.ours] == [c.published.mean for c in both.cells]
    assert sorted(c.published.mean for c in both.cells) == [0.5, 1.0]
