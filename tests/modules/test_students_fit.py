"""Students through a whole fit: what is interrupted ends as if it had not been, and replicas do not meet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from toys import toy_trainer

from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule, TeacherDataModule
from lit_aux.integrators import GradientDescent, GradientFlow, Integrator
from lit_aux.models import DiagonalNet, ReLUNet, StudentNet
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.phases import PhaseCheckpoint, PhaseSettings

INTEGRATORS: dict[str, Integrator] = {
    "gradient_flow": GradientFlow(),
    "gradient_descent": GradientDescent(0.1),
    "mini-batches": GradientDescent(0.1, batch_size=5),  # 3 and 5 batches, of which blocks of 50 cut some,
}


BLOCKS = {"gradient_flow": 12, "gradient_descent": 50}


class Interrupt(Callback):
    """Ends the process, as far as the run can tell, after a block of a phase."""

    def __init__(self, phase: str, block: int) -> None:
        self.phase, self.block = phase, block

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == self.phase and trainer.global_step == self.block:
            raise ZeroDivisionError


def student(kind: str) -> StudentNet:
    common: dict[str, Any] = {"init_scale": 0.3}
    return DiagonalNet(20, **common) if kind == "diagonal" else ReLUNet(6, hidden=12, **common)


def data_of(kind: str, seeds: list[int], similarity: list[Any]) -> TeacherDataModule:
    common: dict[str, Any] = {"n_main": 12, "n_aux": 24, "n_test": 40, "k_aux": 3, "k_main": 3}
    if kind == "diagonal":
        return DiagonalTeacherDataModule(seeds, overlap=similarity, in_features=20, **common)
    return ReLUTeacherDataModule(
        seeds, correlation=[[float(c > 0)] * 3 for c in similarity], in_features=6, **common
    )


def run(
    root: Path,
    integrator: Integrator,
    *callbacks: Callback,
    kind: str = "diagonal",
    seeds: tuple[int, ...] = (0, 1),
    similarity: tuple[int, ...] = (0, 3),
    evaluations: int = 400,
    ckpt_path: str | None = None,
    block: int | None = None,
    **options: Any,
) -> PretrainFinetuneModule:
    torch.set_num_threads(1)
    seed_everything(0)
    block = block or BLOCKS[integrator.name]
    settings = PhaseSettings(
        integrator=integrator, block=block, stop_at_training_loss=1e-6, max_evaluations=evaluations
    )
    data = data_of(kind, list(seeds), list(similarity))
    chosen = {"readout": "reset", "rescale": 0.5, "rescale_preset": "backbone", **options}
    model = PretrainFinetuneModule(
        student(kind), data.num_classes, pretrain_settings=settings, finetune_settings=settings, **chosen
    )
    trainer = toy_trainer(
        root, callbacks=[PhaseCheckpoint(budget=1.0), *callbacks], max_epochs=-1, phase_store=False
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def numbers(model: PretrainFinetuneModule, phase: str) -> list[dict[str, Any]]:
    assert model.students is not None
    rows = sorted(model.students.results[phase], key=lambda row: int(row["replica"]))
    return [{k: v for k, v in row.items() if k != "seconds" and v == v} for row in rows]


@pytest.fixture(scope="module", params=INTEGRATORS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Integrator, PretrainFinetuneModule]:
    integrator = INTEGRATORS[request.param]
    return integrator, run(tmp_path_factory.mktemp("whole"), integrator)


@pytest.mark.parametrize("when", ["pretraining", "before any has ended", "after one has ended"])
def test_interrupted_and_resumed_is_bit_identical(
    whole: tuple[Integrator, PretrainFinetuneModule], when: str, tmp_path: Path
) -> None:
    integrator, expected = whole
    ended = sorted(row["evaluations"] for row in numbers(expected, "finetune"))
    size = BLOCKS[integrator.name]
    last = -(-ended[-1] // size)
    block = -(-ended[0] // size) + 1 if when == "after one has ended" else 2
    assert block <= last, "all end at once, or too soon"
    interrupt = Interrupt("pretrain" if when == "pretraining" else "finetune", block)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, integrator, interrupt)
    resumed = run(tmp_path, integrator, ckpt_path="last")
    for key, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert numbers(resumed, "finetune") == numbers(expected, "finetune")


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
@pytest.mark.parametrize("name", ["gradient_flow", "gradient_descent"])
def test_a_replica_alone_and_among_others_agrees(name: str, kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kind": kind, "evaluations": 1000, "block": 250}
    together = run(tmp_path / "together", INTEGRATORS[name], **options)
    alone = run(tmp_path / "alone", INTEGRATORS[name], seeds=(1,), similarity=(3,), **options)
    limit = 1e-10 if name == "gradient_descent" else 1e-2
    for key, value in alone.state_dict().items():
        among = together.state_dict()[key][-1]
        assert float((among - value[0]).norm()) <= limit * float(value[0].norm()), key
    (one,), (*_, other) = numbers(alone, "finetune"), numbers(together, "finetune")
    for column in ("loss_best", "loss_final"):
        assert np.isclose(one[column], other[column], rtol=limit)
    assert one["converged"] == other["converged"]


def test_each_replica_has_its_factor(tmp_path: Path) -> None:
    """A replica among others that are rescaled differently ends as among others that are not."""
    descent = INTEGRATORS["gradient_descent"]
    equal = run(tmp_path / "equal", descent, rescale=0.5, block=400)
    mixed = run(
        tmp_path / "mixed",
        descent,
        block=400,
        rescale=[0.5, 0.1, 0.5, 2.0],
        readout_scale=[1.0, 2.0, 1.0, 1.0],
    )
    for key, value in equal.state_dict().items():
        other = mixed.state_dict()[key]
        torch.testing.assert_close(other[[0, 2]], value[[0, 2]], rtol=1e-10, atol=0)
        assert not torch.allclose(other[[1, 3]], value[[1, 3]], rtol=1e-3)
