"""Diagonal students solved instead of trained: how much faster, and how far trained ones end from there.

Seed 0, drawn as published: overlap 0, 20, 30 and 40 of 40 entries share their inputs. Finetuning starts from
exactly pretrained weights on both sides, so that the gaps are those of training alone.
"""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from torch import Tensor

from lit_aux.data import DiagonalTeacherDataModule
from lit_aux.integrators import GradientDescent, GradientFlow, Integrator
from lit_aux.models import DiagonalNet

from .plain_students import Batch, Clock, Row, batch

CLOCK = 1e5
"""Flow time of a million published steps of .1."""
GAMMA = 1e-3
VARIANTS: list[tuple[str, Integrator, float]] = [
    ("flow, tolerance 1e-2, to 1e-6", GradientFlow(1e-2), 1e-6),
    ("flow, tolerance 1e-2, to 1e-10", GradientFlow(1e-2), 1e-10),
    ("flow, tolerance 1e-3, to 1e-10", GradientFlow(1e-3), 1e-10),
    ("flow, tolerance 1e-3, to 1e-14", GradientFlow(1e-3), 1e-14),
    ("descent, lr .1, to 1e-10", GradientDescent(0.1), 1e-10),
    ("descent, lr .05, to 1e-10", GradientDescent(0.05), 1e-10),
]
DESCENT = 64
"""Most rows for which descent is waited for: it takes 100,000 steps and more."""


def _students(setup: str, n_main: int, quick: bool) -> tuple[Batch, Tensor]:
    """Return students of the main task and their start; for PT+FT, solve the auxiliary task before."""
    small: Any = {"in_features": 90, "n_aux": 100, "n_test": 50} if quick else {}
    data = DiagonalTeacherDataModule(0, n_main, [0, 20, 30, 40], **small)
    main = batch(DiagonalNet, data)
    theta = main.start()
    if setup == "PT+FT":
        theta, _ = batch(DiagonalNet, data, ["aux"]).objective().limit(theta)
        theta[:, 2 * data.in_features :] = GAMMA
    return main, theta


def _beta(theta: Tensor) -> Tensor:
    w_plus, w_minus, v_plus, v_minus = theta.chunk(4, dim=1)
    return w_plus * v_plus - w_minus * v_minus


def _train(students: Batch, start: Tensor, integrator: Integrator, threshold: float) -> Tensor:
    state = integrator.start(students.objective(), start, threshold=threshold, max_time=CLOCK)
    while not state.finished:
        integrator.advance(state, 5000)
    return state.theta


def _speed(repetitions: int, clock: Clock, quick: bool) -> Iterator[Row]:
    cases = [(setup, n) for setup in ("STL", "PT+FT") for n in ((16,) if quick else (16, 128, 512))]
    for setup, n_main in cases:
        students, start = _students(setup, n_main, quick)
        solving, training = [], []
        for _ in range(repetitions):
            began = clock()
            students.objective().limit(start)
            middle = clock()
            _train(students, start, GradientFlow(), 1e-10)
            solving.append(middle - began)
            training.append(clock() - middle)
        count = len(start)
        yield f"{setup}, n {n_main}, 4 sharing inputs: runs solved per second", count / median(solving), ""
        yield "  runs trained per second, by flow to 1e-10", count / median(training), ""
        ratio = median(b / a for a, b in zip(solving, training, strict=True))
        yield "  solved in the time of one trained", ratio, ""


def _gaps(quick: bool) -> Iterator[Row]:
    for setup in ("STL", "PT+FT"):
        for n_main in (16,) if quick else (16, 64, 256):
            students, start = _students(setup, n_main, quick)
            objective = students.objective()
            exact, _ = objective.limit(start)
            test = students.objective("test")
            yield (
                f"{setup}, n {n_main}: training loss of the solution",
                float(objective.value(exact).max()),
                "",
            )
            yield (
                "  test loss of the solution, median of four overlaps",
                float(test.value(exact).median()),
                "",
            )
            for what, integrator, threshold in VARIANTS[:2] if quick else VARIANTS:
                if isinstance(integrator, GradientDescent) and n_main > DESCENT:
                    continue
                theta = _train(students, start, integrator, threshold)
                gap = (_beta(theta) - _beta(exact)).norm(dim=1) / _beta(exact).norm(dim=1)
                ratio = test.value(theta) / test.value(exact)
                yield f"  {what}: median distance of beta", float(gap.median()), ""
                yield f"  {what}: median ratio of test losses", float(ratio.median()), ""


def benchmark_solver(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> Iterator[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    yield from _speed(repetitions, clock, quick)
    yield from _gaps(quick)
