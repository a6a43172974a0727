"""Cosines with the step that was taken, by hand with plain torch and numpy."""

import gc
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from callback_helpers import trainer
from task_helpers import TASKS, Stranger, data, examples
from torch import Tensor, nn

from lit_aux.callbacks import GradientConflict
from lit_aux.errors import ConfigurationError


def gradient(module: Stranger, task: str) -> np.ndarray:
    """Return the shared gradient of a task's loss on all its examples."""
    x, y = examples(task)
    loss = nn.functional.cross_entropy(module.heads[task](module.shared(x)), y)
    parts = torch.autograd.grad(loss, list(module.shared.parameters()))
    return torch.cat([part.flatten() for part in parts]).double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


class ByHand(pl.Callback):
    """Takes weights before and after every step and works the cosines out itself."""

    def __init__(self) -> None:
        self.found: list[dict[tuple[str, str], float]] = []
        self.before = np.zeros(0)

    def flat(self, module: Any) -> np.ndarray:
        return torch.cat([p.detach().flatten() for p in module.shared.parameters()]).double().numpy()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self.flat(pl_module)
        self.gradients = {task: gradient(pl_module, task) for task in pl_module.names}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        step = self.before - self.flat(pl_module)
        row = {(task, "conflict"): cosine(g, step) for task, g in self.gradients.items()}
        after = {task: gradient(pl_module, task) for task in pl_module.names}
        row |= {(s, f"cosine/{t}"): cosine(after[s], after[t]) for s in after for t in after if s != t}
        self.found.append(row)


def fit(folder: Any, conflict: GradientConflict, module: Stranger | None = None, **options: Any) -> ByHand:
    hand = ByHand()
    watchers = [conflict] if "accumulate_grad_batches" in options else [hand, conflict]
    trainer(folder, *watchers, **options).fit(module or Stranger())
    return hand


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_epoch_means_are_those_worked_out_by_hand(tmp_path: Any, options: Any) -> None:
    conflict = GradientConflict(every_n_steps=1, pairwise_every=1, data=data(), batch_size=40)
    hand = fit(tmp_path, conflict, Stranger(**options), gradient_clip_val=0.3)
    assert len(hand.found) == 10
    for row in conflict.results:
        steps = hand.found[5 * row.epoch - 5 : 5 * row.epoch]
        if row.measure != "conflict":  # of one task with the others, another one in turn
            first = 5 * row.epoch - 5
            turns = [TASKS[(first + i) % 3] for i in range(5)]
            other = row.measure.removeprefix("cosine/")
            steps = [s for s, turn in zip(steps, turns, strict=True) if turn in (row.task, other)]
        expected = np.mean([step[row.task, row.measure] for step in steps])
        assert row.value == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert {(r.task, r.measure) for r in conflict.results} == set(hand.found[0])
    assert [r.step for r in conflict.results if r.measure == "conflict"] == [5] * 3 + [10] * 3


def test_only_every_nth_step_is_measured_and_pairs_less_often(tmp_path: Any) -> None:
    conflict = GradientConflict(every_n_steps=3, pairwise_every=2, data=data(), batch_size=40)
    hand = fit(tmp_path, conflict)
    steps = {1: [3], 2: [6, 9]}
    for row in conflict.results:
        expected = np.mean([hand.found[i - 1][row.task, row.measure] for i in steps[row.epoch]])
        if row.measure == "conflict":
            assert row.value == pytest.approx(expected, rel=2e-5, abs=2e-6)
    # measurements 0 (step 3) and 2 (step 9) had pairs, of the first task and of the second
    pairs = {(r.epoch, r.task, r.measure) for r in conflict.results if r.measure != "conflict"}
    assert pairs == {
        (epoch, s, f"cosine/{t}") for epoch, one in ((1, "a"), (2, "b")) for s in TASKS for t in TASKS
        if s != t and one in (s, t)
    }  # fmt: skip


def test_the_accumulated_step_is_what_counts(tmp_path: Any) -> None:
    conflict = GradientConflict(every_n_steps=1, pairwise_every=0, data=data(("a",)), batch_size=40)
    module = Stranger(("a",))
    fit(tmp_path, conflict, module, accumulate_grad_batches=5, max_epochs=1)
    (row,) = conflict.results
    # five batches of eight are all forty examples, so that plain descent goes down the gradient
    assert row.value == pytest.approx(1, abs=1e-6)


def test_batches_are_drawn_alike_in_every_run_and_differ_from_step_to_step(tmp_path: Any) -> None:
    single = GradientConflict(every_n_steps=1, data=data(("a",)), batch_size=8)
    drawn: list[Tensor] = []
    for tasks in (("a",), TASKS):
        conflict = GradientConflict(every_n_steps=1, pairwise_every=0, data=data(tasks), batch_size=8)
        module = Stranger(tasks)
        original = module.task_outputs

        def spy(task: str, x: Tensor, original: Any = original) -> Tensor:
            if task == "a" and not module.training:  # noqa: B023
                drawn.append(x)
            return original(task, x)

        module.task_outputs = spy  # type: ignore[method-assign]
        fit(tmp_path, conflict, module, max_epochs=1)
    assert len(drawn) == 10
    assert all(torch.equal(x, y) for x, y in zip(drawn[:5], drawn[5:], strict=True))
    assert not torch.equal(drawn[0], drawn[1])
    assert single.batch_size == 8


def test_a_task_without_gradient_has_cosine_0(tmp_path: Any) -> None:
    class Still(Stranger):
        def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
            return super().task_loss(task, outputs, y) * (0 if task == "b" else 1)

    conflict = GradientConflict(every_n_steps=1, pairwise_every=1, data=data(), batch_size=40)
    trainer(tmp_path, conflict, max_epochs=1).fit(Still())
    values = {(row.task, row.measure): row.value for row in conflict.results}
    assert values["b", "conflict"] == values["b", "cosine/a"] == values["a", "cosine/b"] == 0
    assert values["a", "conflict"] != 0


def test_a_step_that_changes_nothing_is_left_out(tmp_path: Any) -> None:
    conflict = GradientConflict(every_n_steps=1, data=data())
    trainer(tmp_path, conflict, max_epochs=1).fit(Stranger(lr=0.0))
    assert conflict.results == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_n_steps": 0}, "every_n_steps: 0"),
        ({"pairwise_every": -1}, "pairwise_every: -1"),
        ({"batch_size": 0}, "batch_size: 0"),
    ],
)
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GradientConflict(**options)


def test_no_more_than_two_gradients_are_held(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def alive() -> int:
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
        tensors = [t for t in tensors if t.layout is torch.strided]  # others are what another test has left
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    held: list[int] = []
    compute = torch.autograd.grad

    def watched(*args: Any, **options: Any) -> Any:
        held.append(alive())  # what is there while another gradient is about to be made
        return compute(*args, **options)

    module = Stranger()
    module.shared = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 100_000), nn.Linear(100_000, 7))
    size = 4 * sum(p.numel() for p in module.shared.parameters())
    conflict = GradientConflict(every_n_steps=1, pairwise_every=1, data=data(), batch_size=4)

    class Between(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            self.bytes = alive()

    between = Between()
    monkeypatch.setattr(torch.autograd, "grad", watched)
    trainer(tmp_path, between, conflict, max_epochs=1, limit_train_batches=2).fit(module)
    # the copy of the weights, or the first of two gradients; between steps there is a copy as well
    assert len(held) == 2 * (3 + 3)
    activations = 0.8 * size  # of four examples in the wide layer
    assert max(held) - (between.bytes - size) < 1.1 * size + activations


class OneMemory(Stranger):
    """Two layers whose weights are parameters of their own in one memory, as where ``.data`` was shared."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 7))
        self.shared[2].weight = nn.Parameter(self.shared[0].weight.data)


def test_weights_in_one_memory_are_put_back(tmp_path: Any) -> None:
    modules = OneMemory(), OneMemory()
    trainer(tmp_path, max_epochs=1).fit(modules[0])
    conflict = GradientConflict(every_n_steps=1, data=data())
    trainer(tmp_path, conflict, max_epochs=1).fit(modules[1])
    assert conflict.results
    for one, other in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(one, other)
