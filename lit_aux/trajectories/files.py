"""The tables of ``lit-aux trajectories`` as CSV files: every number in full."""

from collections.abc import Iterable
from math import isnan

from lit_aux.tables.sheet import Sheet
from lit_aux.trajectories.analysis import Analysis
from lit_aux.trajectories.comparison import Comparison
from lit_aux.trajectories.verdict import missing

_COMPARED = ("single", "single_2sd", "multi", "multi_2sd", "change", "change_2sd", "significant")


def tables(found: Analysis) -> dict[str, Sheet]:
    """Return the tables by the name of their file.

    Everywhere ``_2sd`` is two standard deviations over seeds, ``change`` multi-task minus single-task,
    ``change_2sd`` that of the differences by seed, and ``significant`` whether the intervals around
    ``single`` and ``multi`` do not overlap. What is not known is empty.
    """
    return {
        "transfer.csv": _transfer(found),
        "gap.csv": _gap(found),
        "gap_curves.csv": _gap_curves(found),
        "factors.csv": _factors(found),
        "verdict.csv": _verdict(found),
        "runs.csv": _runs(found),
    }


def _transfer(found: Analysis) -> Sheet:
    made = Sheet("transfer", ["method", "task", "metric", "select", *_COMPARED, "single_runs", "multi_runs"])
    for r in found.results:
        runs = [str(r.transfer.single.count), str(r.transfer.multi.count)]
        made.rows.append([r.method, r.task, found.metric, found.select, *_compared(r.transfer), *runs])
    return made


def _gap(found: Analysis) -> Sheet:
    columns = ["method", "task", "metric", "loss_high", "loss_low", *_COMPARED, "share_higher", "share_lower"]
    made = Sheet("gap", columns)
    for r in found.results:
        fields = [""] * (len(columns) - 3)
        if r.gap is not None and r.gap_mean is not None:
            shares = (r.gap.share_higher, r.gap.share_lower)
            fields = [*_exact(r.gap.losses), *_compared(r.gap_mean), *_exact(shares)]
        made.rows.append([r.method, r.task, found.metric, *fields])
    return made


def _gap_curves(found: Analysis) -> Sheet:
    made = Sheet("curves", ["method", "task", "train_loss", *_COMPARED[:5], "significant"])
    for r in found.results:
        if r.gap is None:
            continue
        single, multi = r.gap.single, r.gap.multi
        columns = (single.loss, single.mean, single.two_sd, multi.mean, multi.two_sd, r.gap.difference)
        for *numbers, significant in zip(*columns, r.gap.significant, strict=True):
            made.rows.append([r.method, r.task, *_exact(numbers), _truth(bool(significant))])
    return made


def _factors(found: Analysis) -> Sheet:
    made = Sheet("factors", ["method", "task", "factor", "summary", *_COMPARED])
    for r in found.results:
        for factor in found.factors:
            if factor.measure in r.factors:
                numbers = _compared(r.factors[factor.measure])
                made.rows.append([r.method, r.task, factor.measure, factor.summary, *numbers])
    return made


def _verdict(found: Analysis) -> Sheet:
    columns = ["method", "task", "factor", "verdict", "not_significant", "transfer", "change"]
    made = Sheet("verdict", columns)
    for r in found.results:
        for name, verdict in r.verdicts.items():
            change = r.factors[name]
            numbers = _exact((r.transfer.change, change.change))
            made.rows.append([r.method, r.task, name, verdict, missing(change, r.transfer), *numbers])
    return made


def _runs(found: Analysis) -> Sheet:
    """Return the one number of every run behind the means: what it reached, and its factors."""
    made = Sheet("runs", ["method", "seed", "task", "quantity", "value"])
    rows: dict[tuple[str, ...], None] = {}  # single-task runs are compared with every method
    for r in found.results:
        alone = found.study.single[r.task][0].method
        for name, compared in {f"test_{found.metric}": r.transfer, **r.factors}.items():
            for method, runs in ((alone, compared.single_runs), (r.method, compared.multi_runs)):
                for seed, value in runs:
                    rows[method, "" if seed is None else str(seed), r.task, name, *_exact([value])] = None
    made.rows = [list(row) for row in rows]
    return made


def _compared(found: Comparison) -> list[str]:
    single, multi = found.single, found.multi
    numbers = (single.mean, single.two_sd, multi.mean, multi.two_sd, found.change, found.paired_two_sd)
    return [*_exact(numbers), _truth(found.significant)]


def _exact(numbers: Iterable[float]) -> list[str]:
    return ["" if isnan(number) else repr(float(number)) for number in numbers]


def _truth(value: bool) -> str:
    return str(value).lower()
