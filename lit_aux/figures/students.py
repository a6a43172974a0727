"""Figures of students' test loss: overlap, sparsity, rescaling, and correlation with magnitude."""

from collections.abc import Callable, Sequence
from typing import Any

from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import SETUPS, TIMES, Look, ordered_looks
from lit_aux.errors import ConfigurationError
from lit_aux.figures.curves import SINGLE, Mean, at_factor_one, curve, grouped, relative
from lit_aux.figures.request import AUTO, Request
from lit_aux.figures.tables import by_task, entries, network_of, pattern_title, shared_title
from lit_aux.results.selection import spelled
from lit_aux.runs.typed import Row

_N_MAIN = "main-task examples"
_COLUMNS = 4


def overlap(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test loss against n_main, a panel for each overlap of the teachers."""
    rows, notes = at_factor_one(rows)
    rows, baseline, label, lost = losses(rows, how)
    panels = []
    groups = sorted(grouped(rows, ("overlap", "correlation")).items(), key=lambda item: by_task(item[1][0]))
    columns = min(len(groups), _COLUMNS)
    for number, (key, members) in enumerate(groups):
        curves = setups_of(members, "n_main", how.value, how.mean)
        title = pattern_title(members[0])
        panels.append(Panel(key, divmod(number, columns), curves, _N_MAIN, label, title))
    return Layout(tuple(panels), len(rows), setup_looks(panels), notes + lost, baseline)


def sparsity(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test loss against n_main, panels by number of main features, shared and not."""
    rows, notes = at_factor_one(rows)
    rows, baseline, label, lost = losses(rows, how)

    def curves(members: Sequence[Row]) -> tuple[Curve, ...]:
        return setups_of(members, "n_main", how.value, how.mean)

    panels = facets(rows, curves, label, shared_title)
    return Layout(tuple(panels), len(rows), setup_looks(panels), notes + lost, baseline)


def rescaling(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test loss against n_main as sparsity, a curve for each rescale factor.

    Columns are numbers of main features; rows are setups and whether features are shared. Setups without
    factors, or at factor 1, are drawn beside those of others, to compare with.
    """
    rows, baseline, label, lost = losses(rows, how)
    factors = sorted({row["rescale"] for row in rows if row.get("rescale") is not None}, reverse=True)
    if not factors:
        raise ConfigurationError("no row has a rescale factor")
    varied = [
        setup
        for (setup,), members in grouped(rows, ("setup",)).items()
        if len({row.get("rescale") for row in members}) > 1 or (len(factors) == 1 and setup != SINGLE)
    ]
    panels: list[Panel] = []
    for setup in sorted(varied, key=lambda name: (name == SINGLE, list(SETUPS).index(name))):
        top = 1 + max((panel.place[0] for panel in panels), default=-1)
        panels += _by_factor(rows, setup, how, label, top)
    return Layout(tuple(panels), len(rows), factor_looks(factors, panels), lost, baseline)


def _by_factor(rows: Sequence[Row], setup: str, how: Request, label: str, top: int) -> list[Panel]:
    """Lay out the panels of a setup, a curve for each factor, with single-task training to compare with."""
    own = [row for row in rows if row["setup"] == setup]
    single = [row for row in rows if row["setup"] == SINGLE != setup and row.get("rescale") in (None, 1.0)]

    def curves(members: Sequence[Row]) -> tuple[Curve, ...]:
        parts = sorted(grouped(members, ("setup", "rescale")).items(), key=lambda item: -(item[0][1] or 0))
        return tuple(
            curve(part, "n_main", how.value, name if name != setup else factor_key(factor), how.mean)
            for (name, factor), part in parts
        )

    return facets(own + single, curves, label, lambda row: f"{setup}\n{shared_title(row)}", (setup,), top)


def correlation(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out test loss relative to STL, panels by correlation of the units and size of the main task.

    Columns are correlations of main with auxiliary units, rows sizes of the main teacher's outputs.
    """
    present = [row for row in rows if row.get(how.value) is not None]
    if not any(row["setup"] == SINGLE for row in present):
        raise ConfigurationError(f"the loss is drawn relative to {SINGLE}, of which there are no rows")
    kept = [row for row in relative(present, how.value, None) if row["setup"] != SINGLE]
    sizes = sorted({row["magnitude"] for row in kept}, reverse=True)
    tasks = sorted({row["correlation"] for row in kept}, key=sum)
    label = f"{_loss(how)} / {SINGLE}'s"
    panels = []
    for (size, task), members in grouped(kept, ("magnitude", "correlation")).items():
        curves = setups_of(members, "n_main", how.value, how.mean)
        titles = pattern_title(members[0]) if size == sizes[0] else "", f"output {TIMES} {size:g}"
        place = sizes.index(size), tasks.index(task)
        panels.append(Panel((size, task), place, curves, _N_MAIN, label, *titles, level=1.0))
    single = [row for row in rows if row["setup"] == SINGLE]
    lost = _lost([row for row in rows if row["setup"] != SINGLE], kept, how)
    return Layout(tuple(panels), len(kept) + len(single), setup_looks(panels), lost, level_label=SINGLE)


def facets(
    rows: Sequence[Row],
    curves: Callable[[Sequence[Row]], tuple[Curve, ...]],
    label: str,
    row_title: Callable[[Row], str],
    key: tuple[Any, ...] = (),
    top: int = 0,
) -> list[Panel]:
    """Lay out panels by number of main features and by which of them are shared.

    Args:
        rows: Of students.
        curves: Those of the rows of one panel.
        label: Of the y axis.
        row_title: Of a panel's row in the figure, from one of its rows of the table.
        key: How the panels' keys begin.
        top: The first row in the figure.
    """
    counts = sorted({row["k_main"] for row in rows})
    titles = list(dict.fromkeys(row_title(row) for row in sorted(rows, key=by_task, reverse=True)))
    panels: dict[Any, list[Row]] = {}
    for row in rows:
        panels.setdefault((row["k_main"], shared_title(row)), []).append(row)
    found = []
    for (k, shared), members in panels.items():
        title = row_title(members[0])
        place = top + titles.index(title), counts.index(k)
        above = f"{k} main {entries(members[0], k)}" if place[0] == 0 else ""
        found.append(Panel((*key, k, shared), place, curves(members), _N_MAIN, label, above, title))
    return found


def losses(rows: Sequence[Row], how: Request) -> tuple[list[Row], int | None, str, tuple[str, ...]]:
    """Return the rows that have a loss, as it is drawn.

    Returns:
        The rows; the n_main of the single-task runs by which ReLU students' losses are divided; the label of
        the axis; and how many rows are left out.
    """
    found: list[Row] = [row for row in rows if row.get(how.value) is not None]
    if not found:
        raise ConfigurationError(f"no row has a {how.value}")
    if network_of(found[0]) == "diagonal" or how.baseline is None:
        return found, None, _loss(how), _lost(rows, found, how)
    at = how.baseline
    if at == AUTO:
        singles = [row["n_main"] for row in found if row["setup"] == SINGLE]
        at = min(singles, default=min(row["n_main"] for row in found))
    divided = relative(found, how.value, at)
    if not divided:
        return found, None, _loss(how), _lost(rows, found, how)
    return divided, at, f"{_loss(how)} / {SINGLE}'s at n = {at}", _lost(rows, divided, how)


def _lost(rows: Sequence[Row], kept: Sequence[Row], how: Request) -> tuple[str, ...]:
    count = len(rows) - len(kept)
    return (f"rows without {how.value}, or without {SINGLE}'s to compare with: {count}",) if count else ()


def _loss(how: Request) -> str:
    words = {"loss_best": "best test loss", "loss_final": "final test loss"}[how.value]
    return f"geometric mean of {words}" if how.mean == "geometric" else words


def setups_of(rows: Sequence[Row], x: str, value: str, mean: Mean = "arithmetic") -> tuple[Curve, ...]:
    """Return a curve for each setup."""
    parts = grouped(rows, ("setup",)).items()
    return tuple(curve(members, x, value, setup, mean) for (setup,), members in parts)


def setup_looks(panels: Sequence[Panel]) -> dict[str, tuple[str, Look]]:
    """Return how the setups of panels look, in the order in which they are always named.

    Raises:
        ConfigurationError: For a setup that there is not.
    """
    found = {c.key for panel in panels for c in panel.curves}
    for name in found - {*SETUPS}:
        raise ConfigurationError(f"setup {name!r} is unknown; known: {', '.join(SETUPS)}")
    return {name: (name, look) for name, look in SETUPS.items() if name in found}


def factor_key(factor: float | None) -> str:
    """Return the key of the curve of a rescale factor; of none, as of 1."""
    return f"{TIMES} {spelled(1.0 if factor is None else factor)}"


def factor_looks(factors: Sequence[float], panels: Sequence[Panel]) -> dict[str, tuple[str, Look]]:
    """Return how the curves of rescale factors look, from the largest to the smallest, and STL's if drawn."""
    ordered = sorted({*factors}, reverse=True)
    found = {
        factor_key(factor): (f"factor {factor:g}", look)
        for factor, look in zip(ordered, ordered_looks(len(ordered)), strict=True)
    }
    if any(c.key == SINGLE for panel in panels for c in panel.curves):
        found[SINGLE] = SINGLE, SETUPS[SINGLE]
    return found
