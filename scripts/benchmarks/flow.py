"""Seconds of gradient flow to the threshold against those of descent, one run at a time.

Descent is given the learning rate at which it arrives first, which nobody knows beforehand.
"""

import time
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from lit_aux.integrators import GradientDescent, GradientFlow

from .flow_problems import LIMIT, Problem, RestsError, follow
from .flow_table import table
from .plain_students import Clock, Row, plain, plain_loop

RATES = (0.1, 0.2, 0.4, 0.6, 0.8)
OF_FLOW = 20_000
"""Gradients that flow may take here: those of ``reproduce``."""
SEEDS = tuple(range(6))
"""The published ones. Some rest on plateaus for very long, where units slide along their kinks: which ones,
rounding decides. They are kept, because leaving them out would flatter the flow."""


def fastest_descent(problem: Problem, limit: int, seed: int = 0) -> tuple[float, int] | None:
    """Return the rate at which descent arrives first, and its steps; None if at none within ``limit``."""
    students = problem.students(seed, len(RATES))
    descent = GradientDescent(RATES[0], max_backoffs=0)
    state = descent.start(
        students.objective(), students.start(), threshold=problem.threshold, max_evaluations=limit
    )
    state.control["lr"][:] = RATES
    while not (state.finished or state.counts.converged.any()):
        with students.net.computing():
            descent.advance(state, 100)
    if not state.counts.converged.any():
        return None
    steps = np.where(state.counts.converged, state.counts.accepted, limit)
    return RATES[int(steps.argmin())], int(steps.min())


def seconds_per_step(problem: Problem, clock: Clock, steps: int = 500) -> float:
    """Return what a step of descent takes alone."""
    students, descent = problem.students(), GradientDescent(RATES[0])
    state = descent.start(students.objective(), students.start())
    with students.net.computing():
        descent.advance(state, 50)
        begun = clock()
        descent.advance(state, steps)
        return (clock() - begun) / steps


def against_descent(
    problem: Problem, clock: Clock, seeds: Sequence[int], what: str, target: str
) -> Iterator[Row]:
    """Compare with descent at its fastest rate: the median over seeds, of seconds and of gradients.

    Where flow does not arrive, it is taken to be no faster at all.
    """
    gains, fewer, told = [], [], []
    for seed in seeds:
        found = fastest_descent(problem, LIMIT, seed)
        if found is None:
            raise RuntimeError(f"{problem}: descent did not converge")
        descent = follow(problem, GradientDescent(found[0], max_backoffs=0), clock, seed)
        begun = f"  seed {seed}: {descent.evaluations} gradients at rate {found[0]}, "
        try:
            flow, again = (follow(problem, GradientFlow(), clock, seed, limit=OF_FLOW) for _ in range(2))
        except RestsError:
            gains.append(0.0)
            fewer.append(0.0)
            told.append((f"{begun}flow rests, {OF_FLOW} are not enough", 0.0, ""))
            continue
        gains.append(descent.seconds / median([flow.seconds, again.seconds]))
        fewer.append(descent.evaluations / flow.evaluations)
        told.append((f"{begun}{flow.evaluations} of flow; times less time", gains[-1], ""))
    yield f"{what}: times less time than descent at its fastest rate, median of seeds", median(gains), target
    yield "  times fewer gradients, median of seeds", median(fewer), ""
    yield from told


def against_slow_descent(problem: Problem, clock: Clock, what: str, target: str) -> Iterator[Row]:
    """Compare with descent that has not arrived after so many steps: the gain is at least what is printed."""
    flow = follow(problem, GradientFlow(), clock)
    limit = 14 * flow.evaluations
    found = fastest_descent(problem, limit)
    steps = limit if found is None else found[1]
    how = f"> (at no rate within {steps} steps)" if found is None else f"({found[0]}, {steps} steps)"
    steps_time = seconds_per_step(problem, clock, 50 if problem.quick else 500) * steps
    again = follow(problem, GradientFlow(), clock)
    yield (
        f"{what}: times less time than descent, {how}",
        steps_time / median([flow.seconds, again.seconds]),
        target,
    )


def against_plain_loop(problem: Problem, repetitions: int, clock: Clock) -> Iterator[Row]:
    """Compare with a plain loop at the published rate, in turns."""
    students = problem.students()
    x, y = students.data.train_set(0, "main")
    gains = []
    for _ in range(repetitions):
        flow = follow(problem, GradientFlow(), clock).seconds
        network, begun = plain(students.net), clock()
        steps = plain_loop(network, x, y[:, 0], 0.1, LIMIT, problem.threshold)
        gains.append((clock() - begun) / flow)
    yield (
        f"ReLU, n 64, seed 0, to 1e-8: times less time than a plain loop at lr .1 ({steps} steps)",
        median(gains),
        ">= 4",
    )


def benchmark_flow(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> Iterator[Row]:
    """Yield what was measured, its value, and the target, the longest last."""
    n64, n256 = Problem("relu", 64, quick=quick), Problem("relu", 256, quick=quick, dtype="float32")
    seeds = SEEDS[:1] if quick else SEEDS
    yield from against_plain_loop(n64, min(repetitions, 3), clock)
    yield from table(clock, quick)
    yield from against_slow_descent(Problem("diagonal", 64, 20, quick), clock, "diagonal MTL, + 64", ">= 10")
    yield from against_descent(n64, clock, seeds, "ReLU, n 64", "")
    yield from against_descent(n256, clock, seeds, "ReLU, n 256", ">= 4")
