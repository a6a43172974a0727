"""What belongs to one fit, or one phase of it: it neither stays in objects nor in the Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from toys import FEATURES, TASKS, ToyData, toy_module, toy_trainer

from lit_aux.callbacks import RepresentationDimensionality, StopAtTrainingLoss, WeightRescaling
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.phases import PhaseSettings


class Starts(Callback):
    """Notes the joint norm of all weights before and after on_fit_start, by phase."""

    def __init__(self) -> None:
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    @staticmethod
    def norm(module: Any) -> float:
        return float(torch.cat([p.detach().flatten() for p in module.parameters()]).norm())

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.before[pl_module.phase.name] = self.norm(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.after[pl_module.phase.name] = self.norm(pl_module)


def test_a_module_that_is_fitted_again_is_rescaled_again(tmp_path: Path) -> None:
    module = toy_module(rescale=0.5)
    for number in range(3):
        starts = Starts()
        seed_everything(number)
        toy_trainer(tmp_path, callbacks=[starts], phase_store=False).fit(module, datamodule=ToyData())
        assert starts.after["pretrain"] == starts.before["pretrain"]
        assert starts.after["finetune"] == pytest.approx(0.5 * starts.before["finetune"], rel=1e-6)


def test_a_trainer_that_fits_again_does_so_as_it_did_first(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, phase_store=False)
    outcomes = []
    for _ in range(2):
        seed_everything(1)
        module = toy_module(rescale=0.5)
        trainer.fit(module, datamodule=ToyData())
        outcomes.append([(r.reason, r.epochs, r.metrics) for r in trainer.phase_results])
    assert outcomes[0] == outcomes[1]


class Meddler(Callback):
    """Changes the Trainer's options in the first phase."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        names = (
            "accumulate_grad_batches",
            "gradient_clip_val",
            "check_val_every_n_epoch",
            "limit_val_batches",
        )
        self.seen[pl_module.phase.name] = [getattr(trainer, name) for name in names]
        for name in names:
            setattr(trainer, name, 7)


def test_what_callbacks_change_in_the_trainer_is_put_back(tmp_path: Path) -> None:
    meddler = Meddler()
    trainer = toy_trainer(tmp_path, callbacks=[meddler])
    trainer.fit(toy_module(), datamodule=ToyData())
    assert meddler.seen["pretrain"] == meddler.seen["finetune"] == [1, None, 1, 1.0]
    assert trainer.accumulate_grad_batches == 1
    assert trainer.gradient_clip_val is None


def test_accumulation_is_scheduled_anew_in_each_phase(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, callbacks=[GradientAccumulationScheduler({1: 4})])
    settings = PhaseSettings(max_epochs=2)
    trainer.fit(toy_module(pretrain_settings=settings, finetune_settings=settings), datamodule=ToyData())
    assert [result.steps for result in trainer.phase_results] == [4, 4]  # three steps, then one


@pytest.mark.parametrize("monitor", ["finetune/main/val_loss", "pretrain/aux/val_loss"])
def test_what_monitors_a_phase_waits_for_it(monitor: str, tmp_path: Path) -> None:
    stop = EarlyStopping(monitor, patience=1, min_delta=100.0)
    best = ModelCheckpoint(monitor=monitor, filename="best")
    settings = PhaseSettings(max_epochs=5)
    trainer = toy_trainer(tmp_path, callbacks=[stop, best])
    trainer.fit(toy_module(pretrain_settings=settings, finetune_settings=settings), datamodule=ToyData())
    phase = monitor.partition("/")[0]
    epochs = {result.name: result.epochs for result in trainer.phase_results}
    assert epochs == {"pretrain": 5, "finetune": 5} | {phase: 2}
    assert [path.parent.name for path in tmp_path.rglob("best.ckpt")] == [phase]


def test_a_monitor_of_several_metrics_waits_too(tmp_path: Path) -> None:
    stop = StopAtTrainingLoss(100.0, monitor=["finetune/main/train_loss"])
    trainer = toy_trainer(tmp_path, callbacks=[stop])
    trainer.fit(toy_module(), datamodule=ToyData())
    assert [result.epochs for result in trainer.phase_results] == [3, 1]


def test_measurements_are_of_the_latest_fit(tmp_path: Path) -> None:
    measure = RepresentationDimensionality(["net.backbone.0"], num_samples=20, picture=False)
    for _ in range(2):
        toy_trainer(tmp_path, callbacks=[measure], phase_store=False).fit(toy_module(), datamodule=ToyData())
        assert [row.phase for row in measure.results] == ["pretrain", "finetune"]


def test_two_phases_may_share_a_rescaling(tmp_path: Path) -> None:
    from toys import TASKS, toy_backbone

    from lit_aux.modules import SingleTaskModule
    from lit_aux.phases import Phase

    rescaling, starts = WeightRescaling(0.5), Starts()
    phases = [Phase(name=name, tasks=["main"], max_epochs=1, callbacks=[rescaling]) for name in ("a", "b")]
    trainer = toy_trainer(tmp_path, callbacks=[starts])
    trainer.fit(SingleTaskModule(toy_backbone(), TASKS, phases=phases), datamodule=ToyData())
    for name in ("a", "b"):
        assert starts.after[name] == pytest.approx(0.5 * starts.before[name], rel=1e-6)


def averaged(root: Path, callbacks: list[Any], **settings: Any) -> list[torch.Tensor]:
    """Return the weights of a layer after each epoch of finetuning, and at its end."""
    seen: list[torch.Tensor] = []

    class Looking(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if pl_module.phase.name == "finetune":
                seen.append(pl_module.net.backbone.weight.detach().clone())

    seed_everything(3)
    backbone = nn.Linear(FEATURES, 4, bias=False)
    backbone.num_features = 4  # type: ignore[assignment]
    phase = PhaseSettings(max_epochs=3, **settings)
    model = PretrainFinetuneModule(backbone, TASKS, pretrain_settings=phase, finetune_settings=phase)
    toy_trainer(root, logger=False, phase_store=False, callbacks=[*callbacks, Looking()]).fit(
        model, datamodule=ToyData()
    )
    return [*seen, backbone.weight.detach()]


def test_weights_are_averaged_in_each_phase_and_fit(tmp_path: Path) -> None:
    """Each epoch begins with the weights that the one before left: those are averaged, from epoch 1 on."""
    callback = StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=2)
    for fold in ("a", "b"):
        *epochs, end = averaged(tmp_path / fold, [callback])
        torch.testing.assert_close(end, (epochs[0] + epochs[1]) / 2)


def test_callbacks_of_another_trainer_begin_as_they_were_built(tmp_path: Path) -> None:
    stopping = EarlyStopping("finetune/main/val_loss", patience=1, min_delta=100.0)
    keeping = ModelCheckpoint(monitor="finetune/main/val_loss")
    for fold in ("a", "b"):
        assert len(averaged(tmp_path / fold, [stopping, keeping])) == 1 + 2
        assert Path(keeping.best_model_path).parent == tmp_path / fold / "checkpoints" / "finetune"
    stopping.patience = 2
    assert len(averaged(tmp_path / "c", [stopping, keeping])) == 1 + 3
