"""Values of the diagnostics against the definitions, worked out on the same weights and examples."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from diagnostic_helpers import TASKS, Pictures, diagnostics, images, pictures
from task_helpers import Stranger, data
from torch import nn

from lit_aux.callbacks import FisherTrace, GradientCoherence, Sharpness

RHO = 5e-3


class Copies(pl.Callback):
    """Keeps the weights at the end of every epoch."""

    def __init__(self) -> None:
        self.modules: list[Pictures] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        module = Pictures()
        module.load_state_dict(pl_module.state_dict())
        self.modules.append(module.eval())


class SmallBatches(GradientCoherence):
    """The same callback under another name: a Trainer takes one of each."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: Any) -> Any:
    """Return the module after each of two epochs and what was measured there."""
    copies = Copies()
    whole = [Sharpness(RHO, iterations=20, batch_size=36, data=pictures())]
    whole += [GradientCoherence(batch_size=1, data=pictures()), FisherTrace(data=pictures())]
    trainer(tmp_path_factory.mktemp("fit"), copies, *whole).fit(Pictures())
    rows = [row for callback in whole for row in callback.results]
    return copies.modules, {(row.epoch, row.task, row.measure): row.value for row in rows}


def gradients(module: Pictures, task: str, x: Any, y: Any) -> torch.Tensor:
    """Return each example's gradient of the shared parameters, as rows."""
    rows = []
    for a, b in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(module.task_outputs(task, a[None]), b[None])
        rows.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.shared.parameters()))])
        )
    return torch.stack(rows).double()


def test_every_epoch_and_task_has_every_measure(fitted: Any) -> None:
    _, values = fitted
    measures = ("sharpness", "gradient_variance", "gradient_norm", "fisher_trace")
    assert set(values) == {(epoch, task, m) for epoch in (1, 2) for task in TASKS for m in measures}


@pytest.mark.parametrize("task", TASKS)
def test_coherence_is_the_trace_of_the_covariance(fitted: Any, task: str) -> None:
    for epoch, module in enumerate(fitted[0], 1):
        rows = gradients(module, task, *images(task))
        variance = rows.var(0, correction=0).sum().item()
        assert fitted[1][epoch, task, "gradient_variance"] == pytest.approx(variance, rel=1e-4)
        norm = rows.mean(0).norm().item()
        assert fitted[1][epoch, task, "gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_the_fisher_trace_is_one_of_labels_drawn_from_the_model(fitted: Any, task: str) -> None:
    x, _ = images(task)
    for epoch, module in enumerate(fitted[0], 1):
        p = module.task_outputs(task, x).softmax(1).detach().double()
        squares = torch.stack(
            [gradients(module, task, x, torch.full((len(x),), c)).square().sum(1) for c in range(3)], 1
        )
        mean = (p * squares).sum(1)
        # one label an example: the draw has this variance around the expectation
        error = math.sqrt(((p * squares.square()).sum(1) - mean.square()).sum()) / len(x)
        found = fitted[1][epoch, task, "fisher_trace"]
        assert abs(found - mean.mean().item()) < 3.5 * error
        assert found != pytest.approx(mean.mean().item(), rel=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_sharpness_is_a_rise_within_the_box_that_few_random_corners_reach(fitted: Any, task: str) -> None:
    x, y = images(task)
    for epoch, module in enumerate(fitted[0], 1):
        weights = [p.detach().clone() for p in module.shared.parameters()]

        def rise(directions: list[torch.Tensor]) -> float:
            with torch.no_grad():
                before = nn.functional.cross_entropy(module.task_outputs(task, x), y).double()  # noqa: B023
                for p, w, d in zip(module.shared.parameters(), weights, directions, strict=True):  # noqa: B023
                    p.copy_(w + RHO * w.abs() * d)
                after = nn.functional.cross_entropy(module.task_outputs(task, x), y).double()  # noqa: B023
                for p, w in zip(module.shared.parameters(), weights, strict=True):  # noqa: B023
                    p.copy_(w)
            return float(after - before)

        loss = nn.functional.cross_entropy(module.task_outputs(task, x), y)
        steepest = [g.sign() for g in torch.autograd.grad(loss, list(module.shared.parameters()))]
        found = fitted[1][epoch, task, "sharpness"]
        assert found == pytest.approx(rise(steepest), rel=0.01)
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            assert rise([torch.randn(w.shape, generator=generator).sign() for w in weights]) < found


def test_sharpness_is_a_mean_over_whole_batches_that_mix_the_classes(tmp_path: Any) -> None:
    seen: list[torch.Tensor] = []

    class Spy(Pictures):
        def task_loss(self, task: str, outputs: Any, y: Any) -> Any:
            if not self.training:
                seen.append(y)
            return super().task_loss(task, outputs, y)

    sharpness = Sharpness(RHO, iterations=1, batch_size=16, data=pictures(), tasks=["b"], every_n_epochs=2)
    trainer(tmp_path, sharpness).fit(Spy())
    assert [len(y) for y in seen] == [16] * 6  # 36 examples are two whole batches, of three losses each
    first, second = seen[0], seen[3]
    assert torch.equal(first, seen[1])
    assert not torch.equal(first, second)
    for y in (first, second):
        assert len(y.unique()) == 3
    (row,) = sharpness.results
    assert (row.epoch, row.task, row.measure) == (2, "b", "sharpness")


def test_small_batches_of_coherence_agree_with_single_examples(tmp_path: Any) -> None:
    options = {"tasks": ["a"], "data": data()}
    single = GradientCoherence(batch_size=1, every_n_steps=150, **options)
    small = SmallBatches(batch_size=10, every_n_steps=1, **options)
    trainer(tmp_path, single, small, max_epochs=60).fit(Stranger(lr=0.0))  # the same weights at all steps
    exact, found = (
        [row.value for row in callback.results if row.measure == "gradient_variance"]
        for callback in (single, small)
    )
    assert exact[1:] == pytest.approx(exact[:1], rel=1e-5)
    assert len({*found}) > 250  # each step has other batches
    error = torch.tensor(found).std().item() / math.sqrt(len(found))
    assert sum(found) / len(found) == pytest.approx(exact[0], abs=4 * error)


def test_the_values_are_logged(tmp_path: Any) -> None:
    logged: dict[str, float] = {}

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics: Any, *args: Any, **kwargs: Any) -> None:
            logged.update(metrics)

    callbacks = diagnostics(every_n_steps=3)
    trainer(tmp_path, *callbacks, logger=Logger(), max_epochs=1).fit(Pictures())
    rows = [row for callback in callbacks for row in callback.results]
    assert {row.step for row in rows} == {3}
    assert {f"{r.task}/{r.measure}": r.value for r in rows}.items() <= logged.items()
