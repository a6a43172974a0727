"""The factors of a trajectory that have been said to explain generalization."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lit_aux.trajectories.reading import Series

CHECKPOINTS = 20
Summary = Literal["last", "largest", "mean"]
SUMMARIES: Mapping[Summary, str] = {
    "last": f"mean of the last {CHECKPOINTS} checkpoints",
    "largest": f"mean of the {CHECKPOINTS} largest values of training",
    "mean": "mean over training",
}


@dataclass(frozen=True)
class Factor:
    """A measure of the way a network was trained, and what it is said to do.

    Attributes:
        measure: Its name in ``trajectory.csv``.
        title: For people.
        callback: What measures it.
        summary: How its values over training become one number.
        sign: -1 where a lower value is said to generalize better, 1 where a higher one is; 0 where nothing
            is said, so that it gets no verdict.
        source: Who said so.
    """

    measure: str
    title: str
    callback: str
    summary: Summary
    sign: Literal[-1, 0, 1]
    source: str


_FLAT = "lower is flatter: Andriushchenko et al. 2023, arXiv 2302.07011"
_COHERENT = "lower is more coherent: Chatterjee 2020, arXiv 2002.10657"
_EARLY = "lower, early: Jastrzebski et al. 2021, arXiv 2012.14193"
_AGREEING = "higher is less conflict: Yu et al. 2020, arXiv 2001.06782"
FACTORS = (
    Factor("sharpness", "sharpness", "Sharpness", "last", -1, _FLAT),
    Factor("gradient_variance", "gradient variance", "GradientCoherence", "last", -1, _COHERENT),
    Factor("gradient_norm", "gradient norm", "GradientCoherence", "last", 0, ""),
    Factor("fisher_trace", "Fisher trace", "FisherTrace", "largest", -1, _EARLY),
    Factor("conflict", "conflict cosine", "GradientConflict", "mean", 1, _AGREEING),
)
"""Every factor, in the order of the tables."""


def summarize(series: Series, how: Summary) -> float | None:
    """Return the one number that stands for a factor's values over training; None without any.

    What was measured before the first step does not count.

    Args:
        series: The factor of one task in one run.
        how: One of :data:`SUMMARIES`; of fewer than 20 values all count.
    """
    values = series.after_start().value
    values = np.sort(values) if how == "largest" else values
    values = values if how == "mean" else values[-CHECKPOINTS:]
    return float(values.mean()) if len(values) else None
