"""What tests of figures share: tables made by hand, and curves read back from what was drawn."""

import csv
import math
import os
import random
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from lit_aux.drawing.style import save
from lit_aux.figures import Request, load
from lit_aux.figures.results import chosen, drawn
from lit_aux.runs.table import COLUMNS

REFERENCE = os.environ.get("LIT_AUX_REFERENCE")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="needs the published tables: set LIT_AUX_REFERENCE to their folder"
)


def write_table(
    folder: Path, rows: list[dict], measures: list[tuple] = (), name: str = "results.csv"
) -> Path:
    """Write results.csv and measures.csv; rows get a run each."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, row in enumerate(rows):
            row.setdefault("run", f"{number:012x}")
            writer.writerow(row)
    if measures:
        with (folder / "measures.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["run", "phase", "step", "layer", "measure", "value"])
            writer.writerows(measures)
    return folder / name


def losses(experiment: str, setups, seeds=range(3), n_main=(16, 64, 256), **axes) -> list[dict]:
    """Return rows of one task with losses drawn at random; the same call gives the same rows."""
    draw = random.Random(repr((experiment, sorted(axes.items()))))
    return [
        {
            "experiment": experiment,
            "setup": setup,
            "seed": seed,
            "n_main": n,
            "solver": "gradient_flow",
            "converged": "true",
            "loss_best": math.exp(draw.uniform(-9, 0)),
            "loss_final": math.exp(draw.uniform(-9, 0)),
            **axes,
        }
        for setup in setups
        for seed in seeds
        for n in n_main
    ]


def draw_figure(
    name: str, path: Path, results: list[Path], reference: Path | None = None, how: Request | None = None
) -> list[str]:
    """Draw and save a figure as the command does; return the lines that it prints."""
    tables = load(results)
    published = None if reference is None else load([reference], "--reference")
    found = drawn(name, chosen(tables), how or Request(), published)
    lines = [f"picture: {save(found.figure, path)}", *(f"  {text}" for text in found.notes)]
    return [*lines, *(f"note: {text}" for text in tables.notes)]


def read(path: Path) -> list[dict]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def expected(rows, x, key, value) -> dict[str, dict[float, tuple[float, float]]]:
    """Return mean and two standard errors by curve and place, worked out from the text of a table."""
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[key(row)][float(x(row))].append(float(value(row)))
    return {
        name: {
            place: (fmean(v), 2 * stdev(v) / len(v) ** 0.5 if len(v) > 1 else math.nan)
            for place, v in places.items()
        }
        for name, places in cells.items()
    }


def drawn_curves(axes) -> dict[str, dict[float, tuple[float, float, float]]]:
    """Return mean, lower and upper end by curve and place, from the artists: line, bars and caps."""
    found = {}
    for container in axes.containers:
        line, caps, (bars,) = container
        x, mean = line.get_xydata().T
        segments = {}
        for segment in bars.get_segments():
            if len(segment):
                (x0, low), (x1, high) = segment
                assert x0 == x1 or math.isnan(x0)
                segments[x0] = low, high
        for cap, end in zip(caps, (0, 1), strict=True):
            for place, y in cap.get_xydata():
                if not math.isnan(y):
                    assert segments[place][end] == y
        ends = [segments.get(place, (math.nan, math.nan)) for place in x]
        found[container.get_label()] = {
            place: (m, *end) for place, m, end in zip(x.tolist(), mean.tolist(), ends, strict=True)
        }
    return found


def published_curves(axes) -> dict[str, dict[float, float]]:
    """Return what is laid over, by curve and place."""
    return {
        line.get_label().removeprefix("published "): dict(line.get_xydata().tolist())
        for line in axes.lines
        if line.get_label().startswith("published ")
    }


def assert_same(drawn, wanted) -> int:
    """Compare the curves of a panel with what they should be; return how many points there are."""
    assert drawn.keys() == wanted.keys()
    for name, places in wanted.items():
        assert drawn[name].keys() == places.keys(), name
        for place, (mean, error) in places.items():
            got = drawn[name][place]
            np.testing.assert_allclose(got[0], mean, rtol=1e-9)
            ends = [mean - error, mean + error]
            np.testing.assert_allclose(got[1:], ends, rtol=1e-6, atol=1e-9 * abs(mean))
    return sum(map(len, wanted.values()))


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.axison]


def title(axes) -> str:
    return axes.get_title("left")


def kept_figures(monkeypatch) -> list:
    """Return a list that fills with the figures that are saved, as they are drawn."""
    from matplotlib.figure import Figure

    figures: list = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
