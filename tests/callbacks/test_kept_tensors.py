"""Networks that keep, in eval mode, what they compute from weights for the next pass."""

from typing import Any

import pytest
import torch
from callback_helpers import trainer
from task_helpers import Stranger, data
from torch import Tensor, nn

from lit_aux.callbacks import FisherTrace, GradientCoherence, GradientConflict, Sharpness

TASKS = ("a", "b")


class Keeping(nn.Module):
    """A shift that is looked up once; the network that keeps nothing looks it up in every pass."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.table, self.scale = nn.Parameter(torch.linspace(-1, 1, 7)), nn.Parameter(torch.ones(1))
        self.keeps = keeps
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if not self.keeps or self.training:
            return self.scale * x + self.table.sin()
        if "shift" not in self.kept:
            self.kept["shift"] = self.table.sin()
            self.factor = 1 * self.scale
        return self.factor * x + self.kept["shift"]


class Biased(Stranger):
    reestimate_batchnorm = True

    def __init__(self, keeps: bool) -> None:
        super().__init__(TASKS)
        self.shared = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), Keeping(keeps), nn.Tanh())


def measured(tmp_path: Any, keeps: bool) -> dict[tuple[str, str, str], float]:
    given = {"data": data(TASKS)}
    callbacks = [
        Sharpness(1e-2, iterations=4, batch_size=20, **given),
        GradientCoherence(batch_size=10, **given),
        FisherTrace(batch_size=20, **given),
        GradientConflict(every_n_steps=2, pairwise_every=1, **given),
    ]
    trainer(tmp_path, *callbacks, max_epochs=1).fit(Biased(keeps))
    rows = [(type(callback).__name__, row) for callback in callbacks for row in callback.results]
    return {(name, row.task, row.measure): row.value for name, row in rows}


def test_no_pass_sees_what_another_one_has_kept(tmp_path: Any) -> None:
    expected, found = (measured(tmp_path / str(keeps), keeps) for keeps in (False, True))
    assert len(found) == 12
    assert found == pytest.approx(expected, rel=1e-6)
