"""What is unusual in a network, a loss, an optimizer or data: a fit ends as alone, or is trained alone."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_helpers import SGD, Made, assert_same, fit
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from toys import FEATURES, TASKS, ToyData, toy_trainer

from lit_aux import PhaseSettings
from lit_aux.batched import End, fit_together
from lit_aux.callbacks import StopAtTrainingLoss
from lit_aux.modules import SingleTaskModule

Backbone = Callable[[int], nn.Module]


def around(layer: nn.Module) -> nn.Module:
    """Return a backbone with a layer in its middle."""
    backbone = nn.Sequential(nn.Linear(FEATURES, 8), layer, nn.Tanh(), nn.Linear(8, 8))
    backbone.num_features = 8  # type: ignore[assignment]
    return backbone


class Odd(nn.Module):
    """A layer that may do anything as it runs."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(8, 8), 0
        self.register_buffer("seen", torch.zeros(8))
        self.register_buffer("count", torch.tensor(0))


class Counts(Odd):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x / (1 + 0.1 * self.calls)


class RarelyDraws(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training and random.random() < 0.02 else x


class HasAnotherNumber(Odd):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = 1.0 + number / 1000

    def forward(self, x: Tensor) -> Tensor:
        return x * self.number


class HasAnotherConstant(Odd):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.constants = [torch.full((8,), 1.0 + number / 1000)]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.constants[0].to(x)


class ScalesGradients(Odd):
    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: 0.1 * gradient)
        return x


class SharesMemory(Odd):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.second = nn.Linear(8, 8)
        self.second.weight.data = self.linear.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.linear(x).relu())


class MasksGradients(Odd):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.linear.weight.register_hook(lambda gradient: gradient.tril())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class ReassignsAlways(Odd):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = 0.9 * self.seen + x.detach().mean(0)
        return x - 0.1 * self.seen


class ChangesDtype(Odd):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count = 0.9 * self.count + 1
        return x / (1 + self.count)


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.embed = 8, nn.Embedding(3, 8, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed((x > 0).long() + (x > 1).long()).mean(1)


def images(momentum: float) -> nn.Module:
    return around(nn.BatchNorm1d(8, momentum=momentum))


def of(kind: type[Odd]) -> Backbone:
    return lambda i: around(kind(i))


def pair(tmp_path: Path, backbone: Backbone, run: Any = fit, **options: Any) -> list[End]:
    """Fit two runs together and alone, and compare them; return how they ended together."""
    made: list[Made] = []
    expected: list[Made] = []
    options = {"optimizer": SGD, "max_epochs": 2, "trainer": {"precision": "64-true"}, **options}

    def call(into: list[Made], name: str, i: int) -> None:
        own = {key: value(i) if key == "module" else value for key, value in options.items()}
        run(into, tmp_path / f"{name}{i}", partial(backbone, i), (1.0, 0.5)[i], 0, **own)

    ends = fit_together([partial(call, made, "together", i) for i in range(2)])
    for i in range(2):
        call(expected, "alone", i)
        assert ends[i].error is None
        folder = str(tmp_path / f"together{i}")
        assert_same(next(one for one in made if one[0].default_root_dir == folder), expected[i], 1e-9)
    assert ends[0].reason == ends[1].reason
    return ends


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        (of(Counts), "changes what it holds as it runs: backbone.1.calls"),
        (of(RarelyDraws), "draws at random as it runs"),
        (of(HasAnotherNumber), "no other fit has the same network"),
        (of(HasAnotherConstant), "no other fit has the same network"),
        (of(ScalesGradients), "gives another gradient"),
        (of(SharesMemory), "share memory"),
        (of(MasksGradients), "'backbone.1.linear.weight' has hooks"),
        (of(ReassignsAlways), ""),
        (lambda i: Embeds(), "padding_idx"),
    ],
    ids=lambda value: "" if callable(value) else value[:20],
)
def test_networks(tmp_path: Path, backbone: Backbone, reason: str) -> None:
    # in single precision little differences would pass for rounding; double ends the sharing
    precision = "32-true" if "no other" in reason or "memory" in reason else "64-true"
    (end, _) = pair(tmp_path, backbone, trainer={"precision": precision})
    assert reason in end.reason
    assert bool(reason) == bool(end.reason)


def test_momentum_of_statistics_that_are_kept(tmp_path: Path) -> None:
    options = {"module": lambda i: {"reestimate_batchnorm": False}}
    assert not pair(tmp_path / "alike", lambda i: images(0.2), **options)[0].reason
    assert "no other fit" in pair(tmp_path / "differ", lambda i: images((0.1, 0.5)[i]), **options)[0].reason


def test_a_readout_of_zeros_hides_nothing(tmp_path: Path) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + np.random.rand())  # noqa: NPY002

    (end, _) = pair(tmp_path, lambda i: around(Noise()), module=lambda i: {"readout_scale": 0.0})
    assert end.reason


def single(
    made: list[Made], root: Path, backbone: Any, *_: Any, trainer: Any, module: Any = None, **own: Any
) -> None:
    seed_everything(0, verbose=False)
    built = SingleTaskModule(backbone(), TASKS, settings=PhaseSettings(**own), **(module or {}))
    made.append((toy_trainer(root, phase_store=False, **trainer), built))
    made[-1][0].fit(built, ToyData(n=16))


def test_a_buffer_of_another_dtype(tmp_path: Path) -> None:
    (end, _) = pair(tmp_path, of(ChangesDtype), single)
    assert "count becomes another tensor" in end.reason


class LearnedTemperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * self.temperature, y)


def test_a_loss_with_a_parameter(tmp_path: Path) -> None:
    def losses(i: int) -> Any:
        return {"losses": LearnedTemperature()}

    (end, _) = pair(tmp_path, lambda i: around(nn.Identity()), module=losses)
    assert "temperature' trains and is no part of the network" in end.reason


def clamping(parameters: Any) -> torch.optim.Optimizer:
    """Return an optimizer after whose steps weights lie elsewhere in memory."""
    optimizer = torch.optim.SGD(parameters, lr=0.05)

    def clamp(*_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.data = parameter.data.clamp(-0.2, 0.2)

    optimizer.register_step_post_hook(clamp)
    return optimizer


@pytest.mark.parametrize("optimizer", [partial(torch.optim.Adam, lr=0.01, fused=True), clamping])
def test_optimizers(tmp_path: Path, optimizer: Any) -> None:
    assert not pair(tmp_path, lambda i: around(nn.Identity()), optimizer=optimizer)[0].reason


class Augmented(Dataset[Any]):
    """Data with a generator of their own."""

    def __init__(self, data: Any) -> None:
        self.data, self.generator = data, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return {task: (x + self.generator.normal(), y) for task, (x, y) in self.data[i].items()}


class AugmentedData(ToyData):
    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        return DataLoader(Augmented(loader.dataset), batch_size=self.batch, shuffle=True)


def test_data_that_draw_by_themselves(tmp_path: Path) -> None:
    assert not pair(tmp_path, lambda i: around(nn.Identity()), data=AugmentedData)[0].reason


def test_fits_of_other_tasks(tmp_path: Path) -> None:
    def tasks(i: int) -> Any:
        return {"pretrain_tasks": ["aux"], "finetune_tasks": [["main"], ["main", "aux"]][i]}

    (end, _) = pair(tmp_path, lambda i: around(nn.Identity()), module=tasks)
    assert "no other fit" in end.reason


def test_heads_of_absent_tasks(tmp_path: Path) -> None:
    def heads(i: int) -> Any:
        torch.manual_seed(i)
        return {"heads": {task: nn.Linear(8, 2) for task in ("main", "aux")}}

    assert not pair(tmp_path, lambda i: around(nn.Identity()), module=heads)[0].reason


def test_loggers_of_which_a_process_may_have_one(tmp_path: Path) -> None:
    made: list[Made] = []
    options = {"trainer": {"logger": DummyLogger()}, "max_epochs": 1}
    calls = [
        partial(fit, made, tmp_path / str(i), lambda: around(nn.Identity()), 1.0, i, **options)
        for i in range(2)
    ]
    assert [end.reason for end in fit_together(calls)] == ["logger DummyLogger"] * 2


@pytest.mark.parametrize("shared", ["callback", "weights", "data"])
def test_what_fits_must_not_share(tmp_path: Path, shared: str) -> None:
    made: list[Made] = []
    layer, data, stop = around(nn.Identity()), ToyData(n=16), StopAtTrainingLoss(0.1)
    options = {
        "callback": {"callbacks": [stop]},
        "weights": {},
        "data": {"data": lambda **_: data},
    }[shared]
    backbone = (lambda: layer) if shared == "weights" else (lambda: around(nn.Identity()))
    tasks = [{"finetune_tasks": ["main"]}, {"finetune_tasks": ["aux"], "pretrain_tasks": ["main"]}]
    own = [{"module": tasks[i] if shared == "data" else {}} for i in range(2)]
    calls = [
        partial(fit, made, tmp_path / str(i), backbone, 1.0, 0, max_epochs=1, **options, **own[i])
        for i in range(2)
    ]
    first, second = fit_together(calls)
    assert first.error is None
    said = {
        "callback": "callbacks: StopAtTrainingLoss",
        "weights": "module: its parameter",
        "data": "data: a ToyData",
    }
    assert str(second.error).startswith(said[shared])
    assert "build one for each" in str(second.error)
