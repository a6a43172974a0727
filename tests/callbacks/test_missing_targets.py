"""Callbacks where targets are missing, against the loss of all labelled targets at once."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from task_helpers import TASKS, Stranger, data, examples
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from toys import FEATURES, toy_backbone, toy_trainer

from lit_aux import PhaseSettings
from lit_aux.callbacks import (
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    Sharpness,
    StopAtTrainingLoss,
    TrajectoryLog,
)
from lit_aux.modules import SingleTaskModule

MISSING = torch.arange(40) % 3 == 1
MISSING[8:16] = True  # the second batch of eight has no target


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def holes(y: Tensor, value: float) -> Tensor:
    return torch.where(MISSING.view(-1, *[1] * (y.ndim - 1)), value, y).to(y.dtype)


# StopAtTrainingLoss of somebody else's module, at a rate of 0

X = draw(40, 5)
KINDS: dict[str, tuple[nn.Module, int, Tensor]] = {
    "classes": (nn.CrossEntropyLoss(), 3, holes(torch.arange(40) % 3, -100)),
    "another number": (nn.CrossEntropyLoss(ignore_index=7), 3, holes(torch.arange(40) % 3, 7)),
    "words of a text": (nn.CrossEntropyLoss(), 3, holes((torch.arange(80) % 3).view(40, 2), -100)),
}
FORMS = {"pair": lambda x, y: (x, y), "mapping": lambda x, y: {"inputs": x, "labels": y}}


class Plain(pl.LightningModule):
    """A linear network and one of torch's losses, whose mean over nothing is NaN."""

    def __init__(self, loss: nn.Module, outputs: int, words: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loss, self.shape = loss, (outputs, words)
        self.layer = nn.Linear(5, outputs * words)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x).view(-1, *self.shape)
        return found[..., 0] if self.shape[1] == 1 else found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return self.loss(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_loss_of_a_stranger_counts_targets(
    kind: str, form: str, accumulated: int, tmp_path: Path
) -> None:
    loss, outputs, y = KINDS[kind]
    module = Plain(loss, outputs, y[0].numel())
    served = [FORMS[form](X[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    callback = StopAtTrainingLoss(100.0)
    options = {"max_epochs": 1, "accumulate_grad_batches": accumulated, "gradient_clip_val": None}
    loader = DataLoader(served, batch_size=None)  # type: ignore[arg-type]
    expected = float(loss(module(X), y).detach())
    trainer(tmp_path, callback, **options).fit(module, loader)
    assert callback.stop_reason == f"training loss {expected:.3g} < 100 after 1 epoch"


def test_training_loss_of_a_strangers_regression_counts_values(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
            known = ~y.isnan()
            return (outputs[known] - y[known]).square().mean()

    y = holes(draw(40, 1, seed=3), math.nan)
    module, callback = Plain(Masked(), 1, 1), StopAtTrainingLoss(100.0)
    expected = float(Masked()(module(X), y).detach())
    served = [(X[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    loader = DataLoader(served, batch_size=None)  # type: ignore[arg-type]
    trainer(tmp_path, callback, max_epochs=1).fit(module, loader)
    assert callback.stop_reason == f"training loss {expected:.3g} < 100 after 1 epoch"


def test_a_loss_that_is_not_a_number_still_is_none(tmp_path: Path) -> None:
    loss, outputs, y = KINDS["classes"]
    module, callback = Plain(loss, outputs, 1), StopAtTrainingLoss(100.0)
    x = X.clone()
    x[0] = math.nan
    loader = DataLoader([(x, y)], batch_size=None)  # type: ignore[arg-type]
    trainer(tmp_path, callback, max_epochs=1).fit(module, loader)
    assert callback.stop_reason is None


# Diagnostics of tasks


def partly(task: str) -> tuple[Tensor, Tensor]:
    x, y = examples(task)
    return x, holes(y, -100)


def splits() -> dict[str, Any]:
    parts = [slice(8 * i, 8 * i + 8) for i in range(5)]
    return {"train": {t: [tuple(half[part] for half in partly(t)) for part in parts] for t in TASKS}}


def test_trajectory_of_a_stranger_counts_labels(tmp_path: Path) -> None:
    log, module = TrajectoryLog(data=splits()), Stranger()
    expected = {}
    for task in TASKS:
        x, y = examples(task)
        logits = module.task_outputs(task, x[~MISSING]).detach()
        expected[task, "train_loss"] = float(F.cross_entropy(logits, y[~MISSING]))
        expected[task, "train_accuracy"] = float((logits.argmax(1) == y[~MISSING]).double().mean())
    trainer(tmp_path, log, max_epochs=1).fit(module)
    found = {(r.task, r.measure): r.value for r in log.results if r.step == 0}
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_number_of_the_strangers_own_for_what_is_missing(tmp_path: Path) -> None:
    class Own(Stranger):
        def task_labels(self, task: str, y: Tensor) -> Tensor:
            return y != 9

        def task_mean(self, task: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.task_loss(task, outputs, y), (y + 1.0).sum()

    given = {"train": {t: [(x, torch.where(MISSING, 9, y))] for t in TASKS for x, y in [examples(t)]}}
    log, module = TrajectoryLog(data=given), Own()
    x, y = (half[~MISSING] for half in examples("a"))
    expected = float(F.cross_entropy(module.task_outputs("a", x), y).detach())
    trainer(tmp_path, log, max_epochs=1).fit(module)
    found = {(r.task, r.measure): r.value for r in log.results if r.step == 0}
    assert found["a", "train_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "diagnostic",
    [
        lambda **options: GradientConflict(every_n_steps=1, batch_size=8, **options),
        lambda **options: GradientCoherence(batch_size=4, **options),
        lambda **options: Sharpness(iterations=2, batch_size=8, **options),
        lambda **options: FisherTrace(**options),
    ],
)
def test_diagnostics_look_at_labelled_examples(diagnostic: Any, tmp_path: Path) -> None:
    """What they measure with labels missing is what they measure without these examples."""
    chosen = {"train": {t: tuple(half[~MISSING] for half in examples(t)) for t in TASKS}}
    values = []
    for number, source in enumerate((splits(), chosen)):
        callback = diagnostic(data=source)
        trainer(tmp_path / str(number), callback, max_epochs=1).fit(Stranger())
        values.append([(r.task, r.measure, r.value) for r in callback.results])
    assert values[0] == values[1]
    assert values[0]
    assert all(math.isfinite(value) for _, _, value in values[0])
    full = diagnostic(data=data())
    trainer(tmp_path / "full", full, max_epochs=1).fit(Stranger())
    assert [(r.task, r.measure, r.value) for r in full.results] != values[0]


def test_trajectory_of_ours_is_weighted_as_the_loss_is(tmp_path: Path) -> None:
    """Classes have weights; accuracies are of what is labelled."""
    weight = torch.tensor([0.2, 1.0, 3.0])
    x, y = draw(40, FEATURES), holes(torch.arange(40) % 3, -100)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    settings = PhaseSettings(max_epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    losses = nn.CrossEntropyLoss(weight)
    module = SingleTaskModule(
        toy_backbone(), {"t": 3}, task="t", settings=settings, losses=losses, reestimate_batchnorm=False
    )
    log = TrajectoryLog(data={"train": {"t": batches}})
    module.eval()
    with torch.no_grad():
        logits = module(x, "t")
    loader = DataLoader([{"t": batch} for batch in batches], batch_size=None)  # type: ignore[arg-type]
    toy_trainer(tmp_path, callbacks=[log], test_after_phase=False).fit(module, loader)
    found = {r.measure: r.value for r in log.results if r.step == 0}
    known = ~MISSING
    expected = float(F.cross_entropy(logits[known], y[known], weight))
    assert found["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert found["train_accuracy"] == pytest.approx(float((logits.argmax(1) == y)[known].double().mean()))
