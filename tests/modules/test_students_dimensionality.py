"""RepresentationDimensionality on the hidden layers of students."""

from pathlib import Path

import pytest
import torch

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule
from lit_aux.functional import effective_shared_dimensions, participation_ratio
from lit_aux.models import DiagonalNet, ReLUNet, StudentNet
from lit_aux.modules import PretrainFinetuneModule


def hidden(net: StudentNet, x: torch.Tensor, replica: int) -> torch.Tensor:
    """The hidden layer of a replica, written out."""
    if isinstance(net, ReLUNet):
        return (x @ net.first["weight"][replica].T).clamp(min=0)
    return torch.cat([x * net.first["plus"][replica], x * net.first["minus"][replica]], dim=1)


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
def test_each_replica_has_a_layer(kind: str, tmp_path: Path) -> None:
    net: StudentNet
    if kind == "relu":
        data = ReLUTeacherDataModule(seed=[0, 1], n_main=12, correlation=1.0, n_aux=20, n_test=40)
        net = ReLUNet(15, hidden=20, init_scale=0.5)
    else:
        data = DiagonalTeacherDataModule(
            seed=[0, 1], n_main=6, overlap=2, k_main=3, k_aux=4, n_aux=12, in_features=15, n_test=40
        )  # type: ignore[assignment]
        net = DiagonalNet(15, init_scale=0.5)
    settings = PhaseSettings(stop_at_training_loss=1e-3, max_evaluations=200)
    module = PretrainFinetuneModule(
        net, data.num_classes, pretrain_settings=settings, finetune_settings=settings, rescale=0.5,
        rescale_preset="backbone", readout="reset",
    )  # fmt: skip
    callback = RepresentationDimensionality(["*units.*"], picture=False)
    before: list[torch.Tensor] = []

    class Keep(RepresentationDimensionality):
        def on_train_start(self, trainer, pl_module):  # type: ignore[no-untyped-def]
            if pl_module.phase.name == "finetune":
                with torch.no_grad():
                    x = data.test_set(0, "main")[0]
                    before.extend(hidden(net, x, r).clone() for r in range(2))

    trainer = PhaseTrainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=-1, callbacks=[callback, Keep(["*units.*"], picture=False)], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    results = {r.layer: r for r in callback.results if r.phase == "finetune"}
    assert len(results) == 2
    with torch.no_grad():
        x = data.test_set(0, "main")[0]
        for replica in range(2):
            after, found = hidden(net, x, replica), results[f"net.units.{replica}"]
            assert found.pr_before == pytest.approx(float(participation_ratio(before[replica])), rel=1e-6)
            assert found.pr_after == pytest.approx(float(participation_ratio(after)), rel=1e-6)
            ensd = float(effective_shared_dimensions(before[replica], after))
            assert found.ensd == pytest.approx(ensd, rel=1e-6)
