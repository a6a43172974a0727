"""Training measures, logged once an epoch: the same numbers however often and by whomever they are logged."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from toys import ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux.modules import PretrainFinetuneModule
from lit_aux.modules.deep_training import DeepTraining
from lit_aux.phases import PhaseSettings

EPOCHS = {"pretrain_settings": PhaseSettings(max_epochs=4), "finetune_settings": PhaseSettings(max_epochs=3)}


class Seen(Callback):
    """Notes what callbacks see after each batch and each epoch."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(root: Path, module: PretrainFinetuneModule | None = None) -> tuple[list[dict[str, str]], Seen]:
    """Return the rows of the log, and what callbacks have seen."""
    seed_everything(3)
    seen = Seen()
    stop = EarlyStopping("pretrain/aux/train_loss", patience=1, min_delta=10.0)
    trainer = toy_trainer(root, callbacks=[seen, stop], log_every_n_steps=1, phase_store=False)
    trainer.fit(toy_module(**EPOCHS) if module is None else module, datamodule=ToyData())
    with (root / "version_0" / "metrics.csv").open() as file:
        return [*csv.DictReader(file)], seen


def test_rows_and_what_callbacks_see_are_as_if_each_epoch_were_logged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[bool] = []
    own = DeepTraining._log_again

    def counted(self: Any, name: str, measure: Any) -> bool:
        again.append(own(self, name, measure))
        return again[-1]

    monkeypatch.setattr(DeepTraining, "_log_again", counted)
    rows, seen = fit(tmp_path / "again")
    # two measures each of two epochs that stopped early, then of three
    assert again == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 4
    monkeypatch.setattr(DeepTraining, "_log_again", lambda *_: False)
    expected, others = fit(tmp_path / "anew")
    assert rows == expected
    assert len(rows) > 5
    assert seen.metrics == others.metrics


class Telling(PretrainFinetuneModule):
    """Logs a tensor of its own before and after, and hears what else is logged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[str] = []

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.told.append(name)
        super().log(name, *args, **kwargs)


class Adding(PretrainFinetuneModule):
    """Logs a tensor of its own before and after the measures: the mean over an epoch's batches."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log(
            "own/before", torch.tensor(float(batch_idx + self.current_epoch)), on_epoch=True, on_step=False
        )
        loss = super().training_step(batch, batch_idx)
        self.log(
            "own/after", torch.tensor(float(batch_idx - self.current_epoch)), on_epoch=True, on_step=False
        )
        return loss


def test_a_module_that_logs_in_its_own_way_is_asked_every_epoch(tmp_path: Path) -> None:
    module = Telling(toy_backbone(), {"main": 2, "aux": 2}, **EPOCHS)
    fit(tmp_path, module)
    assert module.told.count("pretrain/aux/train_loss") == 2
    assert module.told.count("finetune/main/train_accuracy") == 3


def test_means_of_tensors_that_a_module_logs_beside_them_are_of_one_epoch(tmp_path: Path) -> None:
    rows, _ = fit(tmp_path, Adding(toy_backbone(), {"main": 2, "aux": 2}, **EPOCHS))
    for name, sign in (("own/before", 1), ("own/after", -1)):
        found = [float(row[name]) for row in rows if row[name]]
        assert found == [1.0 + sign * epoch for epoch in (0, 1, 0, 1, 2)], name
