"""Steps of many students at once against a plain loop, one run at a time, and what a replica occupies.

Both descend in float32 and at the published rates: on all rows at lr .1, or on shuffled batches of 128 rows
of two tasks at lr 1, with a look at the test loss every 50 epochs. Both look at every loss. The plain loop is
one ``nn.Module`` with autograd and ``torch.optim.SGD``.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median

from lit_aux.integrators import GradientDescent
from lit_aux.models import DiagonalNet
from lit_aux.modules.student_phase import BestTestLoss

from .plain_students import Batch, Clock, PlainBatches, PlainReLU, Row, diagonal, plain, plain_loop, relu
from .student_memory import memory_rows

LR = 0.1


def _stepper(students: Batch) -> Callable[[int], object]:
    """Return what takes so many steps of all replicas."""
    descent = GradientDescent(LR)
    state = descent.start(students.objective(), students.start())

    def advance(steps: int) -> object:
        with students.net.computing():
            return descent.advance(state, steps)

    return advance


def _plain_stepper(students: Batch) -> Callable[[int], object]:
    """Return what takes so many steps of the first replica alone."""
    network = plain(students.net)
    x, y = students.data.train_set(0, "main")
    return lambda steps: plain_loop(network, x, y[:, 0], LR, steps)


Stepper = Callable[[int], object]


def throughput(students: Batch, repetitions: int, clock: Clock, steps: int) -> tuple[float, float]:
    """Return replica-steps per second of the batch, and the median ratio to the plain loop's, in turns."""
    ours, theirs = _stepper(students), _plain_stepper(students)
    runs = {ours: max(1, steps // students.net.replicas), theirs: steps}
    return compared(ours, theirs, runs, students.net.replicas, repetitions, clock)


def compared(
    ours: Stepper,
    theirs: Stepper,
    runs: dict[Stepper, int],
    replicas: int,
    repetitions: int,
    clock: Clock,
) -> tuple[float, float]:
    """Return replica-steps per second, and the median ratio to steps of a single replica, in turns."""
    pairs = []
    for number in range(repetitions + 1):
        seconds = {}
        for run in (ours, theirs) if number % 2 else (theirs, ours):
            start = clock()
            run(runs[run])
            seconds[run] = (clock() - start) / runs[run]
        if number:  # the first round fills the caches
            pairs.append((seconds[ours] / replicas, seconds[theirs]))
    return 1 / median(a for a, _ in pairs), median(b / a for a, b in pairs)


def batches(replicas: int, repetitions: int, clock: Clock, quick: bool) -> tuple[float, float]:
    """Return replica-steps per second of mini-batch descent on two tasks, and the ratio to a plain loop's."""
    students = relu(replicas, quick, n_main=128, tasks=("aux", "main"))
    size, lr, looks = (16, 1e-3, 2) if quick else (128, 1.0, 50)
    descent, objective = GradientDescent(lr, batch_size=size), students.objective()
    epoch = descent.steps_of_epoch(objective)
    watch = BestTestLoss(students.objective("test", ["main"]), replicas, lr * epoch, lr * epoch * looks, 1.0)
    state = descent.start(objective, students.start(), observer=watch)
    network = plain(students.net)
    assert isinstance(network, PlainReLU)
    tasks = [students.data.train_set(0, task) for task in students.tasks]
    plain_run = PlainBatches(network, tasks, students.data.test_set(0, "main"), lr, size)

    def ours(steps: int) -> object:
        with students.net.computing():
            return descent.advance(state, steps)

    def theirs(steps: int) -> object:
        return plain_run.epochs(steps // epoch)

    runs: dict[Stepper, int] = {ours: looks * epoch, theirs: looks * epoch}
    return compared(ours, theirs, runs, replicas, repetitions, clock)


def _speed(repetitions: int, clock: Clock, quick: bool) -> Iterator[Row]:
    cases: list[tuple[str, Batch, str]] = [
        ("diagonal STL, n 512, 24 replicas sharing X", diagonal(1, 24, quick), ">= 10"),
        ("diagonal STL, n 512, 6 seeds x 4", diagonal(6, 4, quick), ""),
        ("ReLU, n 512, H 1000, 1 replica", relu(1, quick), ">= 2.5"),
        ("ReLU, n 512, H 1000, 16 replicas", relu(16, quick), ">= 2.5"),
    ]
    for what, students, target in cases:
        steps = 4 if quick else 40 * (24 if isinstance(students.net, DiagonalNet) else 4)
        rate, ratio = throughput(students, repetitions, clock, steps)
        yield f"{what}: replica-steps/s", rate, ""
        yield "  times a plain loop's", ratio, target
    for replicas in (1, 8):
        rate, ratio = batches(replicas, repetitions, clock, quick)
        yield f"ReLU MTL, n 128, batches of 128, {replicas} replicas: ms a replica-step", 1e3 / rate, "<= .25"
        yield "  times a plain loop's", ratio, ">= 2.5"


def benchmark_students(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    return [*_speed(repetitions, clock, quick), *memory_rows(quick)]
