"""A run that was saved on its way goes on as if nothing had happened, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import Recorder, draw, finish, objective_of, packed, relu
from torch import Tensor

from lit_aux.integrators import GradientDescent, GradientFlow, IntegratorState, TorchOptimizer

SHARED = draw(9, 6, 1)
DATA = [SHARED, (SHARED[0], -SHARED[1]), draw(20, 6, 2), draw(4, 6, 3)]
GOALS = np.array([1e-4, 1e-1, 1e-3, 1e-8])


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def build(kind: str) -> Any:
    if kind == "flow":
        return GradientFlow()
    return TorchOptimizer(adam) if kind == "adam" else GradientDescent(0.1)


def begin(integrator: Any, **options: Any) -> IntegratorState:
    net = relu([0, 1, 2, 3], 6, 15)
    limits = {"threshold": GOALS, "max_evaluations": 300} | options
    return integrator.start(objective_of(net, DATA), packed(net), **limits)  # type: ignore[no-any-return]


def through_a_file(state: IntegratorState, path: Path) -> Any:
    torch.save(state.state_dict(), path / "state.pt")
    return torch.load(path / "state.pt", weights_only=True)


def assert_same(found: IntegratorState, right: IntegratorState) -> None:
    assert torch.equal(found.theta, right.theta)
    for name, values in vars(right.counts).items():
        np.testing.assert_array_equal(getattr(found.counts, name), values, err_msg=name)
        assert getattr(found.counts, name).dtype == values.dtype


@pytest.mark.parametrize("evaluations", [1, 7, 120])
@pytest.mark.parametrize("kind", ["flow", "descent", "adam"])
def test_saved_and_restored_midway(kind: str, evaluations: int, tmp_path: Path) -> None:
    integrator = build(kind)
    straight = begin(integrator)
    integrator.advance(straight, evaluations)
    saved = through_a_file(straight, tmp_path)
    left = len(straight.rows)
    assert left > 0
    assert evaluations < 100 or left < 4  # by then some have left the batch
    finish(integrator, straight)

    other = build(kind)
    again = begin(other)
    again.load_state_dict(saved)
    assert len(again.rows) == left
    finish(other, again)
    assert_same(again, straight)


def test_in_pieces_or_at_once() -> None:
    flow, watch, watch_pieces = GradientFlow(), Recorder(), Recorder()
    straight = finish(flow, begin(flow, observer=watch))
    pieces = begin(flow, observer=watch_pieces)
    while not pieces.finished:
        flow.advance(pieces, 3)
    assert_same(pieces, straight)
    assert len(watch.stretches) == len(watch_pieces.stretches)


@pytest.mark.parametrize("kind", ["flow", "descent"])
def test_what_was_saved_can_be_loaded_twice(kind: str) -> None:
    integrator = build(kind)
    straight = begin(integrator)
    integrator.advance(straight, 50)
    saved = straight.state_dict()
    finish(integrator, straight)
    for _ in range(2):
        again = begin(integrator)
        again.load_state_dict(saved)
        assert_same(finish(integrator, again), straight)


def test_a_saved_state_is_a_copy() -> None:
    flow = GradientFlow()
    state = begin(flow)
    flow.advance(state, 50)
    saved = state.state_dict()
    before = {name: tensor.clone() for name, tensor in saved["work"].items()}
    finish(flow, state)
    assert all(torch.equal(saved["work"][name], tensor) for name, tensor in before.items())
    assert not saved["counts"]["finished"].all()


@pytest.mark.parametrize("kind", ["flow", "descent"])
def test_with_one_that_was_below_its_threshold_at_the_start(kind: str, tmp_path: Path) -> None:
    integrator = build(kind)
    goals = np.array([1e9, 1e-1, 1e-3, 1e-8])
    straight = begin(integrator, threshold=goals)
    integrator.advance(straight, 30)
    saved = through_a_file(straight, tmp_path)
    finish(integrator, straight)
    again = begin(integrator, threshold=goals)
    again.load_state_dict(saved)
    assert_same(finish(integrator, again), straight)


def test_after_a_back_off(tmp_path: Path) -> None:
    x, y = draw(9, 6, 4)
    net, descent = relu([0, 1], 6, 15), GradientDescent(0.1)
    data = [SHARED, (8 * x, y)]

    def start() -> IntegratorState:
        return descent.start(objective_of(net, data), packed(net), max_evaluations=200)

    straight = start()
    descent.advance(straight, 100)
    assert straight.counts.rejected.tolist()[0] == 0 < straight.counts.rejected[1]
    saved = through_a_file(straight, tmp_path)
    finish(descent, straight)
    again = start()
    again.load_state_dict(saved)
    assert_same(finish(descent, again), straight)


def test_mini_batches_go_on_in_the_same_order(tmp_path: Path) -> None:
    x, y = draw(10, 4, 0)[0], torch.arange(20.0).reshape(2, 10).double()

    class Regression:
        replicas = 2

        def __init__(self, chosen: Tensor | None = None) -> None:
            self.chosen = torch.arange(10) if chosen is None else chosen

        def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
            error = theta @ x[self.chosen].T - y[:, self.chosen]
            out.copy_(error @ x[self.chosen])
            return error.square().mean(1)

        def select(self, keep: Tensor) -> "Regression":
            assert len(keep) in (0, 2)
            return self

        def rows(self) -> int:
            return 10

        def batch(self, chosen: Tensor) -> "Regression":
            return Regression(chosen)

    descent = GradientDescent(0.01, batch_size=3, divergence=1e9)

    def start() -> IntegratorState:
        return descent.start(Regression(), torch.zeros(2, 4).double(), max_evaluations=50)

    straight = start()
    descent.advance(straight, 14)  # within an epoch
    saved = through_a_file(straight, tmp_path)
    finish(descent, straight)
    again = start()
    again.load_state_dict(saved)
    assert_same(finish(descent, again), straight)
