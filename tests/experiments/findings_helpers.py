"""Small grids of students through the modules and the PhaseTrainer, and what their seeds say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, seed_everything
from numpy.typing import NDArray
from toys import toy_trainer

from lit_aux import PhaseSettings
from lit_aux.data import TeacherDataModule
from lit_aux.models import StudentNet
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule

SEEDS = list(range(6))
ERRORS = 3
"""A difference counts when it is this many standard errors of the seeds' mean away from none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """A trained grid: log10 of every replica's test loss, its place in the grid, and the network."""

    data: TeacherDataModule
    net: StudentNet
    loss: Floats

    def where(self, values: Floats | None = None, **axes: object) -> Floats:
        """Return the losses (or other values) of the replicas at a place, one a seed, in order of seeds."""
        cells = self.data.replicas
        chosen = [i for i, cell in enumerate(cells) if axes.items() <= cell.items()]
        assert [cells[i]["seed"] for i in chosen] == SEEDS
        return (self.loss if values is None else values)[chosen]


def train(
    setup: str,
    data: TeacherDataModule,
    net: StudentNet,
    threshold: float,
    *,
    rescale: float = 1.0,
    readout_scale: float = 1.0,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train a grid by gradient flow to a training loss; every replica has to get there.

    Args:
        setup: ``STL``, ``MTL`` or ``PT+FT``; the last draws the readout anew and multiplies the first layer
            by ``rescale``, as published.
        data: The grid.
        net: The students.
        threshold: Training loss that ends every phase.
        rescale: Of the first layer after pretraining.
        readout_scale: Of the new readout, relative to the start's.
        callbacks: For the trainer.
    """
    torch.set_num_threads(1)
    seed_everything(0)
    common: dict[str, Any] = {"stop_at_training_loss": threshold, "max_evaluations": 20_000, "chunk": 64}
    settings = PhaseSettings(**common)
    module: AuxiliaryModule
    if setup == "STL":
        module = SingleTaskModule(net, data.num_classes, settings=settings)
    elif setup == "MTL":
        module = MultiTaskModule(net, data.num_classes, settings=settings)
    else:
        module = PretrainFinetuneModule(
            net,
            data.num_classes,
            pretrain_settings=PhaseSettings(test_every=None, **common),
            finetune_settings=settings,
            readout="reset",
            readout_scale=readout_scale,
            rescale=rescale,
            rescale_preset="backbone",
        )
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "phase_store": False}
    trainer = toy_trainer(
        ".",
        max_epochs=-1,
        test_after_phase=False,
        callbacks=list(callbacks),
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(module, datamodule=data)
    assert module.students is not None
    for rows in module.students.results.values():
        assert len(rows) == data.grid_size
        assert all(row["converged"] for row in rows)
    rows = sorted(module.students.results[module.phases[-1].name], key=lambda row: int(row["replica"]))
    return Outcome(data, net, np.log10([row["loss_best"] for row in rows]))


def mean_and_error(values: Floats) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def assert_above(high: Floats, low: Floats, by: float) -> None:
    """Check that values exceed others of the same seeds: on average by a margin, and beyond the seeds' doubt.

    The doubt is the standard error of the mean of the differences: seeds share teachers and inputs.
    """
    mean, error = mean_and_error(high - low)
    assert mean > by, f"{mean:.2f} +- {error:.2f}"
    assert mean > ERRORS * error, f"{mean:.2f} +- {error:.2f}"
