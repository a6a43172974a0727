"""What a sweep over rescale factors prints and writes."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_aux.callbacks import LayerDimensionality
from lit_aux.callbacks._parameters import is_readout
from lit_aux.drawing.style import save
from lit_aux.errors import unknown_name
from lit_aux.files import atomic_write
from lit_aux.outputs import written_to
from lit_aux.regimes.sweep import FactorFit
from lit_aux.reporting import DIMENSIONS, borderline_note, short_layer
from lit_aux.results.means import stat_of
from lit_aux.results.sheet import Sheet, show
from lit_aux.results.statistics import by_treatment, cells, winners
from lit_aux.spreadsheets import as_csv as csv_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report_sweep(
    fits: Sequence[FactorFit],
    out: Path,
    layer: str | None,
    words: Sequence[str],
    draw: Callable[[Sequence["FactorSummary"], str], "Figure"],
) -> None:
    """Print a sweep's table and conclusion; write ``regime.json``, ``regime.csv`` and ``regime.png``.

    Args:
        fits: Of every factor and seed.
        out: The folder.
        layer: The layer to judge by; None for the last one before the readout.
        words: The options of ``lit-aux fit`` that were given, for the record.
        draw: Draws the factors and the layer that they are judged by.

    Raises:
        ConfigurationError: For a layer that was not measured, or files that cannot be written.
    """
    from lit_aux.reporting import finite

    factors = by_factor(fits)
    judged = chosen_layer(factors, layer)
    found = conclusion(factors, judged)
    show([sweep_table(factors, judged)])
    print("\n".join([*in_words(found), *runner_up(fits)]))
    if found["best"] is not None:
        factor = found["best_nested"] or found["best"]
        options = f"--model.rescale={factor:g}", f"--trainer.phase_store={out}/phases"
        kind = "nested one" if found["best_nested"] else "one"
        print(f"to train the best {kind}: {shlex.join(['lit-aux', 'fit', *words, *options])}")
    content = {
        "options": list(words),
        "conclusion": found,
        "factors": [asdict(one) for one in factors],
        "fits": [asdict(one) for one in fits],
    }
    files = {}
    with written_to(out):
        if judged is not None:
            files["picture"] = save(draw(factors, judged), out / "regime.png")
        files |= {"table": out / "regime.csv", "numbers": out / "regime.json"}
        atomic_write(files["table"], as_csv(fits))
        atomic_write(files["numbers"], json.dumps(finite(content), indent=2) + "\n")
    for what, path in files.items():
        print(f"{what}: {path}")


@dataclass(frozen=True)
class FactorSummary:
    """One rescale factor: means over seeds.

    Attributes:
        factor: The factor.
        fits: How many seeds it has.
        diverged: How many of them ended with an infinite loss; they count nowhere else.
        layers: By name, means of the numbers, and the verdict that most seeds share; borderline where it is
            for half of these.
        agreement: By layer, how many seeds share it.
        val_accuracy: Mean on validation data, None where there are none.
        val_loss: Likewise.
    """

    factor: float
    fits: int
    diverged: int
    layers: dict[str, LayerDimensionality]
    agreement: dict[str, int]
    val_accuracy: float | None
    val_loss: float | None

    def nested(self, layer: str) -> bool:
        """Return whether more than half of the seeds call a layer nested."""
        found = self.layers.get(layer)
        return found is not None and found.verdict == "nested" and 2 * self.agreement[layer] > self.fits


def by_factor(fits: Sequence[FactorFit]) -> list[FactorSummary]:
    """Return the fits of each factor as one, in the order of the factors."""
    groups: dict[float, list[FactorFit]] = {}
    for one in fits:
        groups.setdefault(one.factor, []).append(one)
    return [_summary(factor, members) for factor, members in groups.items()]


def _summary(factor: float, members: Sequence[FactorFit]) -> FactorSummary:
    whole = [one for one in members if one.layers]
    layers, agreement = {}, {}
    for rows in zip(*(one.layers for one in whole), strict=True):
        name = rows[0].layer
        means = {
            key: nan if (mean := _mean(getattr(row, key) for row in rows)) is None else mean
            for key in DIMENSIONS
        }
        verdict, agreement[name] = Counter(row.verdict for row in rows).most_common(1)[0]
        near = [row.note for row in rows if row.verdict == verdict and row.borderline]
        note = near[0] if 2 * len(near) >= agreement[name] and near else ""
        layers[name] = LayerDimensionality(rows[0].phase, name, verdict=verdict, note=note, **means)
    validated = (_mean(one.val_accuracy for one in whole), _mean(one.val_loss for one in whole))
    return FactorSummary(factor, len(members), len(members) - len(whole), layers, agreement, *validated)


def _mean(values: Iterable[float | None]) -> float | None:
    stat = stat_of(values)
    return None if stat is None else stat.mean


def chosen_layer(factors: Sequence["FactorSummary"], wanted: str | None = None) -> str | None:
    """Return the layer that a sweep is judged by: the one wanted, else the last before the readout.

    Args:
        factors: At least one.
        wanted: A name; None for the default.

    Returns:
        Its name; None where every fit diverged.

    Raises:
        ConfigurationError: For a layer that was not measured.
    """
    names = list(next((one.layers for one in factors if one.layers), {}))
    if not names:
        return None
    if wanted is None:
        return ([name for name in names if not is_readout(name)] or names)[-1]
    if short_layer(wanted) not in names:
        raise unknown_name("--layer", wanted, names)
    return short_layer(wanted)


def best(factors: Sequence["FactorSummary"]) -> FactorSummary | None:
    """Return the factor with the highest validation accuracy, else the lowest validation loss; or None."""
    with_accuracy = [one for one in factors if one.val_accuracy is not None]
    if with_accuracy:
        return max(with_accuracy, key=lambda one: (one.val_accuracy or 0.0, -(one.val_loss or 0.0)))
    with_loss = [one for one in factors if one.val_loss is not None and isfinite(one.val_loss)]
    return min(with_loss, key=lambda one: one.val_loss or 0.0) if with_loss else None


def conclusion(factors: Sequence["FactorSummary"], layer: str | None) -> dict[str, Any]:
    """Return what a sweep says: the nested factors, and which of all and of them validates best.

    Args:
        factors: Of :func:`by_factor`.
        layer: The one to judge by.
    """
    nested = [one for one in factors if layer is not None and one.nested(layer)]
    of_all, of_nested = best(factors), best(nested)
    return {
        "layer": layer,
        "nested": [one.factor for one in nested],
        "borderline": [one.factor for one in nested if one.layers[str(layer)].borderline],
        "best": None if of_all is None else of_all.factor,
        "best_nested": None if of_nested is None else of_nested.factor,
    }


def in_words(found: dict[str, Any]) -> list[str]:
    """Return a conclusion as lines to be read."""
    near = found["borderline"]
    nested = ", ".join(f"{factor:g}{' (borderline)' * (factor in near)}" for factor in found["nested"])
    lines = [f"nested at {found['layer']}: " + (f"rescale {nested}" if nested else "no factor of these")]
    if found["best"] is None:
        lines.append("which of them is best: unknown without validation data (test data are not looked at)")
    else:
        text = f"best on validation data: rescale {found['best']:g}"
        if found["best_nested"] not in (None, found["best"]):
            text += f"; of the nested ones {found['best_nested']:g}"
        lines.append(text)
    return lines


def runner_up(fits: Sequence[FactorFit]) -> list[str]:
    """Return whether the factor that validates best is clearly ahead of the next, seed by seed, in words."""
    accuracy = any(one.val_accuracy is not None for one in fits)
    value = "val_accuracy" if accuracy else "val_loss"
    rows = [
        {"rescale": one.factor, "seed": one.seed, value: getattr(one, value)} for one in fits if one.layers
    ]
    won = list(winners(by_treatment(cells(rows, value, ("setup", "rescale"))), higher=accuracy))
    if not won:
        return []
    found, second = won[0].difference, won[0].second[1]
    lead = f"rescale {won[0].best[1]:g} against {second:g}: "
    if won[0].decided:
        return [lead + f"clearly ahead{', but near the threshold' * bool(found and found.near)}"]
    shared = 0 if found is None else found.stat.seeds
    needed = f"; about {found.needed} seeds would decide" if found and found.needed else ""
    return [lead + f"not decided by {shared} seed{'s' * (shared != 1)}{needed}"]


def sweep_table(factors: Sequence["FactorSummary"], layer: str | None) -> Sheet:
    """Return a table with a row for each factor, of one layer."""
    seeds = max(one.fits for one in factors)
    over = f", means over {seeds} seeds" if seeds > 1 else ""
    accuracy = any(one.val_accuracy is not None for one in factors)
    loss = not accuracy and any(one.val_loss is not None for one in factors)
    measured = ["val accuracy"] * accuracy + ["val loss"] * loss
    sheet = Sheet(
        f"{layer} at each rescale factor{over}",
        ["rescale", *measured, *DIMENSIONS.values(), "verdict"],
        notes=borderline_note(one.layers[layer] for one in factors if layer in one.layers),
        left=["verdict"],
    )
    for one in factors:
        row = None if layer is None else one.layers.get(layer)
        values = [one.val_accuracy] * accuracy + [one.val_loss] * loss
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        shown += ["-" if row is None else f"{getattr(row, name):.2f}" for name in DIMENSIONS]
        sheet.rows.append([f"{one.factor:g}", *shown, _verdict(one, layer)])
    return sheet


def _verdict(one: FactorSummary, layer: str | None) -> str:
    row = None if layer is None else one.layers.get(layer)
    if row is None:
        return "diverged"
    count = one.agreement[row.layer]
    text = row.shown_verdict if count == one.fits else f"{row.shown_verdict} {count}/{one.fits}"
    return text + (f", {one.diverged} diverged" if one.diverged else "")


def as_csv(fits: Sequence[FactorFit]) -> str:
    """Return every layer of every fit as the text of a CSV file."""
    measured = ("val_accuracy", "val_loss")
    lines: list[list[Any]] = [["factor", "seed", "layer", *DIMENSIONS, "verdict", *measured]]
    for one in fits:
        values = [getattr(one, name) for name in measured]
        for row in one.layers:
            numbers = [v if isfinite(v) else "" for v in (getattr(row, name) for name in DIMENSIONS)]
            lines.append([one.factor, one.seed, row.layer, *numbers, row.verdict, *values])
        if not one.layers:
            lines.append([one.factor, one.seed, "", *[""] * len(DIMENSIONS), "diverged", *values])
    return csv_of(lines)
