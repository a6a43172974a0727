"""Whether a factor's change has the sign that would explain a task's transfer."""

from typing import Literal

from lit_aux.trajectories.comparison import Comparison

Verdict = Literal["explains", "contradicts", "insignificant"]
VERDICTS: tuple[Verdict, ...] = ("explains", "contradicts", "insignificant")
CAUTION = (
    "The factors are diagnostic, not predictive: a sign that fits is no cause, and where many tasks and "
    "factors are compared some signs fit by chance. Mueller et al. (arXiv 2408.14677) find that none of them "
    "explains multi-task transfer."
)


def judge(change: Comparison, transfer: Comparison, sign: int, higher: bool) -> Verdict:
    """Return what a factor's change says of a task's transfer.

    Args:
        change: The factor in single-task and multi-task runs.
        transfer: The test metric in the same runs.
        sign: -1 where a lower factor is said to generalize better, 1 where a higher one is.
        higher: Whether more of the test metric is better.
    """
    if not (change.significant and transfer.significant):
        return "insignificant"
    promised = change.change * sign > 0
    better = (transfer.change > 0) == higher
    return "explains" if promised == better else "contradicts"


def missing(change: Comparison, transfer: Comparison) -> str:
    """Return which of the two differences is not significant, in words; nothing where both are."""
    parts = {"transfer": transfer.significant, "change": change.significant}
    return " and ".join(name for name, significant in parts.items() if not significant)
