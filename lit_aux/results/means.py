"""Means over seeds with standard errors: the one rule of all that prints them, without torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, isnan, log10, nan, sqrt
from statistics import fmean
from typing import Any

LOSSES = ("loss_best", "loss_final", "train_loss")
TIMES = "\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}"
_SMALLEST = 1e-30  # as the comparison with published tables has it, lest a loss of 0 have no logarithm


@dataclass(frozen=True)
class Stat:
    """A mean and how sure it is.

    Attributes:
        mean: On the scale that was asked for.
        error: Its standard error; NaN where it is not known, of one seed say.
        seeds: How many there were.
    """

    mean: float
    error: float
    seeds: int

    @property
    def two_sd(self) -> float:
        """Twice the standard deviation of the values (divisor n - 1); NaN where that is not known."""
        return 2 * self.error * sqrt(self.seeds)


def mean_of(values: Sequence[float]) -> Stat:
    """Return the mean of values, one a seed, and its standard error: NaN where values are not finite."""
    mean, count = fmean(values), len(values)
    known = count > 1 and isfinite(mean)
    error = sqrt(fsum((value - mean) ** 2 for value in values) / (count - 1) / count) if known else nan
    return Stat(mean, error, count)


def stat_of(values: Iterable[float | None]) -> Stat | None:
    """Return the mean of the values that are there; None and NaN are left out. None where there are none."""
    known = [value for value in values if value is not None and not isnan(value)]
    return mean_of(known) if known else None


def scaled(value: float, log: bool) -> float:
    """Return a value on the scale on which means are taken: its own, or log10."""
    return log10(max(value, _SMALLEST)) if log else value


def unscaled_error(error: float, mean: float) -> float:
    """Return the standard error of a mean of log10, to first order, of that of the mean itself."""
    return error / max(mean, _SMALLEST) / 2.302585092994046


def is_log(rows: Iterable[Mapping[str, Any]], value: str) -> bool:
    """Return whether means are better taken of logarithms: of losses, but not those of classifiers.

    Args:
        rows: Of a results table, read or as they are written there; classifiers' have an ``accuracy``.
        value: The column.
    """
    return value in LOSSES and all(row.get("accuracy") in (None, "") for row in rows)


def spelled_mean(stat: Stat | None, log: bool) -> str:
    """Write a mean and its standard error; of means of log10, the factor of one standard error."""
    if stat is None:
        return "-"
    mean = 10**stat.mean if log else stat.mean
    if isnan(stat.error):
        return f"{mean:.4g}"
    if log:
        return f"{mean:.3g} {TIMES}{10**stat.error:.2f}"
    return f"{mean:.4g} ± {stat.error:.2g}"


def kind_of_mean(log: bool) -> str:
    """Say what :func:`spelled_mean` writes."""
    if log:
        return f"geometric mean over seeds {TIMES} the factor of one standard error"
    return "mean ± standard error over seeds"


def bar(stat: Stat | None, log: bool) -> tuple[float, float, float]:
    """Return a mean and the ends of a bar of two standard errors, on the values' scale; NaN if not known.

    Args:
        stat: Of values or, if ``log``, of log10 of them.
        log: Which.
    """
    if stat is None:
        return nan, nan, nan
    ends = stat.mean, stat.mean - 2 * stat.error, stat.mean + 2 * stat.error
    return tuple(10**end for end in ends) if log else ends  # type: ignore[return-value]
