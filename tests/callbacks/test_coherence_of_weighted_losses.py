"""Scatter of examples' gradients where a loss is no mean over examples."""

from typing import Any

import pytest
import torch
from callback_helpers import trainer
from task_helpers import Stranger, examples
from torch import Tensor, nn

from lit_aux.callbacks import GradientCoherence

N = 40
WEIGHT = torch.tensor([0.3, 2.0])


class Still(Stranger):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.task_outputs("a", batch["a"][0]).sum()


class Weighted(Still):
    """Classes weigh unlike; says itself what its mean is divided by."""

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, y, WEIGHT)

    def task_mean(self, task: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.task_loss(task, outputs, y).detach(), WEIGHT[y].sum()


class Summed(Weighted):
    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, y, WEIGHT, reduction="sum")

    def task_mean(self, task: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().task_loss(task, outputs, y).detach(), WEIGHT[y].sum()


class Several(Still):
    """Two targets an example, of which the second may be missing."""

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs[:, :, None].expand(-1, -1, 2), y)


def several(y: Tensor) -> Tensor:
    return torch.stack([y, torch.where(torch.arange(N) % 3 == 0, 1 - y, -100)], 1)


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("kind", [Weighted, Summed, Several])
def test_moments_are_of_parts_of_the_whole_loss(tmp_path: Any, kind: type[Stranger], size: int) -> None:
    x, y = examples("a", N)
    y = several(y) if kind is Several else y
    module = kind(("a",), lr=0.0)
    coherence = GradientCoherence(batch_size=size, data={"train": {"a": (x, y)}})
    trainer(tmp_path, coherence, max_epochs=1).fit(module)
    found = {row.measure: row.value for row in coherence.results}

    counts = (y >= 0).sum(1).float() if kind is Several else WEIGHT[y]
    rows = []
    for i in range(N):
        loss = module.task_loss("a", module.task_outputs("a", x[i : i + 1]), y[i : i + 1])
        part = loss if kind is Summed else loss * counts[i]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(part, module.shared.parameters())]))
    each = torch.stack(rows) * N / counts.sum()
    assert found["gradient_norm"] == pytest.approx(each.mean(0).norm().item(), rel=1e-4)
    if size == 1:
        variance = each.var(0, correction=0).sum().item()
        assert found["gradient_variance"] == pytest.approx(variance, rel=1e-4)
