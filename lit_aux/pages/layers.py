"""How the phases of runs ended, and what they did to layers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias, get_args

from lit_aux.errors import printable, shortened
from lit_aux.pages.grid import MOST_LINES, Cell, Grid, number_of, setup_cell, spelled_number, text_cells
from lit_aux.pages.links import Links
from lit_aux.pages.sources import SUMMARY, Sources, called, newest
from lit_aux.reporting import DIMENSIONS, short_layer
from lit_aux.results.selection import spelled
from lit_aux.runs.typed import Row
from lit_aux.verdicts import BORDERLINE, UNTRAINED, Verdict, near, verdict

_MOST_SUMMARIES = 300
_CELL = ("experiment", "task", "setup", "n_main", "rescale", "seed")
_MOST_READ = 500  # summaries that are read for the verdicts that fits gave
_NOTES = (
    "PR: participation ratio, about how many dimensions a layer uses; ENSD: how many of those after are "
    "among those before. Nested: fewer than before, and out of those. Lazy: about as before. Replaced: most "
    "are new. In brackets: borderline, another seed may give another verdict."
)
_TONES = {word: word for word in get_args(Verdict)}
Layer: TypeAlias = Mapping[str, Any]


def read_summary(path: Path) -> dict[str, Any]:
    """Return what a fit wrote of its phases and layers; nothing of a file of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    kept = {}
    for name in ("phases", "layers"):
        rows = content.get(name)
        kept[name] = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return kept


def phases(sources: Sources, links: Links) -> Grid:
    """Return how each phase of each run ended, where runs are few."""
    found = ("epochs", "steps", "seconds", "score", "loss", "train loss")
    grid = Grid("How each phase ended", ["run", "phase", "tasks", "why it ended", *found], labels=4)
    for path in sources.summaries[:_MOST_SUMMARIES]:
        for phase in read_summary(path).get("phases", ()):
            grid.rows.append([_folder(path, links), *_phase(phase)])
    if len(sources.summaries) > _MOST_SUMMARIES:
        grid.notes.append(f"of the first {_MOST_SUMMARIES} of {len(sources.summaries):,} runs")
    return grid.without_empty()


def _folder(path: Path, links: Links) -> Cell:
    return Cell(printable(called(path.parent)), links.to(path.parent))


def _phase(phase: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a phase: its main metrics are of test samples where there are some."""
    tasks = phase.get("tasks")
    names = [str(task) for task in tasks] if isinstance(tasks, list) else []
    metrics = phase.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    found: dict[str, list[str]] = {"score": [], "loss": [], "train": []}
    for task in names:
        own = {str(k)[len(task) + 1 :]: v for k, v in metrics.items() if str(k).startswith(f"{task}/")}
        stage = "test" if any(name.startswith("test_") for name in own) else "val"
        scores = {k.partition("_")[2]: v for k, v in own.items() if k.startswith(f"{stage}_")}
        loss = scores.pop("loss", None)
        found["score"] += [f"{stage} {name} {spelled_number(value)}" for name, value in scores.items()]
        found["loss"].append(spelled_number(loss))
        found["train"].append(spelled_number(own.get("train_loss", metrics.get("train_loss"))))
    before = "trained before; " if phase.get("reused") else ""
    reason = before + shortened(str(phase.get("reason", "")), 300)
    texts = [str(phase.get("name", "")), ", ".join(names), reason]
    counts = [
        spelled_number(phase.get("epochs"), ",.0f"),
        spelled_number(phase.get("steps"), ",.0f"),
        spelled_number(phase.get("seconds")),
    ]
    return text_cells([*texts, *counts, *(", ".join(filter(None, parts)) for parts in found.values())])


# Layers


def layers(sources: Sources, links: Links) -> Grid:
    """Return a line for each run and layer that was measured in its last phase.

    Verdicts are those of the fits where their folders are there; else they follow from the numbers, by the
    usual thresholds.
    """
    labels = ["run", *_CELL, "phase", "layer"]
    columns = [*labels, "verdict", *DIMENSIONS.values()]
    grid = Grid("What runs did to layers", columns, labels=len(labels), texts=frozenset({len(labels)}))
    measured = _measured(sources.measures)
    told: dict[Path, list[Layer]] = {}
    count = 0
    for row in sources.rows:
        run = row.get("run")
        of_run = measured.get(run or "", [])
        if not of_run:
            continue
        count += len(of_run)
        if len(grid.rows) >= MOST_LINES:
            continue
        folder = sources.folders.get(run or "")
        if folder is not None and folder not in told and len(told) < _MOST_READ:
            path = newest(folder, SUMMARY)
            told[folder] = [] if path is None else read_summary(path).get("layers", [])
        known = {_name(one): one for one in told.get(folder, ())} if folder else {}
        head = [links.run(run), *text_cells(spelled(row.get(name)) for name in _CELL)]
        head[3] = setup_cell(spelled(row.get("setup")))
        for layer in of_run:
            own = known.get(_name(layer))
            grid.rows.append([*head, *_layer({**layer, **own} if own else layer)])
    for path in [] if measured else sources.summaries:  # runs of other projects: they have no tables
        of_file = list(_last(read_summary(path).get("layers", [])))
        count += len(of_file)
        head = [_folder(path, links), *[Cell("")] * len(_CELL)]
        grid.rows += [[*head, *_layer(layer)] for layer in of_file][: max(0, MOST_LINES - len(grid.rows))]
    grid.rows = grid.rows[:MOST_LINES]
    grid.notes.append(_NOTES)
    if count > len(grid.rows):
        grid.notes.append(f"the first {len(grid.rows):,} of {count:,} lines; measures.csv has all")
    return grid.without_empty().without_alike()


def _measured(measures: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """Return the layers that were measured in the last phase of each run, by run."""
    found: dict[str, dict[tuple[Any, Any], dict[str, Any]]] = {}
    phases: dict[str, dict[Any, None]] = {}
    for row in measures:
        if row["phase"] is not None:
            phases.setdefault(row["run"], {})[row["phase"]] = None
        if row["measure"] in DIMENSIONS and row["layer"] is not None:
            key = row["phase"], row["layer"]
            of_run = found.setdefault(row["run"], {})
            of_run.setdefault(key, {"phase": key[0], "layer": key[1]})[row["measure"]] = row["value"]
    return {
        run: [{**one, "first": len(phases.get(run, ())) < 2} for one in _last(list(own.values()))]
        for run, own in found.items()
    }


def _last(rows: Sequence[Layer]) -> Iterator[Layer]:
    return (row for row in rows if row.get("phase") == rows[-1].get("phase"))


def _name(layer: Layer) -> tuple[str, str]:
    return str(layer.get("phase")), str(layer.get("layer"))


def _layer(layer: Layer) -> list[Cell]:
    values = [number_of(layer.get(name)) for name in DIMENSIONS]
    word = _verdict(layer, values[3], values[4])
    shown = [f"{value:.2f}" if isfinite(value) else "-" for value in values]
    names = text_cells([str(layer.get("phase") or ""), short_layer(str(layer.get("layer", "")))])
    return [*names, Cell(printable(word), tone=_TONES.get(word.strip("()"), "")), *map(Cell, shown)]


def _verdict(layer: Layer, pr_ratio: float, ensd_ratio: float) -> str:
    """Return the verdict that a fit gave; else the one that follows from the numbers.

    A run's only phase may have begun with random weights, of which no features can be reused: there is no
    verdict then, where no fit tells.
    """
    note = str(layer.get("note", ""))
    if "verdict" in layer:
        word = str(layer["verdict"])
        return "" if UNTRAINED in note else f"({word})" if BORDERLINE in note else word
    if layer.get("first"):
        return ""
    word = verdict(pr_ratio, ensd_ratio)
    return f"({word})" if word != "undefined" and near(pr_ratio, ensd_ratio) else word
