"""Gradients of the flow against those of the specification's table, and where it ends."""

from collections.abc import Iterator

from lit_aux.integrators import GradientFlow

from .flow_problems import Problem, follow
from .plain_students import Clock, Row

TABLE: list[tuple[str, Problem, float, int]] = [
    ("ReLU, n 256", Problem("relu", 256), 1e-2, 1163),
    ("ReLU, n 256", Problem("relu", 256), 3e-2, 873),
    ("ReLU, n 64", Problem("relu", 64), 1e-2, 836),
    ("diagonal MTL, + 64, overlap 20", Problem("diagonal", 64, 20), 1e-2, 13694),
    ("diagonal MTL, + 128, overlap 20", Problem("diagonal", 128, 20), 1e-2, 9100),
    ("diagonal MTL, + 256, overlap 0", Problem("diagonal", 256, 0), 1e-2, 7614),
]
"""What is followed, at which tolerance, and the gradients in the specification's table."""


def table(clock: Clock, quick: bool) -> Iterator[Row]:
    """Print the gradients, the test loss and how it moves when the tolerance is a tenth."""
    default = GradientFlow().tolerance
    for what, asked, tolerance, evaluations in TABLE[::3] if quick else TABLE:
        problem = Problem(asked.network, asked.n_main, asked.overlap, quick)
        run = follow(problem, GradientFlow(tolerance), clock, watched=True)
        yield f"{what}, tolerance {tolerance}: gradients", run.evaluations, f"<= {evaluations}"
        yield "  test loss at the end", run.final, ""
        yield "  smallest test loss", run.best, ""
        if tolerance == default:
            finer = follow(problem, GradientFlow(tolerance / 10), clock, watched=True)
            yield (
                "  change of the smallest with a tenth of the tolerance",
                abs(run.best / finer.best - 1),
                "<= 0.02",
            )
