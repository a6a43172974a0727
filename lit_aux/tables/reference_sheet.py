"""Our cells beside published ones, as printed tables."""

from typing import Any

from lit_aux.tables.reference import Compared, Comparison
from lit_aux.tables.row_view import size_column
from lit_aux.tables.selection import spelled
from lit_aux.tables.sheet import Sheet
from lit_aux.tables.statistics import Key


def beside(comparison: Comparison) -> list[Sheet]:
    """Return two tables: ours / published with n_main across, and how many cells agree by setup."""
    sizes = list(dict.fromkeys(cell.key[-1] for cell in sorted(comparison.cells, key=lambda c: c.key[-1])))
    places = comparison.names[:-1]
    sheet = Sheet(
        f"{comparison.value}, ours / published ({'geometric ' if comparison.log else ''}means over seeds)",
        [*places, *map(size_column, sizes)],
        labels=len(places),
    )
    lines: dict[Key, dict[Any, Compared]] = {}
    for cell in comparison.cells:
        *place, n = cell.key
        lines.setdefault(tuple(place), {})[n] = cell
    for line, by_size in lines.items():
        fields = [_both(by_size[n], comparison.log) if n in by_size else "" for n in sizes]
        sheet.rows.append([*map(spelled, line), *fields])
    rule = (
        "log10 means differ by at most the larger of 0.05 and "
        if comparison.log
        else "means differ by at most "
    )
    sheet.notes.append(f"! does not agree; cells agree where {rule}2 standard errors of the difference")
    fewer = sum(c.ours is not None and c.ours.seeds < c.published.seeds for c in comparison.cells)
    if fewer:
        sheet.notes.append(f"{fewer} cells have fewer seeds than the published ones")
    return [sheet, tally(comparison)]


def tally(comparison: Comparison) -> Sheet:
    """Return how many cells agree by setup."""
    sheet = Sheet("Cells that agree with the published ones", ["setup", "agree", "compared", "published"])
    counts = comparison.by_setup()
    for setup, numbers in counts.items():
        sheet.rows.append([setup, *map(str, numbers)])
    if len(counts) > 1:
        sheet.rows.append(["all", *(str(sum(column)) for column in zip(*counts.values(), strict=True))])
    return sheet


def in_full(comparison: Comparison) -> Sheet:
    """Return every cell as numbers, a line each."""
    unit = "_log10" if comparison.log else ""
    numbers = [f"ours{unit}", "se", "seeds", f"published{unit}", "published_se", "published_seeds"]
    sheet = Sheet("ours beside published", [*comparison.names, *numbers, "allowed", "agrees"])
    for cell in comparison.cells:
        ours = ["", "", "0"] if cell.ours is None else _numbers(cell.ours)
        key = ["|".join(map(str, v)) if isinstance(v, tuple) else spelled(v) for v in cell.key]
        agrees = "" if cell.ours is None else str(cell.agrees).lower()
        sheet.rows.append([*key, *ours, *_numbers(cell.published), repr(cell.allowed), agrees])
    return sheet


def _numbers(stat: Any) -> list[str]:
    return [repr(stat.mean), "" if stat.error != stat.error else repr(stat.error), str(stat.seeds)]


def _both(cell: Compared, log: bool) -> str:
    published = _short(cell.published.mean, log)
    if cell.ours is None:
        return f"- / {published}"
    return f"{_short(cell.ours.mean, log)} / {published}{'' if cell.agrees else ' !'}"


def _short(mean: float, log: bool) -> str:
    return f"{10**mean:.3g}" if log else f"{mean:.3f}"
