"""Runs of one student to its threshold: the problems of the specification's table, and the published ones."""

from dataclasses import dataclass
from typing import Any, Literal

from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule
from lit_aux.integrators import Integrator
from lit_aux.models import DiagonalNet, ReLUNet
from lit_aux.modules.student_phase import BestTestLoss

from .plain_students import Batch, Clock, batch

LIMIT = 200_000
"""Gradients after which a run has failed."""


class RestsError(RuntimeError):
    """A run has not arrived at its threshold within its gradients."""


@dataclass(frozen=True)
class Problem:
    """A run to a threshold, as a batch of one or of several copies.

    Attributes:
        network: ``relu`` (STL) or ``diagonal`` (MTL beside 1,024 auxiliary rows).
        n_main: Rows of the main task.
        overlap: Active entries that the diagonal teachers share.
        quick: Whether to take tiny ones instead.
        dtype: Precision; that of the specification's table, or ``float32`` as published.
    """

    network: str
    n_main: int
    overlap: int = 0
    quick: bool = False
    dtype: Literal["float32", "float64"] = "float64"

    @property
    def threshold(self) -> float:
        """The published training loss at which a run ends."""
        if self.quick:
            return 1e-2
        return 1e-8 if self.network == "relu" else 1e-10

    def students(self, seed: int = 0, copies: int = 1) -> Batch:
        """Return students of one teacher, all with the same start."""
        if self.network == "relu":
            small: Any = {"n_aux": 8, "n_test": 50} if self.quick else {}
            n = 8 if self.quick else self.n_main
            return batch(
                ReLUNet,
                ReLUTeacherDataModule(seed, n, dtype=self.dtype, **small),
                hidden=16 if self.quick else 1000,
                copies=copies,
            )
        small = {"n_aux": 8, "n_test": 50, "in_features": 90} if self.quick else {}
        n = 8 if self.quick else self.n_main
        data = DiagonalTeacherDataModule(seed, n, self.overlap, dtype=self.dtype, **small)
        return batch(DiagonalNet, data, ("aux", "main"), copies=copies)


@dataclass(frozen=True)
class Run:
    """What a run took and came to."""

    evaluations: int
    seconds: float
    final: float
    best: float


def follow(
    problem: Problem,
    integrator: Integrator,
    clock: Clock,
    seed: int = 0,
    watched: bool = False,
    limit: int = LIMIT,
) -> Run:
    """Run one replica to its threshold; its smallest test loss is known if it is watched.

    Raises:
        RestsError: If it does not arrive there.
    """
    students = problem.students(seed)
    test = students.objective("test", ["main"])
    best = BestTestLoss(test, 1, 0.1, 5.0, 1.1)  # the instants of the published rule
    objective, start = students.objective(), students.start()
    begun = clock()
    state = integrator.start(
        objective,
        start,
        threshold=problem.threshold,
        max_evaluations=limit,
        observer=best if watched else None,
    )
    while not state.finished:
        with students.net.computing():
            integrator.advance(state, 1000)
    seconds = clock() - begun
    if not state.counts.converged.all():
        raise RestsError(f"{problem}: {integrator.name} did not converge")
    final = float(test.value(state.theta))
    return Run(int(state.counts.evaluations[0]), seconds, final, min(final, float(best.best[0])))
