"""Steps of many students at once against a plain loop, one run at a time, and what a replica occupies.

Both descend on all rows, at lr .1 and in float32 as published, and look at every loss. The plain loop is one
``nn.Module`` with autograd and ``torch.optim.SGD``.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median

from lit_aux.integrators import GradientDescent
from lit_aux.models import DiagonalNet

from .plain_students import Batch, Clock, Row, diagonal, plain, plain_loop, relu
from .student_memory import memory_rows

LR = 0.1


def _stepper(students: Batch) -> Callable[[int], object]:
    """Return what takes so many steps of all replicas."""
    descent = GradientDescent(LR)
    state = descent.start(students.objective(), students.start())
    return lambda steps: descent.advance(state, steps)


def _plain_stepper(students: Batch) -> Callable[[int], object]:
    """Return what takes so many steps of the first replica alone."""
    network = plain(students.net)
    x, y = students.data.train_set(0, "main")
    return lambda steps: plain_loop(network, x, y[:, 0], LR, steps)


def throughput(students: Batch, repetitions: int, clock: Clock, steps: int) -> tuple[float, float]:
    """Return replica-steps per second of the batch, and the median ratio to the plain loop's, in turns."""
    ours, theirs = _stepper(students), _plain_stepper(students)
    runs = {ours: max(1, steps // students.net.replicas), theirs: steps}
    pairs = []
    for number in range(repetitions + 1):
        seconds = {}
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            start = clock()
            run(runs[run])
            seconds[run] = (clock() - start) / runs[run]
        if number:  # the first round fills the caches
            pairs.append((seconds[ours] / students.net.replicas, seconds[theirs]))
    return 1 / median(a for a, _ in pairs), median(b / a for a, b in pairs)


def _speed(repetitions: int, clock: Clock, quick: bool) -> Iterator[Row]:
    cases: list[tuple[str, Batch, str]] = [
        ("diagonal STL, n 512, 24 replicas sharing X", diagonal(1, 24, quick), ">= 10"),
        ("diagonal STL, n 512, 6 seeds x 4", diagonal(6, 4, quick), ""),
        ("ReLU, n 512, H 1000, 1 replica", relu(1, quick), ">= 2"),
        ("ReLU, n 512, H 1000, 16 replicas", relu(16, quick), ">= 2"),
    ]
    for what, students, target in cases:
        steps = 4 if quick else 40 * (24 if isinstance(students.net, DiagonalNet) else 4)
        rate, ratio = throughput(students, repetitions, clock, steps)
        yield f"{what}: replica-steps/s", rate, ""
        yield "  times a plain loop's", ratio, target


def benchmark_students(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    return [*_speed(repetitions, clock, quick), *memory_rows(quick)]
