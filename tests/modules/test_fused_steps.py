"""Steps are fused where torch can and nobody has said otherwise; weights, keys and resumes stay."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from toys import FEATURES, TASKS, ToyData, toy_backbone, toy_trainer

from lit_aux.callbacks import L2SP
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule, optimization
from lit_aux.modules.optimization import choose_step, leaves_steps_to_us
from lit_aux.phases import PhaseCheckpoint, PhaseSettings

Build = Callable[..., Any]


class Steps(Callback):
    """Notes after every step whether it was fused."""

    def __init__(self) -> None:
        self.fused: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.fused += [group["fused"] for group in trainer.optimizers[0].param_groups]


def plain_backbone() -> nn.Module:
    """Return a network without batch normalization.

    In front of it, the gradients of biases are nothing but rounding, which Adam divides by its own size.
    """
    return nn.Sequential(nn.Linear(FEATURES, 12), nn.Tanh(), nn.Linear(12, 10))


def trained(
    root: Path,
    optimizer: Build | None,
    *extra: Callback,
    epochs: int = 4,
    ckpt_path: Path | None = None,
    backbone: nn.Module | None = None,
) -> tuple[dict[str, Tensor], list[Any]]:
    """Return the weights after a fit, and how its steps were taken."""
    seed_everything(3)
    settings = PhaseSettings(optimizer=optimizer, max_epochs=epochs)
    module = SingleTaskModule(backbone or plain_backbone(), TASKS, settings=settings, num_features=10)
    steps = Steps()
    trainer = toy_trainer(root, callbacks=[steps, PhaseCheckpoint(budget=1), *extra])
    trainer.fit(module, datamodule=ToyData(), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return {name: value.clone() for name, value in module.state_dict().items()}, steps.fused


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


OPTIMIZERS: dict[str, Build] = {
    "Adam": partial(Adam, lr=1e-2, amsgrad=True),
    "AdamW": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "SGD": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain SGD": partial(SGD, lr=0.1),
    "Adagrad": partial(Adagrad, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_agree_to_rounding(tmp_path: Path, name: str) -> None:
    build = OPTIMIZERS[name]
    ours, fused = trained(tmp_path / "ours", build)
    plain, not_fused = trained(tmp_path / "plain", partial(build, fused=False))
    assert fused == [True] * 12
    assert not_fused == [False] * 12
    close(ours, plain)


def test_the_default_optimizer_is_fused(tmp_path: Path) -> None:
    assert trained(tmp_path, None, epochs=1)[1] == [True] * 3


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, name: str) -> None:
    whole, _ = trained(tmp_path / "whole", OPTIMIZERS[name])
    trained(tmp_path / "cut", OPTIMIZERS[name], epochs=2)
    (checkpoint,) = (tmp_path / "cut").rglob("train.ckpt")
    again, fused = trained(tmp_path / "again", OPTIMIZERS[name], ckpt_path=checkpoint)
    assert fused == [True] * 6
    assert same(whole, again)


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad"])
def test_a_checkpoint_of_steps_that_were_not_fused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # as it was before
        patch.setattr("lit_aux.modules.deep_training.leaves_steps_to_us", lambda _: False)
        whole, fused = trained(tmp_path / "whole", OPTIMIZERS[name])
        assert fused == [None] * 12
        trained(tmp_path / "cut", OPTIMIZERS[name], epochs=2)
    (checkpoint,) = (tmp_path / "cut").rglob("train.ckpt")
    again, fused = trained(tmp_path / "again", OPTIMIZERS[name], ckpt_path=checkpoint)
    assert fused == [True] * 6
    close(whole, again)


def test_the_key_of_a_stored_phase_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(store: Path) -> list[str]:
        seed_everything(3)
        settings = PhaseSettings(optimizer=OPTIMIZERS["SGD"], max_epochs=1)
        options = {"pretrain_settings": settings, "finetune_settings": settings}
        module = PretrainFinetuneModule(toy_backbone(), TASKS, **options)
        toy_trainer(tmp_path, phase_store=str(store)).fit(module, datamodule=ToyData())
        return sorted(path.name for path in store.iterdir())

    now = keys(tmp_path / "now")
    monkeypatch.setattr("lit_aux.modules.deep_training.leaves_steps_to_us", lambda _: False)
    assert now == keys(tmp_path / "before") != []


@pytest.mark.parametrize(
    "build",
    [
        partial(Adam, foreach=True),
        partial(Adam, foreach=False),
        partial(Adam, fused=False),
        partial(Adam, fused=True),
        partial(AdamW, capturable=True),
        partial(SGD, differentiable=True),
        partial(Adam, lr=torch.tensor(0.1), foreach=False),
        RMSprop,
    ],
)
def test_what_somebody_has_chosen_stays(build: Build) -> None:
    assert not leaves_steps_to_us(build([nn.Parameter(torch.zeros(2))]))


def chosen(parameters: list[nn.Parameter], **trainer: Any) -> Any:
    """Return what a Trainer would choose for a step."""
    known = {"precision_plugin": SimpleNamespace(), "callbacks": [], **trainer}
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    assert leaves_steps_to_us(optimizer)
    choose_step(optimizer, SimpleNamespace(**known))  # type: ignore[arg-type]
    return optimizer.param_groups[0]["fused"]


def parameter(value: Tensor, gradient: Tensor | None) -> nn.Parameter:
    made = nn.Parameter(value)
    made.grad = gradient
    return made


def test_what_is_fused() -> None:
    assert chosen([parameter(torch.ones(2, 3), torch.ones(2, 3)), parameter(torch.ones(3), None)]) is True


@pytest.mark.parametrize(
    ("value", "gradient"),
    [
        (torch.ones(3, 2).t(), torch.ones(2, 3)),
        (torch.ones(2, 3), torch.ones(3, 2).t()),
        (torch.ones(2, 6)[:, ::2], torch.ones(2, 3)),
        (torch.ones(2, 3), torch.ones(2, 3).to_sparse()),
        (torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, 3, dtype=torch.complex64)),
    ],
)
def test_tensors_that_fused_steps_do_not_know(value: Tensor, gradient: Tensor) -> None:
    assert chosen([parameter(value, gradient)]) is None


def test_scaled_gradients_and_a_penalty_that_adds_to_them() -> None:
    weights = [parameter(torch.ones(2), torch.ones(2))]
    assert chosen(weights, precision_plugin=SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))) is None
    assert chosen(weights, precision_plugin=SimpleNamespace(scaler=None)) is True
    assert chosen(weights, callbacks=[L2SP()]) is None


def test_a_gradient_that_comes_later_than_others() -> None:
    """The first momentum of a parameter is its gradient, also where others have one already."""

    def after(fused: bool | None) -> list[Tensor]:
        weights = [parameter(torch.ones(2), torch.ones(2)), parameter(torch.ones(2), None)]
        build = partial(SGD, lr=0.1, momentum=0.9, dampening=0.5, fused=fused)
        optimizer = build(weights)
        for step in range(4):
            weights[1].grad = torch.ones(2) if step else None
            if fused is None:
                choose_step(optimizer, SimpleNamespace(precision_plugin=None, callbacks=[]))  # type: ignore[arg-type]
                assert optimizer.param_groups[0]["fused"] == (True if step != 1 else None)
            optimizer.step()
        return [weight.detach() for weight in weights]

    for ours, plain in zip(after(None), after(False), strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_count_of_steps_moves_to_where_fused_steps_want_it() -> None:
    weight = parameter(torch.ones(2), torch.ones(2))
    optimizer = Adam([weight])
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].double()
    choose_step(optimizer, SimpleNamespace(precision_plugin=None, callbacks=[]))  # type: ignore[arg-type]
    optimizer.step()
    assert optimizer.state[weight]["step"].dtype == torch.float32
    assert optimizer.state[weight]["step"] == 2


class Looked(nn.Module):
    """A table whose gradients are sparse; its rows are chosen by the inputs' signs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * FEATURES, 10, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(torch.arange(FEATURES) + FEATURES * (x > 0)).sum(1)
        return found


class Turned(nn.Module):
    """A layer whose weights lie in memory the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, 10).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


@pytest.mark.parametrize("kind", [Looked, Turned])
def test_networks_that_fused_steps_do_not_know_train_as_before(tmp_path: Path, kind: type[nn.Module]) -> None:
    def weights(root: Path, **options: Any) -> tuple[dict[str, Tensor], list[Any]]:
        seed_everything(1)
        return trained(root, partial(SGD, lr=0.1, **options), backbone=kind())

    (ours, fused), (plain, _) = weights(tmp_path / "1"), weights(tmp_path / "2", fused=False)
    assert fused == [None] * 12
    assert same(ours, plain)


def test_weights_agree_where_a_method_changes_gradients(tmp_path: Path) -> None:
    def weights(root: Path, **options: Any) -> dict[str, Tensor]:
        seed_everything(3)
        settings = PhaseSettings(optimizer=partial(SGD, lr=0.1, momentum=0.9, **options), max_epochs=3)
        module = MultiTaskModule(toy_backbone(), TASKS, settings=settings, weighting="gradnorm")
        toy_trainer(root).fit(module, datamodule=ToyData())
        return module.state_dict()

    close(weights(tmp_path / "1"), weights(tmp_path / "2", fused=False))


def test_a_device_without_fused_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimization, "_has_fused_step", lambda kind, device, dtype: False)
    assert chosen([parameter(torch.ones(2), torch.ones(2))]) is None
