import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import images, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_aux.callbacks import StopAtTrainingLoss
from lit_aux.errors import ConfigurationError


class Scripted(pl.LightningModule):
    """Its loss at each step is written in advance; 10 samples in batches of 4, 4 and 2."""

    def __init__(self, epochs: list[list[float]], automatic: bool = True) -> None:
        super().__init__()
        self.epochs, self.automatic_optimization = epochs, automatic
        self.weight = nn.Parameter(torch.zeros(()))
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        loss = self.weight * 0 + self.epochs[self.current_epoch][batch_idx]
        self.log_dict({"a": loss.detach(), "b": 2 * loss.detach()}, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> DataLoader[Any]:
    return DataLoader(images(10), batch_size=4)


# Size-weighted means: 1.0, 0.5, 0.44, 0.1. The plain mean of the third epoch would be 0.7.
EPOCHS = [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.05, 0.05, 2.0], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("threshold", "epochs"), [(2.0, 1), (0.6, 2), (0.5, 3), (0.45, 3), (0.43, 4), (0.05, 5)]
)
@pytest.mark.parametrize("automatic", [True, False])
def test_stops_at_the_size_weighted_mean(
    tmp_path: Any, threshold: float, epochs: int, automatic: bool
) -> None:
    module, callback = Scripted(EPOCHS, automatic), StopAtTrainingLoss(threshold)
    trainer(tmp_path, callback, max_epochs=5).fit(module, loader())
    assert module.steps == 3 * epochs
    assert callback.stop_reason is not None
    assert callback.stop_reason.endswith(f"< {threshold:g} after {epochs} epoch{'s' if epochs > 1 else ''}")


def test_the_reason_is_for_people(tmp_path: Any) -> None:
    callback = StopAtTrainingLoss(0.45)
    trainer(tmp_path, callback, max_epochs=5).fit(Scripted(EPOCHS), loader())
    assert callback.stop_reason == "training loss 0.44 < 0.45 after 3 epochs"


def test_the_reason_shows_that_the_loss_is_below(tmp_path: Any) -> None:
    callback = StopAtTrainingLoss(1.07)
    trainer(tmp_path, callback).fit(Scripted([[1.06996] * 3] * 2), loader())
    assert callback.stop_reason == "training loss 1.06996 < 1.07 after 1 epoch"


def test_accumulated_gradients_do_not_divide_the_loss(tmp_path: Any) -> None:
    module = Scripted(EPOCHS)
    trainer(tmp_path, StopAtTrainingLoss(0.6), max_epochs=5, accumulate_grad_batches=2).fit(module, loader())
    assert module.steps == 6


@pytest.mark.parametrize(("monitor", "epochs"), [("a", 3), (["a", "b"], 4), ("b", 4)])
def test_all_monitored_metrics_must_be_below(tmp_path: Any, monitor: Any, epochs: int) -> None:
    module, callback = Scripted(EPOCHS), StopAtTrainingLoss(0.45, monitor=monitor)
    trainer(tmp_path, callback, max_epochs=5).fit(module, loader())
    assert module.steps == 3 * epochs
    assert callback.stop_reason is not None
    assert callback.stop_reason.startswith("a 0.1, b 0.2" if len(monitor) == 2 else str(monitor))


def test_min_epochs_comes_first_and_an_earlier_loss_does_not_count(tmp_path: Any) -> None:
    module, callback = (
        Scripted([[0.0] * 3, [0.0] * 3, [1.0] * 3, [0.2] * 3, [0.0] * 3]),
        StopAtTrainingLoss(0.5),
    )
    trainer(tmp_path, callback, max_epochs=5, min_epochs=3).fit(module, loader())
    assert module.steps == 12
    assert callback.stop_reason == "training loss 0.2 < 0.5 after 4 epochs"


def test_nothing_is_said_when_the_loss_stays_above_or_is_not_a_number(tmp_path: Any) -> None:
    callback = StopAtTrainingLoss(0.5)
    trainer(tmp_path, callback, max_epochs=2).fit(Scripted([[1.0] * 3, [math.nan] * 3]), loader())
    assert callback.stop_reason is None


def test_each_fit_starts_afresh(tmp_path: Any) -> None:
    callback = StopAtTrainingLoss(0.6)
    trainer(tmp_path, callback, max_epochs=5).fit(Scripted(EPOCHS), loader())
    assert callback.stop_reason is not None
    trainer(tmp_path, callback, max_epochs=1).fit(Scripted(EPOCHS), loader())
    assert callback.stop_reason is None


def test_a_resumed_run_counts_on_and_a_stopped_one_stays_stopped(tmp_path: Any) -> None:
    def run(max_epochs: int, ckpt: Any = None, **options: Any) -> tuple[Scripted, str | None]:
        script = [[1.0] * 3, [1.0] * 3, [0.2, 0.2, 0.5], [0.0] * 3]
        module, callback = Scripted(script), StopAtTrainingLoss(0.35)
        save = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_top_k=-1, every_n_train_steps=1)
        fit = trainer(tmp_path, callback, save, max_epochs=max_epochs, enable_checkpointing=True, **options)
        fit.fit(module, DataLoader(images(12), batch_size=4), ckpt_path=ckpt)
        return module, callback.stop_reason

    run(5, max_steps=8)  # ends within the third epoch
    part = tmp_path / "epoch=2-step=8.ckpt"
    torch.load(part, weights_only=True)
    module, reason = run(5, part)
    assert (module.steps, reason) == (1, "training loss 0.3 < 0.35 after 3 epochs")

    save = ModelCheckpoint(dirpath=tmp_path / "end", save_last=True, save_on_train_epoch_end=True)
    callback = StopAtTrainingLoss(0.45)
    trainer(tmp_path, callback, save, max_epochs=5, enable_checkpointing=True).fit(Scripted(EPOCHS), loader())
    module, reason = run(5, tmp_path / "end" / "last.ckpt")
    assert (module.steps, reason) == (0, "training loss 0.44 < 0.45 after 3 epochs")


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, math.inf])
def test_bad_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"^threshold: {threshold} [^\n]*$"):
        StopAtTrainingLoss(threshold)


def test_unknown_metrics_are_refused_with_the_nearest_names(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="monitor: 'a_epch' is unknown; did you mean 'a_epoch'"):
        trainer(tmp_path, StopAtTrainingLoss(1.0, monitor="a_epch")).fit(Scripted(EPOCHS), loader())


def test_a_step_without_a_loss_is_refused(tmp_path: Any) -> None:
    class Silent(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            super().training_step(batch, batch_idx)

    with pytest.raises(ConfigurationError, match="returned no loss"):
        trainer(tmp_path, StopAtTrainingLoss(1.0)).fit(Silent(EPOCHS, automatic=False), loader())
