"""What a fit says: phases and warnings that matter, no tips; other Trainers say what they always do."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from toys import ToyData, toy_module, toy_trainer

from lit_aux import PhaseTrainer
from lit_aux.phases import quiet

TIPS = (
    "Tip:",
    "litlogger",
    "litmodels",
    "TPU",
    "GPU available: False",
    "Trainer.fit` stopped",
    "weights_only",
)
OTHERS = ("LeafSpec", "logging interval")


class Warns(Callback):
    """Says something that matters and something that does not."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        warnings.warn("the learning rate is odd", UserWarning, stacklevel=1)
        warnings.warn("isinstance(treespec, LeafSpec) is deprecated", UserWarning, stacklevel=1)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def fit_and_predict(folder: Path) -> tuple[list[str], PhaseTrainer]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = toy_trainer(folder, callbacks=[Warns()], phase_store=True, enable_checkpointing=True)
        trainer.fit(toy_module(), datamodule=ToyData())
        trainer.test(trainer.lightning_module, datamodule=ToyData(), verbose=False)
    return [str(one.message) for one in told], trainer


@pytest.mark.parametrize("times", [1, 2])  # the second finds its first phase in the store
def test_a_fit_says_its_phases_and_what_matters(
    times: int, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for _ in range(times):
        said.clear()
        told, _ = fit_and_predict(tmp_path)
    assert "Phase 1 of 2: pretrain on aux" in said.text
    assert [tip for tip in TIPS if tip in said.text] == []
    assert "the learning rate is odd" in told
    assert [text for text in told if any(words in text for words in OTHERS)] == []


def test_a_strangers_trainer_says_what_it_did_before(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    filters, shown = list(warnings.filters), warnings.showwarning
    toy_trainer(tmp_path, logger=False).fit(toy_module(), datamodule=ToyData())
    assert (list(warnings.filters), warnings.showwarning) == (filters, shown)
    said.clear()
    Trainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)
    assert "GPU available" in said.text
    assert "litlogger" in said.text


def test_a_fit_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise RuntimeError("no")

    shown = warnings.showwarning
    with pytest.raises(RuntimeError, match="no"):
        toy_trainer(tmp_path, logger=False, callbacks=[Fails()]).fit(toy_module(), datamodule=ToyData())
    assert warnings.showwarning == shown
    assert not logging.getLogger("lightning.pytorch.utilities.rank_zero").filters


def test_those_inside_may_leave_in_any_order() -> None:
    shown = warnings.showwarning
    first, second = quiet.quiet(), quiet.quiet(logging.WARNING)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.showwarning != shown
    second.__exit__(None, None, None)
    assert warnings.showwarning == shown


def test_a_level_leaves_only_what_is_as_grave(said: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with quiet.quiet(logging.WARNING):
        logger.info("about a phase")
        logger.warning("about a loss")
    assert "about a phase" not in said.text
    assert "about a loss" in said.text


@pytest.mark.parametrize(
    ("jupyter", "widgets", "options", "kind"),
    [
        (True, False, {}, TQDMProgressBar),
        (True, True, {}, RichProgressBar),
        (False, False, {}, RichProgressBar),
        (True, False, {"callbacks": [RichProgressBar()]}, RichProgressBar),
        (True, False, {"enable_progress_bar": False}, type(None)),
    ],
)
def test_a_notebook_without_widgets_gets_a_bar_that_it_can_show(
    jupyter: bool, widgets: bool, options: dict[str, Any], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "find_spec", lambda _: object() if widgets else None)
    monkeypatch.setattr(quiet, "in_notebook", lambda: jupyter)
    trainer = PhaseTrainer(accelerator="cpu", logger=False, **options)
    assert isinstance(trainer.progress_bar_callback, kind)
