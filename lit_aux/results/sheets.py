"""The printed tables of ``lit-aux table``: means, paired differences, winners, ours beside published ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from lit_aux.results import statistics
from lit_aux.results.means import Stat, kind_of_mean, spelled_mean
from lit_aux.results.reference import Compared, ReferenceComparison
from lit_aux.results.selection import spelled, varying
from lit_aux.results.sheet import Sheet, exact
from lit_aux.results.significance import FEWEST, FLIPPED, LEVEL, MOST, NEAR, POWER
from lit_aux.results.statistics import comparisons
from lit_aux.runs.typed import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """Rows and how they are looked at.

    Attributes:
        rows: The rows, failed ones among them.
        value: The column.
        log: Whether means are of log10, and so geometric.
        higher: Whether more is better; None where neither is.
        by: Columns beside the table's own that tell cells apart.
    """

    rows: Sequence[Row]
    value: str
    log: bool
    higher: bool | None
    by: tuple[str, ...] = ()

    @cached_property
    def good(self) -> list[Row]:
        """The rows of runs that did not fail."""
        return [row for row in self.rows if row.get("error") is None]

    @cached_property
    def places(self) -> list[str]:
        """The columns that say where in the grid a row is and that vary; n_main last."""
        differ, _ = varying(self.good, statistics.PLACES)
        if "solver" in differ and not self._several_solvers():
            differ.remove("solver")
        return [*differ, *(name for name in self.by if name not in differ), "n_main"]

    @cached_property
    def factors(self) -> bool:
        """Whether there are several rescale factors."""
        return len({row.get("rescale") for row in self.good} - {None}) > 1

    def _several_solvers(self) -> bool:
        """Whether a setup has rows of several solvers; else the solver follows from the setup."""
        pairs = {(row.get("setup"), row.get("solver")) for row in self.good}
        return len(pairs) > len({setup for setup, _ in pairs})

    @property
    def same(self) -> str:
        """What all rows have in common, in words."""
        _, same = varying(self.good, (*statistics.PLACES, "setup", "rescale"))
        return ", ".join(f"{name} {spelled(value)}" for name, value in same.items())

    @cached_property
    def table(self) -> statistics.Table:
        """The cells by place and treatment."""
        places = [*self.places, "setup", "rescale"]
        return statistics.by_treatment(statistics.cells(self.good, self.value, places, self.log))

    def sizes(self) -> list[int | None]:
        """Return every n_main, in order."""
        return sorted({row.get("n_main") for row in self.good}, key=lambda n: statistics.order("n_main", n))

    def name(self, treatment: statistics.Treatment) -> str:
        """Name a setup, with its rescale factor where several are used."""
        setup, factor = treatment
        return f"{setup or ''}" if factor is None or not self.factors else f"{setup or ''} s={factor:g}"

    def kind(self) -> str:
        """Say what is shown of each cell."""
        return f"{self.value}: {kind_of_mean(self.log)}"


def means(query: Query) -> Sheet:
    """Return means by cell: a line for each setup and place in the grid, n_main across."""
    *places, _ = query.places
    names = [*places, "setup", *(["rescale"] if query.factors else []), "n_main"]
    sizes = query.sizes()
    known = any(row.get("converged") is not None for row in query.good)
    columns = [*names[:-1], *map(size_column, sizes), "seeds", "converged", "failed"]
    sheet = Sheet(query.kind(), columns, labels=len(names) - 1)
    sheet.notes += _notes(query, names)
    for line, by_size in _across(statistics.cells(query.rows, query.value, names, query.log).items()).items():
        stats = [by_size[n].stat if n in by_size else None for n in sizes]
        members = list(by_size.values())
        if not any(stats) and not any(cell.failed for cell in members):
            continue
        seeds, failed = _range(stat.seeds for stat in stats if stat), sum(cell.failed for cell in members)
        numbers = [
            *(spelled_mean(stat, query.log) for stat in stats),
            seeds,
            _converged(members, known),
            str(failed or ""),
        ]
        sheet.rows.append([*map(spelled, line), *numbers])
    return sheet.without_empty("setup", "converged", "failed")


def means_in_full(query: Query) -> Sheet:
    """Return the same as numbers, a line for each cell."""
    names = [*query.places[:-1], "setup", "rescale", "n_main"]
    unit = "mean_log10" if query.log else "mean"
    columns = [*names, unit, "se", "seeds", "runs", "converged", "failed"]
    sheet = Sheet(query.kind(), columns, labels=len(names))
    for key, cell in statistics.cells(query.rows, query.value, names, query.log).items():
        counts = [str(n) for n in (cell.runs, cell.converged, cell.failed)]
        sheet.rows.append([*map(_joined, key), *_numbers(cell.stat), *counts])
    return sheet


RULE = (
    f"* clear: p < {LEVEL:g} by Student's paired test with {FEWEST} seeds or more; with {FLIPPED[0]} to "
    f"{FLIPPED[-1]} the exact sign-flip test agrees, which fewer seeds cannot bring below {LEVEL:g}"
)
_NEAR = f"~ near the threshold: p is from {NEAR[0]:g} to {NEAR[1]:g}, or the two tests disagree"
_NEEDED = (
    f"[n]: not decided; about n seeds would decide with probability {POWER:g}, if difference and spread stay"
)


def pairs(query: Query, baseline: str) -> Sheet:
    """Return paired differences: a line for each pair of setups and place in the grid, n_main across.

    Args:
        query: Rows, and how they are looked at.
        baseline: The setup that all others are compared with.
    """
    places, sizes = query.places[:-1], query.sizes()
    unit = f"log10 {query.value}" if query.log else query.value
    seeds = any(row.get("seed") is not None for row in query.good)
    how = "paired by seed (in how many seeds it is lower)" if seeds else "of means over different seeds"
    columns = ["setup", "against", *places, *map(size_column, sizes)]
    sheet = Sheet(f"{unit}: mean difference ± standard error, {how}", columns, labels=2 + len(places))
    table = query.table
    found = list(statistics.differences(table, baseline))
    for (one, other, *place), by_size in _across(
        ((d.treatment, d.baseline, *d.place), d) for d in found
    ).items():
        fields = [_difference(by_size[n]) if n in by_size else "-" for n in sizes]
        sheet.rows.append([query.name(one), query.name(other), *map(spelled, place), *fields])
    sheet.notes += [RULE, *_signs(found)]
    tested = sum(one.known for one in found)
    if tested > 1:
        sheet.notes.append(
            f"{tested} comparisons: where nothing differs, {LEVEL * tested:.2g} stars are expected by chance"
        )
    if few := sum(not one.known for one in found):
        sheet.notes.append(f"{few} comparisons share fewer than {FEWEST} seeds, which never have a star")
    values = [
        table[place][one].stat and table[place][two].stat for place, one, two in comparisons(table, baseline)
    ]
    if apart := sum(map(bool, values)) - len(found):
        sheet.notes.append(f"{apart} comparisons share no seed, so that nothing is paired")
    return sheet


def _signs(found: Iterable[statistics.Difference]) -> list[str]:
    """Explain what :func:`_sign` wrote."""
    signs = "".join(map(_sign, found))
    return [_NEAR] * ("~" in signs) + [_NEEDED] * ("[" in signs)


def _sign(found: statistics.Difference) -> str:
    """Write a verdict: whether it is clear, hangs by a thread, and how many seeds would decide."""
    undecided = not found.clear and found.stat.seeds > 1
    needed = f" [{found.needed or f'>{MOST}'}]" if undecided else ""
    return f"{'*' if found.clear else ''}{'~' if found.near else ''}{needed}"


def pairs_in_full(query: Query, baseline: str) -> Sheet:
    """Return the same as numbers, with 95 % intervals, a line for each pair of cells."""
    names = ["setup", "rescale", "against", "against_rescale", *query.places]
    columns = ["difference_log10" if query.log else "difference", "se", "low_95", "high_95", "seeds", "lower"]
    sheet = Sheet("paired differences", [*names, *columns], labels=len(names))
    for found in statistics.differences(query.table, baseline):
        mean, error, seeds = _numbers(found.stat)
        values = [mean, error, *map(exact, found.interval), seeds]
        key = [*found.treatment, *found.baseline, *found.place]
        sheet.rows.append([*map(_joined, key), *values, "" if found.lower is None else str(found.lower)])
    return sheet


def who_wins(query: Query) -> Sheet:
    """Return the best setup of each cell: a line for each place in the grid, n_main across.

    Args:
        query: Rows, and how they are looked at; whether more is better must be known.
    """
    places, sizes = query.places[:-1], query.sizes()
    better = "highest" if query.higher else "lowest"
    title = f"Who wins: the {better} mean {query.value}; tie: the runner-up is not clearly behind"
    sheet = Sheet(title, [*places, *map(size_column, sizes)], labels=len(places), wrap=True)
    won = list(statistics.winners(query.table, bool(query.higher)))
    unsure = {False: "tie", None: "too few seeds"}
    counts = Counter(query.name(w.best) if w.decided else unsure[w.decided] for w in won)
    for line, by_size in _across((w.place, w) for w in won).items():
        fields = [_winner(query, by_size[n]) if n in by_size else "-" for n in sizes]
        sheet.rows.append([*map(spelled, line), *fields])
    ranked = sorted(counts.items(), key=lambda item: (item[0] in unsure.values(), -item[1]))
    sheet.notes.append(f"cells won: {', '.join(f'{name} {count}' for name, count in ranked)}")
    sheet.notes += [RULE.replace("* clear", "clear"), *_signs(w.difference for w in won if w.difference)]
    if counts["too few seeds"]:
        sheet.notes.append(f"? the two share fewer than {FEWEST} seeds, too few to decide")
    return sheet


def failures(rows: Iterable[Row]) -> list[str]:
    """Return a line on the runs that failed, the commonest errors first; none where none did."""
    errors = Counter(row["error"] for row in rows if row.get("error") is not None)
    if not errors:
        return []
    shown = [f"{text} ({count})" for text, count in errors.most_common(3)]
    more = f"; and {len(errors) - 3} other errors" if len(errors) > 3 else ""
    return [f"{errors.total()} runs failed and are left out: {'; '.join(shown)}{more}"]


def _across(found: Iterable[tuple[statistics.Key, T]]) -> dict[statistics.Key, dict[Any, T]]:
    """Return what there is of each line of a table, by n_main, which is the last part of every key."""
    lines: dict[statistics.Key, dict[Any, T]] = {}
    for (*line, n), one in found:
        lines.setdefault(tuple(line), {})[n] = one
    return lines


def size_column(n: int | None) -> str:
    """Name the column of an n_main."""
    return "all" if n is None else f"n {n}"


def _notes(query: Query, names: list[str]) -> list[str]:
    notes = [f"all rows: {query.same}"] if query.same else []
    empty = sum(row.get(query.value) is None for row in query.good)
    if empty:
        notes.append(f"{empty} of {len(query.good)} runs have no {query.value}")
    if "task" in names:
        notes.append(
            "rows of different tasks are not compared; the row of a run of several tasks is of main or its "
            "first: --value TASK/test_accuracy compares another, lit-aux trajectories all of them"
        )
    if statistics.repeated(query.rows, query.value, names):
        notes.append(
            "a seed has several runs in some cells, which differ in options that are no column; their mean "
            "counts (--by OPTION tells them apart)"
        )
    return notes + failures(query.rows)


def _difference(found: statistics.Difference) -> str:
    stat = found.stat
    if stat.error != stat.error:
        return f"{stat.mean:+.3g} (1 seed)"
    count = "" if found.lower is None else f" ({found.lower}/{stat.seeds})"
    return f"{stat.mean:+.3g} ± {stat.error:.2g}{count}{_sign(found)}"


def _winner(query: Query, found: statistics.Winner) -> str:
    best, second = query.name(found.best), query.name(found.second)
    sign = "" if found.difference is None else _sign(found.difference).replace("*", "")
    if found.decided is None:
        return f"{best}?{sign}"
    return f"{best}{sign}" if found.decided else f"tie: {best}, {second}{sign}"


def _converged(members: Iterable[statistics.CellValues], known: bool) -> str:
    pairs = [(cell.converged, cell.runs) for cell in members]
    done, runs = (sum(column) for column in zip(*pairs, strict=True))
    return f"{done}/{runs}" if known else ""


def _range(counts: Iterable[int]) -> str:
    found = sorted({*counts}) or [0]
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _numbers(stat: Stat | None) -> list[str]:
    """Write mean, standard error and number of seeds in full."""
    return ["", "", "0"] if stat is None else [repr(stat.mean), exact(stat.error), str(stat.seeds)]


def _joined(value: Any) -> str:
    """Write a value as the results table does."""
    return "|".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)


# Ours beside published ones


def beside(comparison: ReferenceComparison) -> list[Sheet]:
    """Return two tables: ours / published with n_main across, and how many cells agree by setup."""
    sizes = list(dict.fromkeys(cell.key[-1] for cell in sorted(comparison.cells, key=lambda c: c.key[-1])))
    places = comparison.names[:-1]
    mean = "geometric means" if comparison.log else "means"
    title = f"{comparison.value}, ours / published ({mean} over seeds)"
    sheet = Sheet(title, [*places, *map(size_column, sizes)], labels=len(places))
    for line, by_size in _across((cell.key, cell) for cell in comparison.cells).items():
        fields = [_both(by_size[n], comparison.log) if n in by_size else "" for n in sizes]
        sheet.rows.append([*map(spelled, line), *fields])
    rule = "means differ by at most"
    rule = f"log10 {rule} the larger of 0.05 and" if comparison.log else rule
    sheet.notes.append(f"! does not agree; cells agree where {rule} 2 standard errors of the difference")
    fewer = sum(c.ours is not None and c.ours.seeds < c.published.seeds for c in comparison.cells)
    if fewer:
        sheet.notes.append(f"{fewer} cells have fewer seeds than the published ones")
    return [sheet, tally(comparison)]


def tally(comparison: ReferenceComparison) -> Sheet:
    """Return how many cells agree by setup."""
    sheet = Sheet("Cells that agree with the published ones", ["setup", "agree", "compared", "published"])
    counts = comparison.by_setup()
    for setup, numbers in counts.items():
        sheet.rows.append([setup, *map(str, numbers)])
    if len(counts) > 1:
        sheet.rows.append(["all", *(str(sum(column)) for column in zip(*counts.values(), strict=True))])
    return sheet


def in_full(comparison: ReferenceComparison) -> Sheet:
    """Return every cell as numbers, a line each."""
    unit = "_log10" if comparison.log else ""
    numbers = [f"ours{unit}", "se", "seeds", f"published{unit}", "published_se", "published_seeds"]
    sheet = Sheet("ours beside published", [*comparison.names, *numbers, "allowed", "agrees"])
    for cell in comparison.cells:
        key = ["|".join(map(str, v)) if isinstance(v, tuple) else spelled(v) for v in cell.key]
        agrees = "" if cell.ours is None else str(cell.agrees).lower()
        sheet.rows.append([*key, *_numbers(cell.ours), *_numbers(cell.published), repr(cell.allowed), agrees])
    return sheet


def _both(cell: Compared, log: bool) -> str:
    published = _short(cell.published.mean, log)
    if cell.ours is None:
        return f"- / {published}"
    return f"{_short(cell.ours.mean, log)} / {published}{'' if cell.agrees else ' !'}"


def _short(mean: float, log: bool) -> str:
    return f"{10**mean:.3g}" if log else f"{mean:.3f}"
