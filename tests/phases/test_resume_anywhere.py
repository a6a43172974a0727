"""Runs that die at any instant of a phase's end, and resumed ones that are not the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from resume_helpers import Dying, Killed, fit, in_process, outcome, stepping
from torch import nn
from toys import TASKS, ToyData, ToyTasks, toy_backbone, toy_trainer

from lit_aux import PhaseTrainer, report
from lit_aux.callbacks import WiSEFT
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule

SPLITS = ("train", "val", "test")


def equal(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("hook", "epoch"),
    [
        ("on_train_epoch_end", 2),  # after the last epoch's checkpoint: a callback behind it
        ("on_train_epoch_end", 1),
        ("on_train_end", 0),
        ("on_test_start", 0),
        ("on_validation_end", 1),
    ],
)
def test_whatever_the_instant(phase: str, hook: str, epoch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Dying(hook, phase, epoch, in_process))
    trainer, model = fit(tmp_path, ckpt_path="last")
    equal(whole[1], model)
    assert outcome(trainer) == outcome(whole[0])
    assert len(trainer.continued) == 1


def test_without_a_seed_a_later_phase_draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(5)
    _, expected = fit(tmp_path / "whole", seed=None)
    torch.manual_seed(5)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", Dying("on_test_start", "pretrain", 0, in_process), seed=None)
    torch.manual_seed(5)
    _, model = fit(tmp_path / "cut", seed=None, ckpt_path="last")
    equal(expected, model)


def stopping() -> list[Callback]:
    return [
        EarlyStopping("finetune/main/train_loss", patience=1, min_delta=10.0, check_on_train_epoch_end=True)
    ]


def test_early_stopping_trains_no_epoch_more(tmp_path: Path) -> None:
    settings = {"max_epochs": 9}

    def run(root: Path, *extra: Callback, **more: Any) -> Any:
        return fit(root, *extra, callbacks=stopping(), settings=settings, **more)

    trainer, expected = run(tmp_path / "whole")
    assert trainer.phase_results[1].epochs == 2
    assert trainer.phase_results[1].reason.startswith("early stopping")
    with pytest.raises(Killed):
        run(tmp_path / "cut", Dying("on_train_end", "finetune", 0, in_process))
    resumed, model = run(tmp_path / "cut", ckpt_path="last")
    equal(expected, model)
    assert outcome(resumed) == outcome(trainer)


# Larger limits


def test_larger_limits_continue_the_last_phase(tmp_path: Path) -> None:
    """As if they had been given at once."""
    longer, expected = fit(tmp_path / "long", callbacks=[], settings={"max_epochs": 5})
    fit(tmp_path / "short", callbacks=[])
    trainer, model = fit(tmp_path / "short", callbacks=[], settings={"max_epochs": 5}, ckpt_path="last")
    equal(expected, model)
    assert outcome(trainer) == outcome(longer)
    assert trainer.phase_results[1].epochs == 5
    summary = (report(trainer) / "summary.json").read_text()
    assert '"continued": [' in summary
    assert "finetune.ckpt" in summary


def test_a_limit_of_the_trainer_continues_one_phase(tmp_path: Path) -> None:
    options: dict[str, Any] = {"callbacks": [], "settings": {"max_epochs": None}}
    fit(tmp_path, max_epochs=3, **options)
    trainer, _ = fit(tmp_path, max_epochs=9, ckpt_path="last", **options)
    assert [result.epochs for result in trainer.phase_results] == [3, 9]
    assert trainer.phase_results[1].reason == "max_epochs: 9 reached"


def test_equal_limits_train_nothing(tmp_path: Path, whole: Any) -> None:
    fit(tmp_path)
    trainer, model = fit(tmp_path, ckpt_path="last")
    equal(whole[1], model)
    assert outcome(trainer) == outcome(whole[0])


def test_limits_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[])
    with pytest.raises(ConfigurationError, match="max_epochs: 2 is less than what phase 'finetune'"):
        fit(tmp_path, callbacks=[], settings={"max_epochs": 2}, ckpt_path="last")
    with pytest.raises(
        ConfigurationError, match=r"max_epochs: phase 'pretrain' .* has ended with max_epochs 3"
    ):
        fit(tmp_path, callbacks=[], max_epochs=2, ckpt_path="last")


def test_a_schedule_whose_length_has_changed_is_refused(tmp_path: Path) -> None:
    def options(epochs: int) -> dict[str, Any]:
        return {
            "settings": {"max_epochs": epochs, "lr_scheduler": lambda o: stretched(o, epochs)},
            "callbacks": [],
        }

    fit(tmp_path, **options(3))
    with pytest.raises(ConfigurationError, match=r"ckpt_path: .*T_max.* 3"):
        fit(tmp_path, ckpt_path="last", **options(5))


def stretched(optimizer: Any, epochs: int) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


# Another run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": ToyData(n=16)}, r"data\.n 24.*16"),
        ({"module": {"reestimate_batchnorm": False}}, r"model\.reestimate_batchnorm True.*False"),
        ({"gradient_clip_val": 0.5}, r"trainer\.gradient_clip_val None.*0\.5"),
        ({"settings": {"lr_scheduler": stepping}}, r"phase finetune\.lr_scheduler"),
        ({"settings": {"stop_at_training_loss": 1e-9}}, r"phase finetune\.stop_at_training_loss"),
        ({"module": {"losses": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))}}, r"model\.evaluation"),
        ({"callbacks": stopping()}, r"callbacks\.EarlyStopping absent"),
    ],
    ids=["data", "batchnorm", "clipping", "schedule", "threshold", "loss", "callback"],
)
def test_other_options_are_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Dying("on_train_epoch_end", "finetune", 1, in_process), callbacks=[])
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match=rf"^ckpt_path: .* had {named}") as error:
        fit(tmp_path, ckpt_path="last", **{"callbacks": [], **change})
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == files


def test_data_of_other_content_is_refused(tmp_path: Path) -> None:
    class Changed(ToyData):
        def fingerprint(self, tasks: Any, order: str = "interleaved") -> str:
            return "other"

    fit(tmp_path, callbacks=[])
    Changed.__name__, Changed.__qualname__, Changed.__module__ = "ToyData", "ToyData", ToyData.__module__
    with pytest.raises(ConfigurationError, match="data of phase"):
        fit(tmp_path, callbacks=[], data=Changed(), ckpt_path="last")


def test_other_versions_are_named_and_taken(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Dying("on_train_epoch_end", "finetune", 1, in_process), callbacks=[])
    (path,) = tmp_path.rglob("finetune.ckpt")
    content = torch.load(path, weights_only=True)
    content["lit_aux"]["depends"]["versions"]["torch"] = "1.0"
    content["lit_aux"]["depends"]["code"] |= {"toys": "edited"}
    content["lit_aux"]["depends"]["options"]["model.net.backbone.0._private"] = "1"
    torch.save(content, path)
    with pytest.warns(UserWarning, match=r"other code of toys, torch 1\.0 \(now"):
        trainer, _ = fit(tmp_path, callbacks=[], ckpt_path="last")
    assert trainer.phase_results[1].epochs == 3


def test_the_same_objects_may_go_on(tmp_path: Path) -> None:
    """A notebook's cell is run again: what the module has counted since is no option."""
    trainer, model = fit(tmp_path, callbacks=[])
    model.seen = 3  # type: ignore[assignment]
    model.net.backbone.cached = [1, 2]  # type: ignore[union-attr, assignment]
    trainer.fit(model, datamodule=ToyData(), ckpt_path=trainer.phase_results[1].checkpoint)  # type: ignore[arg-type]
    assert [result.epochs for result in trainer.phase_results] == [3, 3]


def test_weights_of_another_shape_are_refused_whoevers_module_it_is(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[])
    (path,) = tmp_path.rglob("finetune.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.backbone.0.weight"] = torch.zeros(2, 2)
    torch.save(content, path)
    with pytest.raises(ConfigurationError, match=r"net\.backbone\.0\.weight"):
        fit(tmp_path, callbacks=[], ckpt_path="last")


class Shrinking(Callback):
    """A stranger's, which counts in what it was given."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Shrink less."""
        self.factor *= 1.1


def test_options_of_strangers_callbacks_are_those_they_were_given(tmp_path: Path) -> None:
    first = Shrinking(0.5)
    fit(tmp_path, callbacks=[first])
    fit(tmp_path, callbacks=[first], ckpt_path="last")  # it has counted since
    fit(tmp_path, callbacks=[Shrinking(0.5)], ckpt_path="last")
    with pytest.raises(ConfigurationError, match=r"callbacks\.own Shrinking\.factor 0\.5.*0\.4"):
        fit(tmp_path, callbacks=[Shrinking(0.4)], ckpt_path="last")


def test_what_was_kept_best_is_kept(tmp_path: Path) -> None:
    """WiSEFT leaves the network at its best mixture, also when it had no time to."""

    def mixing() -> dict[str, Any]:
        points = {
            split: {"main": ToyTasks(["main"], 24, 0, k).items["main"]} for k, split in enumerate(SPLITS)
        }
        best = WiSEFT([0.3], keep_best=True, data=points)
        return {"module": {"finetune_callbacks": [best]}, "callbacks": []}

    _, expected = fit(tmp_path / "whole", **mixing())
    with pytest.raises(Killed):
        fit(tmp_path / "cut", Dying("on_train_end", "finetune", 0, in_process), **mixing())
    _, model = fit(tmp_path / "cut", ckpt_path="last", **mixing())
    equal(expected, model)


@pytest.mark.parametrize(
    ("hook", "epoch"), [("on_train_epoch_end", 1), ("on_train_epoch_end", 2), ("on_train_end", 0)]
)
def test_a_phase_that_ends_by_steps_goes_on_as_one_that_ends_by_epochs(
    hook: str, epoch: int, tmp_path: Path
) -> None:
    """Three steps an epoch, seven in all: it ends within one."""
    options: dict[str, Any] = {"settings": {"max_epochs": None, "max_steps": 7}, "callbacks": []}
    whole = fit(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", Dying(hook, "finetune", epoch, in_process), **options)
    trainer, model = fit(tmp_path / "cut", ckpt_path="last", **options)
    equal(whole[1], model)
    assert outcome(trainer) == outcome(whole[0])


class Warming(MultiTaskModule):
    """A schedule as long as the fit, as Lightning's page on it has it."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        length = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=length)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_a_finished_run_with_a_schedule_as_long_as_itself_resumes(tmp_path: Path) -> None:
    def again(epochs: int, ckpt_path: str | None = "last") -> PhaseTrainer:
        trainer = toy_trainer(tmp_path, max_epochs=epochs, logger=False)
        trainer.fit(Warming(toy_backbone(), TASKS), datamodule=ToyData(), ckpt_path=ckpt_path)
        return trainer

    first = again(2, None)
    assert again(2).phase_results[0].metrics == first.phase_results[0].metrics
    with pytest.raises(ConfigurationError, match=r"total_iters .* was 6 .* is 12 now"):
        again(4)


@pytest.mark.parametrize("hook", ["on_train_end", "on_test_start"])
def test_averaged_weights_are_put_back_at_the_end(hook: str, tmp_path: Path) -> None:
    def averaging() -> dict[str, Any]:
        return {"callbacks": [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)]}

    whole = fit(tmp_path / "whole", **averaging())
    with pytest.raises(Killed):
        fit(tmp_path / "cut", Dying(hook, "finetune", 0, in_process), **averaging())
    trainer, model = fit(tmp_path / "cut", ckpt_path="last", **averaging())
    equal(whole[1], model)
    assert outcome(trainer) == outcome(whole[0])
