"""The trajectory of a fit against losses worked out from the weights of every epoch."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from task_helpers import TASKS, Stranger, examples
from torch import nn
from toys import TASKS as TOY_TASKS
from toys import toy_backbone, toy_trainer

from lit_aux import PhaseSettings
from lit_aux.callbacks import GradientConflict, TrajectoryLog
from lit_aux.callbacks.trajectory_log import COLUMNS
from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule


def splits(task: str) -> dict[str, Any]:
    x, y = examples(task, 90)
    return {"train": (x[:40], y[:40]), "val": (x[40:60], y[40:60]), "test": (x[60:], y[60:])}


def data(tasks: tuple[str, ...] = TASKS) -> dict[str, Any]:
    """Return whole splits, but training examples in three batches of unequal size."""
    found: dict[str, Any] = {
        split: {t: splits(t)[split] for t in tasks} for split in ("train", "val", "test")
    }
    for task, (x, y) in found["train"].items():
        found["train"][task] = [(x[:7], y[:7]), (x[7:30], y[7:30]), (x[30:], y[30:])]
    return found


class Weights(pl.Callback):
    """Keeps a copy of the network before training and after every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def keep(self, module: Any) -> None:
        self.states.append({name: value.clone() for name, value in module.state_dict().items()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.keep(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(pl_module)


class PowerCut(pl.Callback):
    """Ends a fit in its third epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trajectory.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_losses_and_accuracies_are_those_of_the_weights_of_each_epoch(tmp_path: Path) -> None:
    weights, log = Weights(), TrajectoryLog(data=data())
    trainer(tmp_path, log, weights, max_epochs=3).fit(Stranger())
    values = {(r.epoch, r.task, r.measure): r.value for r in log.results}
    assert len(values) == 4 * 3 * 6
    reference = Stranger()
    for epoch, state in enumerate(weights.states):
        reference.load_state_dict(state)
        for task in TASKS:
            for split, (x, y) in splits(task).items():
                with torch.no_grad():
                    logits = reference.heads[task](reference.shared(x))
                loss = float(nn.functional.cross_entropy(logits, y))
                assert values[epoch, task, f"{split}_loss"] == pytest.approx(loss, rel=1e-6)
                accuracy = float((logits.argmax(1) == y).double().mean())
                assert values[epoch, task, f"{split}_accuracy"] == pytest.approx(accuracy)
    assert [r.step for r in log.results[::18]] == [0, 5, 10, 15]


def test_the_file_holds_every_diagnostic_of_the_run(tmp_path: Path) -> None:
    log, conflict = TrajectoryLog(data=data()), GradientConflict(every_n_steps=1, data=data())
    trainer(tmp_path, log, conflict).fit(Stranger())
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert {(row["method"], row["trained"], row["phase"]) for row in rows} == {("MTL", "a|b|c", "")}
    written = [(int(r["epoch"]), int(r["step"]), r["task"], r["measure"], float(r["value"])) for r in rows]
    kept = [(r.epoch, r.step, r.task, r.measure, r.value) for r in (*log.results, *conflict.results)]
    assert written == kept


def test_a_single_task_and_a_longer_period(tmp_path: Path) -> None:
    log = TrajectoryLog(data=data(("b",)), every_n_epochs=2, splits=["train"])
    trainer(tmp_path, log, max_epochs=5).fit(Stranger(("b",)))
    assert {(row["method"], row["trained"]) for row in rows_of(tmp_path)} == {("STL", "b")}
    found = defaultdict(list)
    for row in log.results:
        found[row.measure].append(row.epoch)
    assert found == {"train_loss": [0, 2, 4, 5], "train_accuracy": [0, 2, 4, 5]}


def test_a_period_in_steps_sees_what_happens_within_an_epoch(tmp_path: Path) -> None:
    log = TrajectoryLog(data=data(("b",)), every_n_steps=2, splits=["train"])
    trainer(tmp_path, log, max_epochs=1).fit(Stranger(("b",)))
    found = [(row.epoch, row.step) for row in log.results if row.measure == "train_loss"]
    assert found == [(0, 0), (0, 2), (0, 4), (1, 5)]


def toy_digits(**options: Any) -> DigitsDataModule:
    sizes = {"n_main": 40, "n_aux": 60, "n_val": 20, "batch_size": 16, "size": 8, "channels": 1}
    return DigitsDataModule(classes={"main": [0, 1, 2], "aux": [3, 4, 5]}, **{**sizes, **options})


def fit_toys(folder: Path, *callbacks: pl.Callback, **options: Any) -> MultiTaskModule:
    pl.seed_everything(1)
    digits = toy_digits()
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), toy_backbone())
    settings = PhaseSettings(max_epochs=3)
    module = MultiTaskModule(backbone, {**TOY_TASKS, "main": 3, "aux": 3}, num_features=10, settings=settings)
    checkpoint = options.pop("ckpt_path", None)
    options = {"callbacks": list(callbacks), "check_val_every_n_epoch": 2, **options}
    toy_trainer(folder, **options).fit(module, datamodule=digits, ckpt_path=checkpoint)
    return module


def test_training_is_bit_identical_with_and_without(tmp_path: Path) -> None:
    watching = [TrajectoryLog(), GradientConflict(every_n_steps=1, pairwise_every=1)]
    plain, watched = fit_toys(tmp_path / "a"), fit_toys(tmp_path / "b", *watching)
    assert all(callback.results for callback in watching)
    for (name, value), other in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    # the generators have gone equally far
    assert torch.equal(plain_state(tmp_path / "c"), plain_state(tmp_path / "d", TrajectoryLog()))


def plain_state(folder: Path, *callbacks: pl.Callback) -> Any:
    fit_toys(folder, *callbacks)
    return torch.get_rng_state()


def test_a_run_of_ours_needs_no_options(tmp_path: Path) -> None:
    log = TrajectoryLog()
    module = fit_toys(tmp_path, log)
    data = toy_digits(seed=1)
    last = {(r.task, r.measure): r.value for r in log.results if r.epoch == 3}
    assert {r.phase for r in log.results} == {"train"}
    # the report's own evaluation re-estimates statistics of batch normalization from other batches
    module.eval()
    for task in ("main", "aux"):
        x, y = next(iter(data.task_batches("test", task)))
        with torch.no_grad():
            loss = nn.functional.cross_entropy(module.net(x, task), y)
        assert last[task, "test_loss"] == pytest.approx(float(loss), rel=0.1)
    assert (tmp_path / "version_0" / "trajectory.csv").is_file()


def test_a_resumed_run_has_the_whole_trajectory(tmp_path: Path) -> None:
    whole, cut, rest = TrajectoryLog(), TrajectoryLog(), TrajectoryLog()
    fit_toys(tmp_path / "whole", whole)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_toys(tmp_path / "cut", cut, PowerCut())
    (checkpoint,) = (tmp_path / "cut").rglob("*.ckpt")
    fit_toys(tmp_path / "rest", rest, ckpt_path=str(checkpoint))
    assert {row.epoch for row in cut.results} == {0, 1, 2}
    assert rest.results == whole.results


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": ["trian"]}, "splits"),
        ({"every_n_epochs": 0}, "every_n_epochs: 0"),
        ({"tasks": []}, "tasks"),
    ],
)
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TrajectoryLog(**options)


def test_a_task_without_data_is_refused_before_training(tmp_path: Path) -> None:
    empty = {"train": {"a": examples("a"), "b": [], "c": examples("c")}}
    with pytest.raises(ConfigurationError, match="task 'b' has no training examples"):
        trainer(tmp_path, TrajectoryLog(data=empty)).fit(Stranger())
    with pytest.raises(ConfigurationError, match="the tasks are not known; give data="):
        trainer(tmp_path, TrajectoryLog(tasks=["a"])).fit(Stranger())
