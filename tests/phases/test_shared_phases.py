"""Which first phases are found again, and which are trained anew: never the weights of another network."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import Timer
from process_helpers import prepared
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from toys import FEATURES, TASKS, ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux.callbacks import KMeansInertia, StopAtTrainingLoss
from lit_aux.data import DiagonalTeacherDataModule, DigitsDataModule
from lit_aux.models import DiagonalNet
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.phases import PhaseSettings, PhaseTrainer

SHORT = {"pretrain_settings": PhaseSettings(max_epochs=1), "finetune_settings": PhaseSettings(max_epochs=1)}
BRIEF = {"limit_train_batches": 1, "limit_val_batches": 0, "test_after_phase": False, "logger": False}


class Convolving(nn.Module):
    """Images from rows of six numbers; how it strides is a tuple."""

    num_features = 6

    def __init__(self, stride: int = 1, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 1, 3, stride, padding=1)
        self.act, self._size = act, [FEATURES]

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, 6)."""
        y = self.act(self.layer(x.unsqueeze(1))).flatten(1)
        return nn.functional.pad(y, (0, FEATURES - y.shape[1]))


class Foreign(Callback):
    """Changes training, by an option that nobody else knows."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Shrink the weights."""
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(self._factor)


class Looking(Callback):
    """Changes nothing, and says so."""

    changes_training = False

    def __init__(self, every: int) -> None:
        self.every = every


class Inherited(KMeansInertia):
    """Derived from one that changes nothing: it may, and does not say."""

    def __init__(self, k: int) -> None:
        super().__init__("net.backbone.0", k)


def fit(root: Path, model: Any = None, data: Any = None, **trainer: Any) -> PhaseTrainer:
    found = toy_trainer(root, **{**BRIEF, **trainer})
    found.fit(toy_module(**SHORT) if model is None else model, datamodule=data or ToyData())
    return found


def reused(root: Path, *builds: Callable[[], dict[str, Any]]) -> list[bool]:
    """Fit what each gives, seeded alike, and return which first phases were found."""
    found = []
    for build in builds:
        seed_everything(4)
        found.append(fit(root, **build()).phase_results[0].reused)
    return found


def module(backbone: nn.Module | None = None, **options: Any) -> PretrainFinetuneModule:
    return PretrainFinetuneModule(backbone or toy_backbone(), TASKS, **{**SHORT, **options})


def scheduled(factor: float) -> PhaseSettings:
    return PhaseSettings(
        max_epochs=1,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        lr_scheduler=lambda o: LambdaLR(o, lambda epoch: factor**epoch),
    )


DIFFERENT: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    "stride": (lambda: {"model": module(Convolving(1))}, lambda: {"model": module(Convolving(2))}),
    "function": (
        lambda: {"model": module(Convolving(act=torch.relu))},
        lambda: {"model": module(Convolving(act=torch.tanh))},
    ),
    "schedule": (
        lambda: {"model": module(pretrain_settings=scheduled(0.9))},
        lambda: {"model": module(pretrain_settings=scheduled(0.8))},
    ),
    "loss": (
        lambda: {"model": module(losses=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))},
        lambda: {"model": module(losses=nn.CrossEntropyLoss(weight=torch.tensor([2.0, 1.0])))},
    ),
    "foreign callback": (lambda: {"callbacks": [Foreign(0.9)]}, lambda: {"callbacks": [Foreign(0.8)]}),
    "two callbacks of a kind": (
        lambda: {"callbacks": [Foreign(0.9), Foreign(0.8)]},
        lambda: {"callbacks": [Foreign(0.7), Foreign(0.8)]},
    ),
    "an order of callbacks": (
        lambda: {"callbacks": [Foreign(0.9), Inherited(2)]},
        lambda: {"callbacks": [Inherited(2), Foreign(0.9)]},
    ),
    "derived callback": (lambda: {"callbacks": [Inherited(2)]}, lambda: {"callbacks": [Inherited(3)]}),
    "stopping": (
        lambda: {"callbacks": [StopAtTrainingLoss(0.1)]},
        lambda: {"callbacks": [StopAtTrainingLoss(0.2)]},
    ),
    "clipping": (lambda: {"gradient_clip_val": 0.1}, lambda: {"gradient_clip_val": 0.2}),
}
ALIKE: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    "nothing": (dict, dict),
    "diagnostic": (dict, lambda: {"callbacks": [KMeansInertia("net.backbone.0", 2)]}),
    "foreign diagnostic": (dict, lambda: {"callbacks": [Looking(3)]}),
    "later phase": (dict, lambda: {"model": module(rescale=0.5, finetune="probe")}),
    "later optimizer": (
        dict,
        lambda: {
            "model": module(finetune_settings=PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, 0.1)))
        },
    ),
    "logger": (dict, lambda: {"logger": "csv"}),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_phase_is_trained(name: str, tmp_path: Path) -> None:
    one, other = DIFFERENT[name]
    assert reused(tmp_path, one, other, one) == [False, False, True]


@pytest.mark.parametrize("name", ALIKE)
def test_the_same_phase_is_found(name: str, tmp_path: Path) -> None:
    one, other = ALIKE[name]
    limits = {"max_epochs": 1}
    assert reused(tmp_path, lambda: one() | limits, lambda: other() | limits) == [False, True]


SOURCE = """
import torch
from torch import nn

class Loss(nn.CrossEntropyLoss):
    def forward(self, x, y):
        return super().forward(FACTOR * x, y)  # REMARK
"""


@pytest.mark.parametrize(("edit", "same"), [(("REMARK", "another"), True), (("FACTOR", "2"), False)])
def test_edited_code_is_another_phase(
    edit: tuple[str, str], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in (SOURCE, SOURCE.replace(*edit)):
        (tmp_path / "shared_loss.py").write_text(text.replace("FACTOR", "1"))
        sys.modules.pop("shared_loss", None)
        kind = __import__("shared_loss").Loss
        found += reused(tmp_path, lambda kind=kind: {"model": module(losses=kind())})  # type: ignore[misc]
        (tmp_path / "shared_loss.py").unlink()
        for cached in tmp_path.glob("__pycache__/*"):
            cached.unlink()
    assert found == [False, same]


class Decaying(DiagonalTeacherDataModule):
    """A teacher whose entries decay."""

    def __init__(self, decay: float, **options: Any) -> None:
        super().__init__(**options)
        self.decay = decay

    def teacher(self, replica: int, task: str) -> Tensor:
        """Return coefficients that decay."""
        beta = super().teacher(replica, task)
        return beta * torch.exp(-self.decay * torch.arange(len(beta), dtype=beta.dtype))


def students(decay: float) -> dict[str, Any]:
    settings = PhaseSettings(max_evaluations=20, block=20)
    data = Decaying(decay, seed=0, n_main=8, overlap=1, k_main=2, k_aux=2, n_aux=16, in_features=10, n_test=8)
    model = PretrainFinetuneModule(
        DiagonalNet(10), data.num_classes, pretrain_settings=settings, finetune_settings=settings
    )
    return {"model": model, "data": data, "max_epochs": -1}


def test_an_option_of_a_derived_data_module_is_another_phase_and_another_run(tmp_path: Path) -> None:
    from lit_aux.experiments.fit_rows import student_rows

    runs = []
    for decay in (1.0, 0.0, 1.0):
        seed_everything(4)
        given = students(decay)
        trainer = fit(tmp_path, **given)
        runs.append((trainer.phase_results[0].reused, student_rows(given["model"])[0]["run"]))
    assert [found for found, _ in runs] == [False, False, True]
    assert runs[0][1] == runs[2][1] != runs[1][1]


class Stretch(nn.Module):
    """An augmentation with an option that is not public."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self._by = (by,)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images times a factor."""
        return x * self._by[0]


def test_an_augmentation_is_known_by_all_that_it_is() -> None:
    def fingerprint(augment: nn.Module | None) -> str:
        data = DigitsDataModule(n_main=20, n_aux=40, augment=augment)
        return data.fingerprint(["aux"])

    found = [fingerprint(augment) for augment in (None, Stretch(1), Stretch(2), Stretch(1))]
    assert len({*found}) == 3
    assert found[1] == found[3]


def test_what_differs_and_what_is_not_shared_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("lit_aux.phases.store.rank_zero_info", said.append)
    reused(tmp_path, lambda: {"model": module(Convolving(1))}, lambda: {"model": module(Convolving(2))})
    assert said == [
        "Phase pretrain is trained anew; the stored one that is nearest differs in "
        "model.net.backbone.layer.stride ((1,) there, (2,) here)"
    ]
    said.clear()
    backbone = toy_backbone()
    backbone.steps = (i for i in range(3))  # type: ignore[assignment]
    reused(tmp_path, lambda: {"model": module(backbone)})
    (line,) = said
    assert line.startswith(
        "Phase pretrain is not shared with other runs: model.net.backbone.steps: a generator"
    )


def train_elsewhere(root: str, answers: Any) -> None:
    torch.set_num_threads(1)
    answers.put(reused(Path(root), lambda: {"model": module(Convolving(2, act=lambda x: x.abs()))}))


def test_another_process_finds_it(tmp_path: Path) -> None:
    context = prepared()
    answers = context.Queue()
    process = context.Process(target=train_elsewhere, args=(str(tmp_path), answers))
    process.start()
    assert answers.get(timeout=120) == [False]
    process.join()
    assert reused(tmp_path, lambda: {"model": module(Convolving(2, act=lambda x: x.abs()))}) == [False]
    train_elsewhere(str(tmp_path), answers)
    assert answers.get(timeout=120) == [True]


def test_a_timer_is_a_limit(tmp_path: Path) -> None:
    from lit_aux.phases.identity import limits_of

    phases = module(pretrain_settings=PhaseSettings(max_epochs=4, max_time="00:00:02:00")).phases
    found = limits_of(phases, 3, -1, [Timer("00:00:01:00")])
    assert found["phase pretrain.max_epochs"] == "3"
    assert found["phase pretrain.max_steps"] == "none"
    assert found["phase pretrain.max_time"] == "60.0"
