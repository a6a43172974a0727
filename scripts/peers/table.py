"""Everything that is compared with what people would use instead, by subject."""

import time
from collections.abc import Callable, Sequence

from .comparison import Clock, Row
from .dimensionality import dimensionality
from .few_shot import few_shot
from .finetuning import finetuning
from .gradient_balancing import gradient_balancing
from .multi_task import multi_task
from .sweep import short_runs

SUBJECTS: dict[str, Callable[[int, Clock, bool], list[Row]]] = {
    "few-shot": few_shot,
    "multi-task": multi_task,
    "gradient-balancing": gradient_balancing,
    "dimensionality": dimensionality,
    "finetuning": finetuning,
    "short-runs": short_runs,
}


def benchmark_peers(
    repetitions: int = 5,
    clock: Clock = time.perf_counter,
    quick: bool = False,
    subjects: Sequence[str] = tuple(SUBJECTS),
) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    return [row for name in subjects for row in SUBJECTS[name](repetitions, clock, quick)]
