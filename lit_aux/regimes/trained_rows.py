"""ReLU students of a results table, whose rows hold no weights: they train again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_aux.experiments import Options, Run
from lit_aux.experiments.quiet import quiet
from lit_aux.experiments.students import train_again
from lit_aux.models import StudentNet
from lit_aux.regimes.student_features import StudentFeatures


class _Start(Callback):
    """Keeps the weights from which finetuning starts: the readout drawn anew, the first layer rescaled."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = _relu_weights(cast(Any, pl_module).net)


def _relu_weights(net: StudentNet) -> tuple[Tensor, Tensor]:
    """Return the first layer (H, d) and the main readout (H,) of the only replica."""
    first, readout = net.first["weight"].detach()[0], net.readout["weight"].detach()[0]
    return first.cpu().double().clone(), readout[net.task_slice("main").start].cpu().double().clone()


def train_rows(runs: Sequence[tuple[Run, Options]], store: Path) -> Iterator[StudentFeatures]:
    """Train runs of ReLU networks again, one after the other, and yield their units as features.

    Args:
        runs: Of PT+FT, and the options of each.
        store: Folder of pretrained networks; those that it lacks are trained.
    """
    for number, (run, options) in enumerate(runs, 1):
        place = ", ".join(f"{name} {run.axes[name]}" for name in ("seed", "n_main", "rescale"))
        print(f"training run {number} of {len(runs)} again: {place} ...", flush=True)
        start = _Start()
        with quiet():
            net = train_again(run, replace(options, store=store), [start])
        factor = run.axes["rescale"]
        w, v = start.weights
        yield StudentFeatures.of_relu(dict(run.axes), factor, (w / factor, v), _relu_weights(net))
