"""When a phase starts from weights that nothing has trained."""

from pathlib import Path
from typing import Any

import pytest
from toys import TASKS, ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.models import TimmBackbone
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.reporting import layer_table


def text_of(rows: Any) -> str:
    return layer_table(rows).render("text")


def test_pretraining_has_no_verdict_and_finetuning_has(tmp_path: Path) -> None:
    measure = RepresentationDimensionality(["net.backbone.0"], num_samples=20)
    toy_trainer(tmp_path, callbacks=[measure]).fit(toy_module(), datamodule=ToyData())
    first, second = measure.results
    assert (first.phase, first.shown_verdict, second.phase) == ("pretrain", "", "finetune")
    assert second.shown_verdict.strip("()") in ("lazy", "nested", "replaced")
    assert "Dimensions before and after pretrain" in text_of([first])
    assert "verdict" not in text_of([first])
    assert "Which features finetune reused" in text_of([second])


@pytest.mark.parametrize("kind", [SingleTaskModule, MultiTaskModule])
def test_training_from_scratch_has_no_verdict(kind: Any) -> None:
    assert kind(TimmBackbone("test_resnet"), TASKS).starts_untrained


def test_a_backbone_that_came_pretrained_has_one() -> None:
    backbone = TimmBackbone("test_resnet")
    backbone.pretrained = "weights.pth"
    assert not SingleTaskModule(backbone, TASKS).starts_untrained


def test_finetuning_what_is_given_has_one() -> None:
    assert not PretrainFinetuneModule(toy_backbone(), {"main": 2}).starts_untrained


def test_later_phases_have_one() -> None:
    module = toy_module()
    assert module.starts_untrained
    module.enter_phase(module.phases[1])
    assert not module.starts_untrained
