"""L2SP against autograd of the penalty, in the project's modules and in somebody else's."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, images, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import ToyData, toy_module, toy_trainer

from lit_aux.callbacks import L2SP
from lit_aux.errors import ConfigurationError
from lit_aux.phases import PhaseSettings

SHARED = ["net.0.*", "net.1.*"]


def loader() -> DataLoader[Any]:
    return DataLoader(images(24), batch_size=6)


class Gradients(pl.Callback):
    """Compares the gradients that the optimizer gets with those of loss and penalty by autograd."""

    def __init__(self, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self.start: dict[str, Tensor] = {}
        self.plain: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.plain = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        twins = {n: p.detach().clone().requires_grad_() for n, p in pl_module.named_parameters()}
        frozen = {n for n, p in pl_module.named_parameters() if not p.requires_grad}
        shared = {n for n in twins if n.startswith(("net.0.", "net.1."))}
        penalty = sum(self.alpha / 2 * (twins[n] - self.start[n]).square().sum() for n in shared)
        penalty = penalty + sum(self.beta / 2 * twins[n].square().sum() for n in twins if n not in shared)
        added = dict(zip(twins, torch.autograd.grad(penalty, list(twins.values())), strict=True))
        for name, parameter in pl_module.named_parameters():
            if name in frozen:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, self.plain[name] + added[name])
        self.steps += 1


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_is_that_of_the_penalty(frozen: bool, tmp_path: Path) -> None:
    module = Foreign()
    if frozen:
        module.net[1].requires_grad_(False)
    l2_sp, check = L2SP(alpha=0.7, beta=0.3, shared=SHARED), Gradients(0.7, 0.3)
    before = [p.detach().clone() for p in module.net[1].parameters()]
    trainer(tmp_path, l2_sp, check).fit(module, loader())
    assert check.steps == 8
    same = [torch.equal(a, b) for a, b in zip(before, module.net[1].parameters(), strict=True)]
    assert same == [frozen, frozen]


def test_what_is_logged_is_the_penalty(tmp_path: Path) -> None:
    module, l2_sp, found = Foreign(), L2SP(alpha=0.7, beta=0.3, shared=SHARED), {}
    start = {n: p.detach().clone() for n, p in module.named_parameters()}

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            found.update(metrics)

    trainer(tmp_path, l2_sp, logger=Logger(), max_epochs=1).fit(module, loader())
    now = dict(module.named_parameters())
    distance = sum(float((now[n] - start[n]).square().sum()) for n in now if n[4] in "01")
    rest = sum(float(now[n].square().sum()) for n in now if n[4] not in "01")
    assert found["l2_sp/distance"] == pytest.approx(distance**0.5, rel=1e-5)
    assert found["l2_sp/penalty"] == pytest.approx((0.7 * distance + 0.3 * rest) / 2, rel=1e-5)


def test_a_strong_penalty_keeps_the_weights(tmp_path: Path) -> None:
    distances = []
    for alpha in (0.0, 10.0):
        module = Foreign()
        start = module.net[0].weight.detach().clone()
        trainer(tmp_path, L2SP(alpha=alpha, beta=0, shared=SHARED), max_epochs=4).fit(module, loader())
        distances.append(float((module.net[0].weight - start).norm()))
    assert distances[1] < distances[0] / 2


def test_a_resumed_fit_has_the_same_start(tmp_path: Path) -> None:
    def run(epochs: int, path: str | None = None) -> Any:
        module, saving = Foreign(), ModelCheckpoint(tmp_path, filename="half", save_on_train_epoch_end=True)
        module.net[4] = nn.Identity()  # dropout would draw other numbers
        callbacks = [L2SP(0.5, shared=SHARED), *([saving] if epochs == 2 else [])]
        fit = trainer(tmp_path, *callbacks, max_epochs=epochs, enable_checkpointing=epochs == 2)
        fit.fit(module, loader(), ckpt_path=path)
        return module

    whole, _ = run(4), run(2)
    resumed = run(4, str(tmp_path / "half.ckpt"))
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    content = torch.load(tmp_path / "half.ckpt", weights_only=True)
    content["callbacks"] = {}
    torch.save(content, tmp_path / "without.ckpt")
    with pytest.raises(ConfigurationError, match="started without L2SP"):
        run(4, str(tmp_path / "without.ckpt"))


def test_it_belongs_into_one_phase(tmp_path: Path) -> None:
    settings = PhaseSettings(max_epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    options = {"pretrain_settings": settings, "finetune_settings": settings}
    with pytest.raises(ConfigurationError, match=r"every phase .pretrain, finetune.; put it into --model"):
        toy_trainer(tmp_path, callbacks=[L2SP()]).fit(toy_module(**options), datamodule=ToyData())
    starts: dict[str, Any] = {}

    class Watch(L2SP):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            starts[pl_module.phase.name] = dict(self.start)
            starts["weights"] = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    module = toy_module(rescale=0.5, finetune="probe_then_full", finetune_callbacks=[Watch()], **options)
    toy_trainer(tmp_path, test_after_phase=False).fit(module, datamodule=ToyData())
    assert set(starts) == {"finetune", "weights"}
    assert set(starts["finetune"]) == {n for n in starts["weights"] if "readout" not in n}
    for name, value in starts["finetune"].items():
        assert torch.equal(value, starts["weights"][name])


@pytest.mark.parametrize(("option", "value"), [("alpha", -1.0), ("beta", float("inf"))])
def test_bad_strengths(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}: {value}"):
        L2SP(**{option: value})


def test_a_module_that_does_not_say_what_is_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="L2SP: shared: name the parameters"):
        trainer(tmp_path, L2SP()).fit(Foreign(), loader())
