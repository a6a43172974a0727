"""Steps that nobody looks at: they change nothing, and who watches at some times sees these."""

from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import Floats, Recorder, finish
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.integrators import GradientDescent, Step


class EveryFifth(Recorder):
    """Wants to see the steps that end at multiples of five steps, and says so."""

    def __init__(self, lr: float, replicas: int) -> None:
        super().__init__()
        self.lr, self.due = lr, np.full(replicas, 5)

    def next_time(self, replicas: NDArray[np.int64]) -> Floats:
        return np.asarray(self.due[replicas] * self.lr, dtype=float)

    def observe(self, step: Step) -> None:
        super().observe(step)
        for replica, end in zip(step.replicas, step.end, strict=True):
            if end >= self.due[replica] * self.lr * (1 - 1e-12):
                self.due[replica] += 5


class Every(Recorder):
    """Keeps copies of what it sees: descent shows its buffer."""

    def observe(self, step: Step) -> None:
        self.stretches.append(Step(step.replicas, step.start, step.end, step.before, step.after.clone()))


class EveryFifthKept(EveryFifth, Every):
    """Both."""


RATES = torch.tensor([1.0, 0.1, 30.0], dtype=torch.float64)


def loss(y: Tensor) -> Tensor:
    return RATES * y[:, 0] ** 2 / 2


def run(lr: float, observer: Any, block: int) -> Any:
    descent = GradientDescent(lr, divergence=1e3)
    limits = {"threshold": np.array([1e-6, 0, 1e-6]), "max_time": np.array([1e9, 9.0, 1e9])}
    start = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    state = descent.start(loss, start, observer=observer, max_evaluations=300, **limits)
    while not state.finished:
        descent.advance(state, block)
    return state


@pytest.mark.parametrize("lr", [0.05, 0.2])  # the third replica diverges at .2, and begins anew
@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_what_is_not_watched_comes_to_the_same(lr: float, block: int) -> None:
    watched, quiet = run(lr, Recorder(), 1), run(lr, None, block)
    assert torch.equal(watched.theta, quiet.theta)
    assert int(watched.counts.rejected[2]) == (lr > 0.1)
    for name, values in vars(watched.counts).items():
        np.testing.assert_array_equal(getattr(quiet.counts, name), values, err_msg=name)


@pytest.mark.parametrize("block", [3, 10_000])
def test_who_watches_at_some_times_sees_what_was_there_then(block: int) -> None:
    lr, every = 0.05, Every()
    run(lr, every, 1)
    some = EveryFifthKept(lr, 3)
    run(lr, some, block)
    seen: dict[tuple[int, int], Tensor] = {}
    for step in every.stretches:
        for place, replica in enumerate(step.replicas):
            seen[int(replica), round(step.end[place] / lr)] = step.after[place]
    found = set()
    for step in some.stretches:
        np.testing.assert_allclose(step.end - step.start, lr, rtol=1e-9)
        for place, replica in enumerate(step.replicas):
            key = (int(replica), round(step.end[place] / lr))
            assert torch.equal(step.after[place], seen[key])
            found.add(key)
    wanted = {key for key in seen if key[1] % 5 == 0}
    assert wanted <= found
    assert len(found) < len(seen)  # or it would be nothing gained


def test_a_block_takes_as_many_steps_as_it_was_asked_for() -> None:
    descent = GradientDescent(0.01)
    state = descent.start(loss, torch.ones(3, 1, dtype=torch.float64))
    for block in (1, 2, 50):
        before = state.counts.evaluations.copy()
        descent.advance(state, block)
        assert (state.counts.evaluations - before).tolist() == [block] * 3
    assert state.counts.accepted.tolist() == [53] * 3
    short = finish(descent, descent.start(loss, torch.ones(3, 1).double(), max_time=0.02))
    assert short.counts.accepted.tolist() == [2] * 3
