"""Figures of deep networks: scores by setup and by rescale factor, dimensionality by layer."""

from collections.abc import Sequence
from dataclasses import replace
from math import hypot, nan
from typing import Any

from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import QUANTITIES
from lit_aux.errors import ConfigurationError
from lit_aux.figures.curves import SINGLE, at_factor_one, by_experiment, curve, grouped, panel_name
from lit_aux.figures.request import Request
from lit_aux.figures.students import factor_key, factor_looks, setup_looks, setups_of
from lit_aux.runs.row_tasks import name_of
from lit_aux.runs.typed import Row

_N_MAIN = "main-task examples"
_SCORES = {"accuracy": "accuracy", "r2": "R²", "f1": "F1", "iou": "IoU", "mae": "mean absolute error"}
"""What a deep network's test is looked at by: the first that a task has."""
_RESCALED = "PT+FT"
_PUBLISHED_N_MAIN = 1000
"""Of the published dimensions, which do not say it."""
_PUBLISHED = {"PR Pre": "pr_before", "PR Post": "pr_after", "ENSD": "ensd"}


def accuracy(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test accuracy of deep networks by setup; of other tasks R2, F1 or IoU."""
    rows, score = _scored(rows, measures)
    rows, notes = at_factor_one(rows)
    panels = []
    for number, (key, members) in enumerate(by_experiment(rows).items()):
        curves, title = setups_of(members, "n_main", "score"), panel_name(*key)
        place, label = (0, number), f"test {score}"
        panels.append(Panel(_key(key), place, curves, _N_MAIN, label, title, y_scale="linear"))
    return Layout(tuple(panels), len(rows), setup_looks(panels), notes)


def accuracy_rescale(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test accuracy by rescale factor, and its difference to factor 1.

    Differences are paired by seed where rows are runs; of published means they are those of the means, and
    their standard errors are added in squares.
    """
    rows, score = _scored(rows, measures)
    tuned = [row for row in rows if row["setup"] == _RESCALED and row.get("rescale") is not None]
    factors = sorted({row["rescale"] for row in tuned}, reverse=True)
    if len(factors) < 2:
        raise ConfigurationError(
            f"the rows of {_RESCALED} have {len(factors)} rescale factors; two are needed"
        )
    single = [row for row in rows if row["setup"] == SINGLE]
    panels = []
    groups = {
        key: (members, [row for row in both if row["setup"] == SINGLE])
        for key, both in by_experiment([*tuned, *single]).items()
        if (members := [row for row in both if row["setup"] == _RESCALED])
    }
    for number, (key, (members, alone)) in enumerate(groups.items()):
        at = {f: part for (f,), part in grouped(members, ("rescale",)).items()}
        curves = [curve(at[f], "n_main", "score", factor_key(f)) for f in factors if f in at]
        others = [f for f in factors if f in at and 1.0 in at and f != 1.0]
        differences = tuple(c for f in others if (c := _difference(at[f], at[1.0], factor_key(f))).x)
        if alone:
            curves.append(curve(alone, "n_main", "score", SINGLE))
        title, place, label = panel_name(*key), (number, 0), f"test {score}"
        panels.append(
            Panel((*_key(key), "accuracy"), place, tuple(curves), _N_MAIN, label, title, y_scale="linear")
        )
        if differences:
            place, label = (number, 1), f"{score} less that at factor 1"
            made = Panel((*_key(key), "difference"), place, differences, _N_MAIN, label, y_scale="linear")
            panels.append(replace(made, level=0.0))
    return Layout(tuple(panels), len(tuned) + len(single), factor_looks(factors, panels))


def dimensionality(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out PR before and after finetuning and ENSD by layer, a panel for each rescale factor."""
    long = _published_layers(rows) or _measured_layers(rows, measures)
    long = [
        {**row, "experiment": name if task is None else panel_name(name, task), "side": task or ""}
        for (name, task), members in by_experiment(long).items()
        for row in members
    ]
    if not long:
        raise ConfigurationError(
            "no run has pr_before, pr_after and ensd in measures.csv beside the table; let "
            "RepresentationDimensionality measure them, as the configurations of fashion and cifar100 do"
        )
    factors = sorted({row["rescale"] or 1.0 for row in long})
    stripes = sorted({(row["experiment"] or "", row["n_main"] or 0) for row in long})
    panels = []
    for (name, n_main, factor), members in grouped(long, ("experiment", "n_main", "rescale")).items():
        layers = tuple(dict.fromkeys(row["layer"] for row in members))
        placed = [{**row, "place": layers.index(row["layer"])} for row in members]
        parts = grouped(placed, ("quantity",))
        stripe = stripes.index((name or "", n_main or 0))
        panels.append(
            Panel(
                (name, n_main, factor),
                (stripe, factors.index(factor or 1.0)),
                tuple(curve(parts[(q,)], "place", "value", q) for q in QUANTITIES if (q,) in parts),
                "layer",
                "dimensions",
                f"factor {factor or 1.0:g}" if stripe == 0 else "",
                ", ".join(filter(None, [members[0]["side"], f"n = {n_main}" if n_main else ""])),
                x_scale="linear",
                y_scale="linear",
                ticks=layers,
            )
        )
    used = len(long) if long[0].get("run") is None else len({row["run"] for row in long})
    return Layout(tuple(panels), used, QUANTITIES)


def _key(kind: tuple[Any, Any]) -> tuple[Any, ...]:
    """Return what a panel is of: experiment and task, or the experiment alone."""
    return kind if kind[1] is not None else kind[:1]


def _scored(rows: Sequence[Row], measures: Sequence[Row]) -> tuple[list[Row], str]:
    """Return the rows that have a score, as a column, and what the score is.

    Accuracy is a column of the table, others are measures: of the task that a row is of.
    """
    known = [row for row in rows if row.get("accuracy") is not None]
    if known:
        found = [{**row, "score": row["accuracy"], "score_se": row.get("accuracy_se")} for row in known]
        return found, _SCORES["accuracy"]
    tests = {(line["run"], line["measure"]): line["value"] for line in measures if line.get("run")}
    tasks = {row.get("run"): name_of(row.get("task")) or "main" for row in rows}
    for score, label in _SCORES.items():
        by_run = {run: tests.get((run, f"{task}/test_{score}")) for run, task in tasks.items() if run}
        found = [{**row, "score": by_run.get(row.get("run"))} for row in rows]
        found = [row for row in found if row["score"] is not None]
        if found:
            return found, label
    raise ConfigurationError("no row has an accuracy, and no run an r2, f1, iou or mae of its test")


def _difference(rows: Sequence[Row], ones: Sequence[Row], key: str) -> Curve:
    """Return the curve of a score less that at factor 1."""
    if rows[0].get("seed") is not None:
        base = {(row["seed"], row["n_main"]): row["score"] for row in ones}
        paired = [
            {**row, "score": row["score"] - base[row["seed"], row["n_main"]]}
            for row in rows
            if (row["seed"], row["n_main"]) in base
        ]
        return curve(paired, "n_main", "score", key)
    means = {row["n_main"]: row for row in ones}
    unpaired = []
    for row in rows:
        if one := means.get(row["n_main"]):
            errors = [r["score_se"] if r.get("score_se") is not None else nan for r in (row, one)]
            change = {"score": row["score"] - one["score"], "score_se": hypot(*errors)}
            unpaired.append({**row, **change, "seeds": min(row["seeds"], one["seeds"])})
    return curve(unpaired, "n_main", "score", key)


def _published_layers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {**row, "quantity": _PUBLISHED[row["quantity"]], "n_main": _PUBLISHED_N_MAIN}
        for row in rows
        if row.get("quantity") in _PUBLISHED
    ]


def _measured_layers(rows: Sequence[Row], measures: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row for each run, layer and quantity, of the last phase that measured them."""
    runs = {row["run"]: row for row in rows if row.get("run") and row["setup"] == _RESCALED}
    last = {line["run"]: line["phase"] for line in measures if line["measure"] in QUANTITIES}
    kept = [
        line
        for line in measures
        if line["run"] in runs and line["measure"] in QUANTITIES and line["value"] is not None
    ]
    return [
        runs[run] | {"layer": _short(line["layer"]), "quantity": line["measure"], "value": line["value"]}
        for line in kept
        if line["phase"] == last[run := line["run"]]
    ]


def _short(layer: str) -> str:
    """Name a layer as timm or the user does."""
    for prefix in ("net.", "backbone.", "network."):
        layer = layer.removeprefix(prefix)
    return layer
