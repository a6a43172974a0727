"""What a fit leaves in the process, and in callbacks that another Trainer gets."""

import gc
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from toys import ToyData, toy_module, toy_trainer

from lit_aux.phases import PhaseSettings

SETTINGS = {
    "pretrain_settings": PhaseSettings(max_epochs=2),
    "finetune_settings": PhaseSettings(max_epochs=2),
}


@pytest.mark.parametrize(
    "callbacks",
    [
        list,
        lambda: [EarlyStopping("pretrain/aux/train_loss")],
        lambda: [StochasticWeightAveraging(swa_lrs=0.1)],
    ],
)
def test_nothing_holds_the_network_of_a_fit(callbacks: Any, tmp_path: Path) -> None:
    def fit() -> list[ref[Any]]:
        module, data = toy_module(**SETTINGS), ToyData()
        trainer = toy_trainer(tmp_path, callbacks=callbacks(), phase_store=False)
        trainer.fit(module, datamodule=data)
        return [ref(one) for one in (trainer, module, module.net, data)]

    left = fit()
    gc.collect()
    assert [one() for one in left] == [None] * 4


def test_what_is_set_after_a_fit_holds_in_the_next(tmp_path: Path) -> None:
    marks: list[Any] = []

    class Marked(EarlyStopping):
        """Has an attribute that a fit replaces."""

        def __init__(self) -> None:
            super().__init__("finetune/main/train_loss", patience=7)
            self.mark: Any = "built"

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            marks.append(self.mark)
            self.mark = pl_module.net

    def fit() -> None:
        module = toy_module(**SETTINGS)
        toy_trainer(tmp_path, callbacks=[stopping], phase_store=False).fit(module, datamodule=ToyData())
        assert stopping.mark is module.net

    stopping = Marked()
    fit()
    fit()
    assert marks == ["built"] * 2, "what a fit has left is not for the next"
    for own in (None, "mine", None):
        stopping.mark = own
        gc.collect()
        fit()
    assert marks[2:] == [None, "mine", None]
