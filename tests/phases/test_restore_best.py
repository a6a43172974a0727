"""The best weights come back at the end of a phase, and everybody who looks sees them."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from process_helpers import together
from torch import Tensor, nn
from torch.optim import SGD
from toys import TASKS, Cut, ToyData, toy_backbone, toy_module, toy_trainer
from two_process_restore_script import Scripted, run

from lit_aux.callbacks import WeightRescaling
from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import Phase, PhaseCheckpoint, PhaseSettings
from lit_aux.phases.monitors import is_validated

LOSSES = [3.0, 1.0, math.nan, 2.0, 1.0, math.inf]
"""Best at epoch 1; again at epoch 4."""


class Weights(Callback):
    """Notes the state at the end of every validation, and what the phase's end looks like to others."""

    changes_training = False

    def __init__(self) -> None:
        self.validated: dict[int, dict[str, Tensor]] = {}
        self.at_end: dict[str, Tensor] = {}
        self.tested: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated[trainer.current_epoch] = state(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.at_end = state(pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.tested = state(pl_module)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def fit(
    root: Path,
    *callbacks: Callback,
    losses: list[float] = LOSSES,
    epochs: int = 6,
    ckpt_path: Path | None = None,
    module: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[SingleTaskModule, Any]:
    """Train one phase whose validation measures what it is told."""
    seed_everything(4)
    given = {"restore_best": "main/val_loss", "max_epochs": epochs, "optimizer": partial(SGD, lr=0.1)}
    phase = Phase(name="train", tasks=["main"], **{**given, **options})
    found = SingleTaskModule(toy_backbone(), TASKS, phases=[phase], **(module or {}))
    watched = [Scripted("train/main/val_loss", losses), PhaseCheckpoint(budget=1.0), *callbacks]
    own = toy_trainer(root, callbacks=watched, num_sanity_val_steps=0, **(trainer or {}))
    own.fit(found, datamodule=ToyData(), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return found, own


def test_the_first_of_the_best_is_tested_saved_and_told(tmp_path: Path) -> None:
    weights = Weights()
    module, trainer = fit(tmp_path, weights)
    best = weights.validated[1]
    assert same(state(module), best)
    assert same(weights.at_end, best)
    assert same(weights.tested, best)
    (saved,) = tmp_path.rglob("train.ckpt")
    assert same(torch.load(saved, weights_only=True)["state_dict"], best)
    assert not same(best, weights.validated[4])
    (result,) = trainer.phase_results
    assert result.reason == "max_epochs: 6 reached; weights of epoch 1 (train/main/val_loss 1)"
    assert result.metrics["best_epoch"] == 1
    assert result.metrics["main/val_loss"] == 1.0
    assert result.epochs == 6
    assert float(trainer.callback_metrics["train/main/val_loss"]) == 1.0
    assert float(trainer.callback_metrics["train/best_epoch"]) == 1
    # what is said of them is what they do, statistics of batch normalization included
    plain = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    (tested,) = plain.test(module, ToyData(), verbose=False)
    assert tested["train/main/test_loss"] == pytest.approx(result.metrics["main/test_loss"], rel=1e-6)


def test_the_largest_where_more_is_better_and_every_second_epoch(tmp_path: Path) -> None:
    weights = Weights()
    options = {"restore_best": "train/main/val_loss", "restore_mode": "max"}
    module, trainer = fit(tmp_path, weights, trainer={"check_val_every_n_epoch": 2}, **options)
    assert sorted(weights.validated) == [1, 3, 5]
    assert same(state(module), weights.validated[3])  # 1, 2, infinity
    assert trainer.phase_results[0].metrics["best_epoch"] == 3


def test_nothing_but_nan_leaves_the_last(tmp_path: Path) -> None:
    weights = Weights()
    module, trainer = fit(tmp_path, weights, losses=[math.nan] * 3, epochs=3)
    assert same(state(module), weights.validated[2])
    assert "weights of the last epoch" in trainer.phase_results[0].reason
    assert "best_epoch" not in trainer.phase_results[0].metrics


def test_metrics_say_themselves_what_is_better(tmp_path: Path) -> None:
    """Against the accuracies that are logged; measures of training as well, whose statistics are anew."""
    weights, seen = Weights(), []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append({n: float(v) for n, v in trainer.callback_metrics.items()})

    module, trainer = fit(tmp_path / "a", weights, Note(), restore_best="main/val_accuracy")
    values = [metrics["train/main/val_accuracy"] for metrics in seen]
    best = values.index(max(values))
    assert trainer.phase_results[0].metrics["best_epoch"] == best
    assert same(state(module), weights.validated[best])
    weights = Weights()
    module, trainer = fit(tmp_path / "b", weights, restore_best="main/train_loss")
    values = [metrics["train/main/train_loss"] for metrics in seen]
    best = values.index(min(values))
    assert trainer.phase_results[0].metrics["best_epoch"] == best
    assert same(state(module), weights.validated[best])


@pytest.mark.parametrize(
    ("name", "validated"),
    [
        ("finetune/main/val_loss", True),
        ("val_loss", True),
        ("finetune/my_val_loss", True),
        ("finetune/value/train_loss", False),
        ("finetune/interval/train_accuracy", False),
        ("finetune/value/val_accuracy", True),
    ],
)
def test_names_of_tasks_do_not_say_what_is_validated(name: str, validated: bool) -> None:
    assert is_validated(name) == validated


class Late(Cut, Checkpoint):
    """After all other callbacks have looked."""


@pytest.mark.parametrize(("epoch", "batch"), [(0, None), (2, 1), (3, None), (5, 0), (5, None)])
def test_a_resume_ends_with_the_same(tmp_path: Path, epoch: int, batch: int | None) -> None:
    whole, trainer = fit(tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Late(tmp_path / "cut.ckpt", epoch, batch))
    again, other = fit(tmp_path / "again", ckpt_path=tmp_path / "cut.ckpt")
    if batch is None:  # the toys' loaders begin their epoch anew
        assert same(state(whole), state(again))
    first, second = (one.phase_results[0] for one in (trainer, other))
    assert first.reason == second.reason
    assert (first.metrics if batch is None else {}) == (second.metrics if batch is None else {})
    # and from the end once more, where nothing trains
    (saved,) = (tmp_path / "again").rglob("train.ckpt")
    ended, last = fit(tmp_path / "ended", ckpt_path=saved)
    assert same(state(again), state(ended))
    assert last.phase_results[0].reason == second.reason


def test_more_epochs_go_on_from_the_last_weights(tmp_path: Path) -> None:
    losses = [*LOSSES, 5.0, 0.5]
    whole, _ = fit(tmp_path / "whole", losses=losses, epochs=8)
    fit(tmp_path / "short", losses=losses, epochs=6)
    (saved,) = (tmp_path / "short").rglob("train.ckpt")
    longer, trainer = fit(tmp_path / "long", losses=losses, epochs=8, ckpt_path=saved)
    assert trainer.phase_results[0].metrics["best_epoch"] == 7
    for name, value in state(whole).items():
        torch.testing.assert_close(value, state(longer)[name], rtol=1e-5, atol=1e-6, msg=name)
    again, trainer = fit(tmp_path / "worse", losses=[*LOSSES, 5.0, 6.0], epochs=8, ckpt_path=saved)
    assert trainer.phase_results[0].metrics["best_epoch"] == 1
    assert same(state(again), torch.load(saved, weights_only=True)["state_dict"])


def digits(**options: Any) -> DigitsDataModule:
    return DigitsDataModule(
        **{"n_main": 20, "n_aux": 80, "n_val": 16, "size": 8, "channels": 1, "seed": 0, **options}
    )


def pretrained(**options: Any) -> PretrainFinetuneModule:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
    settings = {"max_epochs": 3, "optimizer": partial(SGD, lr=0.5), "restore_best": "aux/val_loss"}
    return PretrainFinetuneModule(
        net,
        {"main": 2, "aux": 8},
        num_features=8,
        pretrain_settings=PhaseSettings(**{**settings, **options}),
        finetune_settings=PhaseSettings(max_epochs=1),
    )


def test_the_next_phase_and_the_store_take_the_best(tmp_path: Path) -> None:
    losses = [1.0, 2.0, 3.0]

    class Start(Weights):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if pl_module.phase.name == "finetune":
                self.start = state(pl_module)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if pl_module.phase.name == "pretrain":
                super().on_validation_end(trainer, pl_module)

    def once(data: DigitsDataModule) -> tuple[Start, Any]:
        seed_everything(1)
        start = Start()
        trainer = toy_trainer(tmp_path, callbacks=[start, Scripted("pretrain/aux/val_loss", losses)])
        trainer.fit(pretrained(), datamodule=data)
        return start, trainer

    start, trainer = once(digits())
    assert same(start.start, start.validated[0])
    again, other = once(digits())
    assert other.phase_results[0].reused
    assert same(again.start, start.start)
    assert other.phase_results[0].reason == trainer.phase_results[0].reason
    assert other.phase_results[0].metrics["best_epoch"] == 0
    assert float(other.callback_metrics["pretrain/aux/val_loss"]) == 1.0
    # which weights are the best depends on what validates
    assert not once(digits(n_val=17))[1].phase_results[0].reused


def test_two_processes_end_with_the_same(tmp_path: Path) -> None:
    together(Path(__file__).with_name("two_process_restore_script.py"), tmp_path)
    whole, again = (
        [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]
        for name in ("whole", "again")
    )
    one = run(tmp_path / "one", 1)
    for found in (*whole, *again):
        assert found["reason"] == one["reason"]
        assert same(found["weights"], whole[0]["weights"])


# Early stopping of a phase


def test_early_stopping_of_each_phase(tmp_path: Path) -> None:
    seed_everything(1)
    stops = [EarlyStopping(f"{phase}/val_loss", patience=2) for phase in ("pretrain/aux", "finetune/main")]
    settings = [PhaseSettings(max_epochs=20, callbacks=[stop]) for stop in stops]
    rescaling = WeightRescaling(0.5, preset="weights")
    settings[1].callbacks.append(rescaling)
    module = toy_module(pretrain_settings=settings[0], finetune_settings=settings[1], rescale=0.5)
    scripted = [
        Scripted(name, [1.0, 2.0, 3.0, 4.0]) for name in ("pretrain/aux/val_loss", "finetune/main/val_loss")
    ]
    trainer = toy_trainer(tmp_path, callbacks=scripted, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=ToyData())
    assert [result.epochs for result in trainer.phase_results] == [3, 3]
    for result, stop in zip(trainer.phase_results, stops, strict=True):
        assert result.reason == f"early stopping: {stop.monitor} did not improve for 2 checks"
    assert rescaling.norm_after == pytest.approx(rescaling.norm_before / 2)
    # the same callbacks count afresh in another run
    toy_trainer(tmp_path, callbacks=scripted, num_sanity_val_steps=0).fit(module, datamodule=ToyData())
    assert stops[0].stopped_epoch == 2


def test_early_stopping_resumes_and_what_it_kept_is_the_best(tmp_path: Path) -> None:
    def once(root: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> Any:
        stop = EarlyStopping("train/main/val_loss", patience=3)
        return fit(
            root, *callbacks, callbacks=[stop], ckpt_path=ckpt_path, losses=[2.0, 1.0, 3.0, 4.0, 5.0, 6.0]
        )

    whole, trainer = once(tmp_path / "whole")
    with pytest.raises(SystemExit):
        once(tmp_path / "cut", Late(tmp_path / "cut.ckpt", 3, None))
    again, other = once(tmp_path / "again", ckpt_path=tmp_path / "cut.ckpt")
    assert same(state(whole), state(again))
    for one in (trainer, other):
        assert one.phase_results[0].epochs == 5
        assert one.phase_results[0].reason == (
            "early stopping: train/main/val_loss did not improve for 3 checks; weights of epoch 1 "
            "(train/main/val_loss 1)"
        )


def test_callbacks_of_finetuning_are_not_those_of_the_probe_before() -> None:
    stop = EarlyStopping("finetune/main/val_loss")
    settings = PhaseSettings(callbacks=[stop], unfreeze={0: ["net.readout.*"], 1: ["*"]}, max_epochs=2)
    module = toy_module(finetune="probe_then_full", finetune_settings=settings, rescale=0.5)
    pretrain, probe, finetune = module.phases
    assert [len(phase.callbacks) for phase in (pretrain, probe, finetune)] == [0, 1, 1]
    assert isinstance(probe.callbacks[0], WeightRescaling)
    assert finetune.callbacks == [stop]
    assert probe.unfreeze is None
    assert finetune.unfreeze == settings.unfreeze


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a mistyped metric": ({"restore_best": "main/val_acuracy"}, "did you mean 'train/main/val_accuracy'"),
    "an unknown metric": (
        {"restore_best": "f1"},
        "'train/f1' is unknown; did you mean 'train/main/val_loss'",
    ),
    "of another task": ({"restore_best": "aux/val_loss"}, "is unknown"),
    "a test": ({"restore_best": "main/test_accuracy"}, "is unknown"),
    "no name": ({"restore_best": True}, "restore_best: True is no name"),
    "an unknown mode": ({"restore_mode": "best"}, "restore_mode: 'best' is unknown"),
    "a mode alone": ({"restore_best": None, "restore_mode": "min"}, "restore_mode: 'min' of what?"),
    "never validated": ({"max_epochs": 2, "every": 3}, "is never measured"),
    "no validation": ({"limit": 0}, "limit_val_batches is 0"),
    "averages": ({"own": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging also decides"),
    "averages of a phase": ({"callbacks": [EMAWeightAveraging()]}, "EMAWeightAveraging also decides"),
    "stops at nothing": (
        {"callbacks": [EarlyStopping("main/val_loss")]},
        "did you mean 'train/main/val_loss'",
    ),
    "stops at nothing ever": (
        {"own": [EarlyStopping("val_los")]},
        "trainer.callbacks: EarlyStopping: monitor: 'val_los'",
    ),
    "keeps nothing": (
        {"own": [ModelCheckpoint(monitor="train/val_loss")]},
        "trainer.callbacks: ModelCheckpoint: monitor: ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_one_line_before_anything_trains(tmp_path: Path, name: str) -> None:
    given, message = BAD[name]
    options, how = {**given}, {}
    own = options.pop("own", [])
    how |= {"check_val_every_n_epoch": options.pop("every")} if "every" in options else {}
    how |= {"limit_val_batches": options.pop("limit")} if "limit" in options else {}

    def train() -> None:
        phase = Phase(name="train", tasks=["main"], **{"restore_best": "main/val_loss", **options})
        module = SingleTaskModule(toy_backbone(), TASKS, phases=[phase])
        toy_trainer(tmp_path, callbacks=own, logger=False, **how).fit(module, datamodule=ToyData())

    with pytest.raises(ConfigurationError) as error:
        train()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_later_phase_is_looked_at_before_the_first(tmp_path: Path) -> None:
    def refused(message: str, data: Any = None, **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=message):
            toy_trainer(tmp_path, logger=False).fit(toy_module(**options), datamodule=data or ToyData())
        assert not [*tmp_path.rglob("*.ckpt")]

    best = PhaseSettings(restore_best="finetune/main/val_f1")
    refused("restore_best: 'finetune/main/val_f1' is unknown", finetune_settings=best)
    other = PhaseSettings(restore_best="pretrain/aux/val_loss")
    refused("is of phase 'pretrain', and would be waited for in phase 'finetune'", finetune_settings=other)
    stop = PhaseSettings(callbacks=[EarlyStopping("finetune/main/val_los")])
    refused(
        "callbacks: EarlyStopping: monitor: .* did you mean 'finetune/main/val_loss'", finetune_settings=stop
    )
    twice = PhaseSettings(callbacks=[WeightRescaling(0.5)])
    with pytest.raises(ConfigurationError, match="rescaled twice"):
        toy_module(finetune_settings=twice, rescale=0.5)
    module = pretrained(restore_best="aux/val_loss")
    with pytest.raises(ConfigurationError, match="task 'aux' has none; see --data"):
        toy_trainer(tmp_path, logger=False).fit(module, datamodule=digits(n_val=0))


def test_students_and_a_plain_trainer_and_a_metric_without_direction(tmp_path: Path) -> None:
    settings = PhaseSettings(restore_best="main/val_loss")
    with pytest.raises(ConfigurationError, match="not for students"):
        SingleTaskModule(DiagonalNet(4), {"main": 1}, settings=settings)
    module = SingleTaskModule(toy_backbone(), TASKS, settings=settings)
    with pytest.raises(ConfigurationError, match="plain Trainer"):
        Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path).fit(module, datamodule=ToyData())
    phase = Phase(name="train", tasks=["main", "aux"], restore_best="main/weight")
    both = MultiTaskModule(toy_backbone(), TASKS, phases=[phase])
    with pytest.raises(ConfigurationError, match="give restore_mode"):
        toy_trainer(tmp_path, logger=False).fit(both, datamodule=ToyData())
