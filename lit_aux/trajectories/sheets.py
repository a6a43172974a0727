"""The tables of ``lit-aux trajectories``: in the terminal, and as CSV files with every number in full."""

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from typing import TypeAlias

from lit_aux.results.means import Stat
from lit_aux.results.sheet import Sheet, exact
from lit_aux.trajectories.analysis import Analysis, TaskAnalysis
from lit_aux.trajectories.contrast import CAUTION, VERDICTS, Contrast, missing
from lit_aux.trajectories.factors import SUMMARIES
from lit_aux.trajectories.transfer import CHECKPOINTS, LAST

STAR = (
    "* the intervals (mean ± 2 standard deviations over seeds) of single and multi do not overlap, "
    "with three runs or more each"
)
ARROW = "\N{RIGHTWARDS ARROW}"
_SHARES = ("share_higher", "share_lower")
_COMPARED = ("single", "single_2sd", "multi", "multi_2sd", "change", "change_2sd", "significant")


def sheets(found: Analysis) -> list[Sheet]:
    """Return every table, in the order in which they are read."""
    tables = [transfer(found), gaps(found)]
    if found.factors:
        tables.append(changes(found))
    if any(result.verdicts for result in found.results):
        tables += [verdicts(found), counts(found)]
    return tables


def transfer(found: Analysis) -> Sheet:
    """Return the test metric that both kinds of runs reached, and the difference."""

    def fields(result: TaskAnalysis) -> list[str]:
        moved = result.transfer
        numbers = [_spread(moved.single), _spread(moved.multi), _signed(moved.change, moved.significant)]
        return [*numbers, f"{moved.single.seeds}+{moved.multi.seeds}"]

    title = f"Transfer: test {found.metric}, multi-task minus single-task; {chosen(found)}"
    return _by_task(found, title, ["single", "multi", "transfer", "runs"], fields, STAR)


def gaps(found: Analysis) -> Sheet:
    """Return the difference at equal training loss, and over which losses."""

    def fields(result: TaskAnalysis) -> list[str]:
        if result.gap is None or result.gap_mean is None:
            return ["none in common", "-", "-", "-"]
        high, low = result.gap.losses
        shares = [f"{share:.0%}" for share in (result.gap.share_higher, result.gap.share_lower)]
        mean = result.gap_mean
        return [f"{high:.3g} to {low:.3g}", _signed(mean.change, mean.significant), *shares]

    what = f"test {found.metric} of multi-task minus single-task at the same training loss"
    note = "higher, lower in: the part of the losses (in log loss) at which the intervals do not overlap"
    columns = ["losses", "mean gap", "higher in", "lower in"]
    return _by_task(found, f"Generalization gap: {what}", columns, fields, note)


def changes(found: Analysis) -> Sheet:
    """Return every factor in single-task and in multi-task runs."""

    def fields(result: TaskAnalysis) -> list[str]:
        found_changes = (result.factors.get(factor.measure) for factor in found.factors)
        return ["-" if change is None else _moved(change) for change in found_changes]

    notes = [
        f"{how}: {', '.join(factor.title for factor in found.factors if factor.summary == name)}"
        for name, how in SUMMARIES.items()
        if any(factor.summary == name for factor in found.factors)
    ]
    titles = [factor.title for factor in found.factors]
    return _by_task(found, f"Factors: single-task {ARROW} multi-task", titles, fields, *notes)


def verdicts(found: Analysis) -> Sheet:
    """Return what every factor says of every task's transfer."""
    judged = [factor for factor in found.factors if factor.sign]

    def fields(result: TaskAnalysis) -> list[str]:
        moved = result.transfer
        better = (moved.change > 0) == found.higher
        said = ("better" if better else "worse") if moved.significant else "insignificant"
        return [said, *(result.verdicts.get(factor.measure) or "-" for factor in judged)]

    title = "Verdict: does the factor's change have the sign that would explain the transfer?"
    notes = [f"{factor.title}: {factor.source}" for factor in judged]
    last = "insignificant: the transfer or the factor's change has no star above"
    return _by_task(found, title, ["transfer", *(factor.title for factor in judged)], fields, *notes, last)


def counts(found: Analysis) -> Sheet:
    """Return how many tasks each factor explains."""
    made = Sheet("Tasks by verdict", ["method", "factor", *VERDICTS], labels=2, notes=[CAUTION])
    for method in found.study.multi:
        for factor in found.factors:
            of_tasks = [r.verdicts.get(factor.measure) for r in found.results if r.method == method]
            if factor.sign and any(of_tasks):
                made.rows.append([method, factor.title, *(str(of_tasks.count(v)) for v in VERDICTS)])
    return _with_methods(made)


def chosen(found: Analysis) -> str:
    """Say which checkpoints count."""
    if found.select == LAST:
        return f"mean of the last {CHECKPOINTS} checkpoints"
    return f"mean of the {CHECKPOINTS} checkpoints with the best {found.select}"


def _by_task(
    found: Analysis,
    title: str,
    columns: Sequence[str],
    fields: Callable[[TaskAnalysis], list[str]],
    *notes: str,
) -> Sheet:
    """Return a table with a row for each method and task."""
    rows = [[result.method, result.task, *fields(result)] for result in found.results]
    return _with_methods(Sheet(title, ["method", "task", *columns], rows, 2, [*notes]))


def _with_methods(made: Sheet) -> Sheet:
    """Leave the methods out where there is one, and say it in the title."""
    methods = {row[0] for row in made.rows}
    if len(methods) != 1:
        return made
    title = f"{made.title} ({methods.pop()})"
    rows = [row[1:] for row in made.rows]
    return Sheet(title, made.columns[1:], rows, made.labels - 1, made.notes, made.wrap)


def _spread(spread: Stat) -> str:
    return f"{spread.mean:.4g}" + ("" if isnan(spread.two_sd) else f" ± {spread.two_sd:.2g}")


def _signed(value: float, significant: bool) -> str:
    return f"{value:+.3g}" + ("*" if significant else " ")


def _moved(change: Contrast) -> str:
    star = "*" if change.significant else " "
    return f"{change.single.mean:.3g} {ARROW} {change.multi.mean:.3g}{star}"


# As CSV files


def tables(found: Analysis) -> dict[str, Sheet]:
    """Return the tables by the name of their file.

    Everywhere ``_2sd`` is two standard deviations over seeds, ``change`` multi-task minus single-task,
    ``change_2sd`` that of the differences by seed, and ``significant`` whether the intervals around
    ``single`` and ``multi`` do not overlap. What is not known is empty.
    """
    return {name: Sheet(name, columns, list(rows(found))) for name, (columns, rows) in _FILES.items()}


Rows: TypeAlias = Iterator[list[str]]


def _transfer_rows(found: Analysis) -> Rows:
    for r in found.results:
        runs = [str(r.transfer.single.seeds), str(r.transfer.multi.seeds)]
        yield [r.method, r.task, found.metric, found.select, *_compared(r.transfer), *runs]


def _gap_rows(found: Analysis) -> Rows:
    for r in found.results:
        fields = [""] * (4 + len(_COMPARED))
        if r.gap is not None and r.gap_mean is not None:
            shares = (r.gap.share_higher, r.gap.share_lower)
            fields = [*map(exact, r.gap.losses), *_compared(r.gap_mean), *map(exact, shares)]
        yield [r.method, r.task, found.metric, *fields]


def _curve_rows(found: Analysis) -> Rows:
    for r in found.results:
        if r.gap is None:
            continue
        single, multi = r.gap.single, r.gap.multi
        columns = (single.loss, single.mean, single.two_sd, multi.mean, multi.two_sd, r.gap.difference)
        for *numbers, significant in zip(*columns, r.gap.significant, strict=True):
            yield [r.method, r.task, *map(exact, numbers), _truth(bool(significant))]


def _factor_rows(found: Analysis) -> Rows:
    for r in found.results:
        for factor in found.factors:
            if (change := r.factors.get(factor.measure)) is not None:
                yield [r.method, r.task, factor.measure, factor.summary, *_compared(change)]


def _verdict_rows(found: Analysis) -> Rows:
    for r in found.results:
        for name, verdict in r.verdicts.items():
            change = r.factors[name]
            numbers = map(exact, (r.transfer.change, change.change))
            yield [r.method, r.task, name, verdict, missing(change, r.transfer), *numbers]


def _run_rows(found: Analysis) -> Rows:
    """Yield the one number of every run behind the means: what it reached, and its factors."""
    rows: dict[tuple[str, ...], None] = {}  # single-task runs are compared with every method
    for r in found.results:
        alone = found.study.single[r.task][0].method
        for name, compared in {f"test_{found.metric}": r.transfer, **r.factors}.items():
            for method, runs in ((alone, compared.single_runs), (r.method, compared.multi_runs)):
                for seed, value in runs:
                    rows[method, "" if seed is None else str(seed), r.task, name, exact(value)] = None
    yield from map(list, rows)


_OF = ("method", "task")
_FILES: dict[str, tuple[tuple[str, ...], Callable[[Analysis], Rows]]] = {
    "transfer.csv": ((*_OF, "metric", "select", *_COMPARED, "single_runs", "multi_runs"), _transfer_rows),
    "gap.csv": ((*_OF, "metric", "loss_high", "loss_low", *_COMPARED, *_SHARES), _gap_rows),
    "gap_curves.csv": ((*_OF, "train_loss", *_COMPARED[:5], "significant"), _curve_rows),
    "factors.csv": ((*_OF, "factor", "summary", *_COMPARED), _factor_rows),
    "verdict.csv": ((*_OF, "factor", "verdict", "not_significant", "transfer", "change"), _verdict_rows),
    "runs.csv": (("method", "seed", "task", "quantity", "value"), _run_rows),
}


def _compared(found: Contrast) -> list[str]:
    single, multi = found.single, found.multi
    numbers = (single.mean, single.two_sd, multi.mean, multi.two_sd, found.change, found.paired_two_sd)
    return [*map(exact, numbers), _truth(found.significant)]


def _truth(value: bool) -> str:
    return str(value).lower()
