"""Runs of small networks, and what is the same of two of them."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from toys import FEATURES, TASKS, ToyData, toy_trainer

from lit_aux import PhaseSettings
from lit_aux.modules import PretrainFinetuneModule


class ResNet(nn.Module):
    """A small residual network with batch normalization, over inputs that are made images."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 6
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv, self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x.view(-1, 1, 2, FEATURES // 2))).relu()
        return (x + self.second(self.conv(x))).relu().mean((2, 3))


class Attention(nn.Module):
    """A small transformer without batch normalization, whose buffer is assigned anew in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 8
        self.embed, self.norm = nn.Linear(1, 8), nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.embed(x.unsqueeze(-1)))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        tokens = tokens + ((q @ k.mT) / 8**0.5).softmax(-1) @ v
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * tokens.detach().mean((0, 1))
        return tokens.mean(1) - 0.01 * self.seen


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
Made = tuple[Any, Any]


def build(
    root: Path,
    backbone: Callable[[], nn.Module],
    factor: float,
    seed: int,
    trainer: Any = None,
    **settings: Any,
) -> Made:
    """Build a run as a command line would."""
    pl.seed_everything(seed, verbose=False)
    callbacks, more = settings.pop("callbacks", []), settings.pop("module", {})
    arguments = {
        "rescale": factor,
        "readout": "reset",
        "pretrain_settings": PhaseSettings(max_epochs=1),
        "finetune_settings": PhaseSettings(**settings),
        "finetune_callbacks": callbacks,
        **more,
    }
    module = PretrainFinetuneModule(backbone(), TASKS, **arguments)
    options = {"check_val_every_n_epoch": 3, "phase_store": False, **(trainer or {})}
    return toy_trainer(root, **options), module


def fit(made: list[Made], *arguments: Any, **options: Any) -> None:
    """Build and carry out a run; keep what was built."""
    data = options.pop("data", ToyData)
    trainer, module = build(*arguments, **options)
    made.append((trainer, module))
    trainer.fit(module, data(n=16, seed=arguments[3]))


def logged(trainer: Any) -> list[dict[str, str]]:
    """Return the lines of a run's log."""
    with (Path(trainer.log_dir) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(one: Made, other: Made, rtol: float) -> None:
    """Compare weights, buffers, optimizer, results, logs and random state."""
    (trainer, module), (trainer_alone, module_alone) = one, other
    states = module.net.state_dict(), module_alone.net.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        scale = float(states[1][name].abs().max()) or 1.0
        assert float((value - states[1][name]).abs().max()) <= rtol * scale, name
        assert value.untyped_storage().nbytes() == value.nbytes, "it is still a part of the stack"
    result, expected = trainer.phase_results[-1], trainer_alone.phase_results[-1]
    assert (result.epochs, result.steps) == (expected.epochs, expected.steps)
    assert result.reason.split(" < ")[-1] == expected.reason.split(" < ")[-1]
    assert result.metrics.keys() == expected.metrics.keys()
    for name, number in expected.metrics.items():
        assert result.metrics[name] == pytest.approx(number, rel=rtol, abs=rtol), name
    lines, lines_alone = logged(trainer), logged(trainer_alone)
    assert len(lines) == len(lines_alone)
    for line, line_alone in zip(lines, lines_alone, strict=True):
        assert line.keys() == line_alone.keys()
        for name, text in line_alone.items():
            assert (line[name] == "") == (text == ""), name
            if text:
                assert float(line[name]) == pytest.approx(float(text), rel=max(rtol, 1e-6), abs=rtol), name
