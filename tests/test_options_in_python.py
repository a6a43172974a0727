"""Options that mean nothing, given in Python: a ConfigurationError that names option and value."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from lit_aux.callbacks import (
    L2SP,
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    KMeansInertia,
    RepresentationDimensionality,
    Sharpness,
    StopAtTrainingLoss,
    StudentNorms,
    TrajectoryLog,
    WeightRescaling,
    WiSEFT,
)
from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.integrators import GradientFlow
from lit_aux.models import TimmBackbone
from lit_aux.phases import Phase, PhaseSettings, PhaseTrainer


def test_numbers_that_mean_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"^limit_train_batches: 0 "):
        PhaseTrainer(limit_train_batches=0)
    with pytest.raises(ConfigurationError, match=r"^max_time: '-1' "):
        PhaseSettings(max_time="-1")
    with pytest.raises(ConfigurationError, match=r"^optimizer.lr: inf "):
        PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=float("inf")))
    PhaseSettings(optimizer=torch.optim.LBFGS, lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def no_optimizer(parameters: Any) -> Any:
    return None


IN_PYTHON: list[tuple[str, Callable[[], Any]]] = [
    ("stop_on: 'main'", lambda: PhaseSettings(stop_on=cast(Any, "main"))),
    ("lr_interval: 'hour'", lambda: PhaseSettings(lr_interval=cast(Any, "hour"))),
    ("integrator: 7", lambda: PhaseSettings(integrator=cast(Any, 7))),
    ("max_epochs: 3", lambda: PhaseSettings(max_epochs=cast(Any, "3"))),
    ("optimizer: ", lambda: PhaseSettings(optimizer=no_optimizer)),
    ("tasks: 'main'", lambda: Phase(name="a", tasks=cast(Any, "main"))),
    ("name: 3", lambda: Phase(name=cast(Any, 3), tasks=["main"])),
    ("order: 'x'", lambda: Phase(name="a", tasks=["main"], order=cast(Any, "x"))),
    ("task_weights: [1]", lambda: Phase(name="a", tasks=["main"], task_weights=cast(Any, [1]))),
    ("callbacks: [3]", lambda: Phase(name="a", tasks=["main"], callbacks=cast(Any, [3]))),
    ("trainable: 'x'", lambda: Phase(name="a", tasks=["main"], trainable=cast(Any, "x"))),
    ("--data.n_main 'x'", lambda: DigitsDataModule(n_main=cast(Any, "x"))),
    ("--data.n_main 2.5", lambda: DigitsDataModule(n_main=cast(Any, 2.5))),
    ("--data.batch_size 'x'", lambda: DigitsDataModule(batch_size=cast(Any, "x"))),
    ("--data.seed 'x'", lambda: DigitsDataModule(seed=cast(Any, "x"))),
    ("--data.n [1]", lambda: DigitsDataModule(n=cast(Any, [1]))),
    ("--data.mean x", lambda: DigitsDataModule(mean=cast(Any, "x"))),
    ("--data.classes [1]", lambda: DigitsDataModule(classes=cast(Any, [1]))),
    ("--data.label_noise 'x'", lambda: DigitsDataModule(label_noise=cast(Any, "x"))),
    ("default_root_dir: 3", lambda: PhaseTrainer(default_root_dir=cast(Any, 3))),
    ("alpha: x", lambda: L2SP(alpha=cast(Any, "x"))),
    ("mixing: 'x'", lambda: WiSEFT(mixing=cast(Any, "x"))),
    ("mixing: 3", lambda: WiSEFT(mixing=cast(Any, 3))),
    ("factor: x", lambda: WeightRescaling(factor=cast(Any, "x"))),
    ("threshold: x", lambda: StopAtTrainingLoss(cast(Any, "x"))),
    ("num_samples: x", lambda: RepresentationDimensionality(num_samples=cast(Any, "x"))),
    ("num_samples: 2.5", lambda: FisherTrace(num_samples=cast(Any, 2.5))),
    ("num_samples: x", lambda: WiSEFT(num_samples=cast(Any, "x"))),
    ("num_samples: True", lambda: FisherTrace(num_samples=True)),
    ("chunk: x", lambda: FisherTrace(chunk=cast(Any, "x"))),
    ("rho: x", lambda: Sharpness(rho=cast(Any, "x"))),
    ("layer: 3", lambda: KMeansInertia(cast(Any, 3), k=2)),
    ("min_norm: x", lambda: KMeansInertia("a", k=2, min_norm=cast(Any, "x"))),
    ("every_n_epochs: x", lambda: KMeansInertia("a", k=2, every_n_epochs=cast(Any, "x"))),
    ("aux: 3", lambda: StudentNorms(aux=cast(Any, 3))),
    ("tasks: 'main'", lambda: Sharpness(tasks="main")),
    ("shared: 3", lambda: L2SP(shared=cast(Any, 3))),
    ("splits: 3", lambda: TrajectoryLog(splits=cast(Any, 3))),
    ("include: 'layer1'", lambda: WeightRescaling(0.5, include=cast(Any, "layer1"))),
    ("layers: 3", lambda: RepresentationDimensionality(cast(Any, 3))),
    ("nested_below: x", lambda: RepresentationDimensionality(nested_below=cast(Any, "x"))),
    ("pairwise_every: x", lambda: GradientConflict(pairwise_every=cast(Any, "x"))),
    ("num_batches: x", lambda: GradientCoherence(num_batches=cast(Any, "x"))),
    ("callbacks: [3]", lambda: PhaseTrainer(callbacks=[cast(Any, 3)])),
    ("callbacks.patience: -1", lambda: PhaseTrainer(callbacks=EarlyStopping("a", patience=-1))),
    (
        "callbacks.patience: -1",
        lambda: Phase(name="a", tasks=["main"], callbacks=[EarlyStopping("a", patience=-1)]),
    ),
    ("min_epochs: 5", lambda: PhaseTrainer(min_epochs=5, max_epochs=3)),
    ("min_steps: 5", lambda: PhaseTrainer(min_steps=5, max_steps=3)),
    ("tolerance: x", lambda: GradientFlow(tolerance=cast(Any, "x"))),
    ("name: 3", lambda: TimmBackbone(cast(Any, 3))),
]


@pytest.mark.parametrize(("told", "build"), IN_PYTHON, ids=[told for told, _ in IN_PYTHON])
def test_values_of_another_kind_in_python(told: str, build: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        build()
    assert str(error.value).startswith(told)
