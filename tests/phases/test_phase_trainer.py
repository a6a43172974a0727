"""Phases on one Trainer: what each starts from, what ends it, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from toys import FEATURES, TASKS, ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux import PhaseTrainer
from lit_aux.callbacks import WeightRescaling
from lit_aux.errors import ConfigurationError, NonFiniteLossError
from lit_aux.modules import SingleTaskModule
from lit_aux.phases import Phase, PhaseSettings


class Witness(Callback):
    """Notes, at every step, the phase, the epoch, the step and what trains."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.trainable: dict[str, set[str]] = {}
        self.planned: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.planned[pl_module.phase.name] = trainer.estimated_stepping_batches

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append((pl_module.phase.name, trainer.current_epoch, trainer.global_step))
        names = {n for n, p in pl_module.named_parameters() if p.requires_grad}
        self.trainable[pl_module.phase.name] = names


def test_each_phase_counts_from_zero_and_plans_its_own_steps(tmp_path: Path) -> None:
    witness = Witness()
    trainer = toy_trainer(tmp_path, callbacks=[witness])
    trainer.fit(
        toy_module(finetune="probe_then_full", probe_settings=PhaseSettings(max_steps=4)),
        datamodule=ToyData(),
    )
    phases = ["pretrain", "probe", "finetune"]
    steps = {name: [s for p, _, s in witness.seen if p == name] for name in phases}
    assert steps == {
        "pretrain": list(range(1, 10)),
        "probe": [1, 2, 3, 4],
        "finetune": list(range(1, 7)),
    }
    assert witness.planned == {"pretrain": 9, "probe": 4, "finetune": 6}
    assert witness.trainable["probe"] == {"net.readout.weight", "net.readout.bias"}
    assert len(witness.trainable["finetune"]) > 2
    assert [r.reason for r in trainer.phase_results] == [
        "max_epochs: 3 reached",
        "max_steps: 4 reached",
        "max_epochs: 2 reached",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"max_steps": 2}, [2, 2]), ({"max_epochs": 1}, [3, 3]), ({"fast_dev_run": 2}, [2, 2])],
)
def test_limits_of_the_trainer_hold_for_each_phase(
    tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    trainer = toy_trainer(tmp_path, **options)
    trainer.fit(toy_module(), datamodule=ToyData())
    assert [result.steps for result in trainer.phase_results] == expected


def test_max_time_holds_for_each_phase(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_time="00:00:00:01", limit_val_batches=0)
    endless = PhaseSettings(max_epochs=10**6)
    trainer.fit(toy_module(pretrain_settings=endless, finetune_settings=endless), datamodule=ToyData())
    assert len(trainer.phase_results) == 2
    for result in trainer.phase_results:
        assert result.reason.startswith("max_time")
        assert result.steps > 0


def test_a_phase_starts_from_the_weights_of_the_one_before(tmp_path: Path) -> None:
    ends: dict[str, dict[str, torch.Tensor]] = {}
    starts: dict[str, dict[str, torch.Tensor]] = {}

    class Copy(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            starts[pl_module.phase.name] = {k: v.clone() for k, v in pl_module.state_dict().items()}

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            ends[pl_module.phase.name] = {k: v.clone() for k, v in pl_module.state_dict().items()}

    data = ToyData()
    toy_trainer(tmp_path, callbacks=[Copy()]).fit(toy_module(), datamodule=data)
    parameters = dict(toy_module().named_parameters())
    for name in parameters:
        assert torch.equal(ends["pretrain"][name], starts["finetune"][name]), name
    rows = toy_module().net.task_slices["main"]
    weight = "net.readout.weight"
    assert torch.equal(starts["pretrain"][weight][rows], ends["pretrain"][weight][rows])


def test_the_readout_is_drawn_anew_with_its_scale(tmp_path: Path) -> None:
    kept: dict[str, torch.Tensor] = {}

    class Copy(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            kept[pl_module.phase.name] = pl_module.net.readout.weight.detach().clone()

    net = toy_module(readout="reset", readout_scale=1e-3)
    toy_trainer(tmp_path, callbacks=[Copy()]).fit(net, datamodule=ToyData())
    main = net.net.task_slices["main"]
    assert kept["finetune"][main].abs().max() < 1e-3 < kept["pretrain"][main].abs().max()


def test_the_log_steps_count_on(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, log_every_n_steps=1)
    trainer.fit(toy_module(), datamodule=ToyData())
    rows = [line.split(",") for line in Path(trainer.log_dir, "metrics.csv").read_text().splitlines()]  # type: ignore[arg-type]
    step, first, second = (
        rows[0].index(name) for name in ("step", "pretrain/aux/train_loss", "finetune/main/train_loss")
    )
    pretrain = [int(r[step]) for r in rows[1:] if r[first]]
    finetune = [int(r[step]) for r in rows[1:] if r[second]]
    assert pretrain == [2, 5, 8]
    assert finetune == [11, 14]


def test_rescaling_acts_once_before_finetuning(tmp_path: Path) -> None:
    norms: list[tuple[str, str, float]] = []

    class Norm(Callback):
        def _note(self, when: str, pl_module: Any) -> None:
            total = sum(float(p.detach().double().square().sum()) for p in pl_module.parameters())
            norms.append((when, pl_module.phase.name, total**0.5))

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._note("start", pl_module)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._note("end", pl_module)

    toy_trainer(tmp_path, callbacks=[Norm()]).fit(toy_module(rescale=0.25), datamodule=ToyData())
    found = {(when, phase): norm for when, phase, norm in norms}
    assert found["start", "finetune"] == pytest.approx(0.25 * found["end", "pretrain"], rel=1e-6)


def test_scores_of_stopping_and_checkpoints_start_afresh(tmp_path: Path) -> None:
    stop = EarlyStopping("loss_of_the_phase", patience=1, min_delta=10.0)
    best = ModelCheckpoint(monitor="loss_of_the_phase", filename="best")
    trained: dict[str, int] = {}
    paths: list[str] = []

    class Log(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("loss_of_the_phase", 1.0)
            trained[pl_module.phase.name] = trainer.current_epoch

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            assert isinstance(stop, EarlyStopping)

        def on_test_start(self, trainer: Any, pl_module: Any) -> None:
            paths.append(best.best_model_path)

    trainer = toy_trainer(tmp_path, callbacks=[Log(), stop, best], max_epochs=5)
    long = PhaseSettings(max_epochs=5)
    trainer.fit(toy_module(pretrain_settings=long, finetune_settings=long), datamodule=ToyData())
    assert [r.epochs for r in trainer.phase_results] == [2, 2]
    assert all("early stopping" in r.reason for r in trainer.phase_results)
    assert [Path(p).parent.name for p in paths] == ["pretrain", "finetune"]
    assert all(Path(p).is_file() for p in paths)


def test_training_threshold_says_why(tmp_path: Path) -> None:
    easy = PhaseSettings(max_epochs=400, stop_at_training_loss=0.4)
    trainer = toy_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(toy_module(pretrain_settings=easy), datamodule=ToyData())
    first = trainer.phase_results[0]
    assert 0 < first.epochs < 400
    assert first.reason.startswith("training loss 0.3")
    assert first.metrics["aux/train_loss"] < 0.4


def test_every_phase_has_a_checkpoint_and_a_test(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit(toy_module(), datamodule=ToyData())
    for result, task in zip(trainer.phase_results, ["aux", "main"], strict=True):
        assert Path(str(result.checkpoint)).is_file()
        content = torch.load(str(result.checkpoint), weights_only=True)
        assert content["lit_aux"]["phases"] == ["pretrain", "finetune"]
        assert content["lit_aux"]["current"]["reason"] == result.reason
        assert 0 <= result.metrics[f"{task}/test_accuracy"] <= 1


EVERY_METRIC = {
    f"{phase}/{task}/{stage}_{name}"
    for phase, task in (("pretrain", "aux"), ("finetune", "main"))
    for stage in ("train", "val", "test")
    for name in ("loss", "accuracy")
}


def test_callback_metrics_are_of_all_phases(tmp_path: Path) -> None:
    def fit(ckpt_path: str | None = None) -> PhaseTrainer:
        seed_everything(0, verbose=False)
        trainer = toy_trainer(tmp_path)
        trainer.fit(toy_module(), datamodule=ToyData(), ckpt_path=ckpt_path)
        return trainer

    trainer = fit()
    found = trainer.callback_metrics
    assert {*found} == EVERY_METRIC
    for result in trainer.phase_results:
        for name, value in result.metrics.items():
            assert float(found[f"{result.name}/{name}"]) == value
    again = fit()
    assert again.phase_results[0].reused
    resumed = fit(trainer.phase_results[-1].checkpoint)  # which trains nothing
    for other in (again, resumed):
        assert {name: float(v) for name, v in other.callback_metrics.items()} == {
            name: float(v) for name, v in found.items()
        }
    trainer.test(toy_module(), datamodule=ToyData(), verbose=False)
    assert all("test_" in name for name in trainer.callback_metrics), "of the test alone"


def test_callback_metrics_of_one_phase_without_a_test(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, test_after_phase=False, max_epochs=1, limit_val_batches=0)
    model = SingleTaskModule(toy_backbone(), {"main": 2})
    trainer.fit(model, datamodule=ToyData(tasks=["main"]))
    assert {*trainer.callback_metrics} == {"train/main/train_loss", "train/main/train_accuracy"}


# What is refused


def test_plain_trainer_with_several_phases_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ConfigurationError, match="PhaseTrainer"):
        trainer.fit(toy_module(), datamodule=ToyData())


def test_plain_trainer_with_one_phase_works(tmp_path: Path) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
    )
    data = ToyData(tasks=["main"])
    trainer.fit(SingleTaskModule(toy_backbone(), {"main": 2}), datamodule=data)
    assert "train/main/train_loss" in trainer.callback_metrics


def test_rescaling_among_the_trainers_callbacks_is_refused(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, callbacks=[WeightRescaling(0.5)])
    with pytest.raises(ConfigurationError, match=r"--model\.rescale"):
        trainer.fit(toy_module(), datamodule=ToyData())


def test_spawning_strategies_are_refused(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, strategy="ddp_spawn", devices=2)
    with pytest.raises(ConfigurationError, match="strategy=ddp"):
        trainer.fit(toy_module(), datamodule=ToyData())


def test_checkpoint_of_other_phases_is_refused(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path)
    trainer.fit(
        SingleTaskModule(toy_backbone(), TASKS, settings=PhaseSettings(max_epochs=1)),
        datamodule=ToyData(),
    )
    path = trainer.phase_results[0].checkpoint
    with pytest.raises(ConfigurationError, match=r"--model\.pretrained"):
        toy_trainer(tmp_path).fit(toy_module(), datamodule=ToyData(), ckpt_path=path)


def test_wrong_phases_are_refused() -> None:
    for phases, match in [
        ([], "empty"),
        ([Phase(name="a", tasks=["main"]), Phase(name="a", tasks=["aux"])], "twice"),
        ([Phase(name="a", tasks=["nope"])], "nope"),
    ]:
        with pytest.raises(ConfigurationError, match=match):
            toy_module(phases=phases)
    with pytest.raises(ConfigurationError, match="names no task"):
        Phase(name="a", tasks=[])
    with pytest.raises(ConfigurationError, match="letters"):
        Phase(name="a/b", tasks=["main"])
    model = toy_module(phases=[Phase(name="a", tasks=["main"], trainable=["nothing.*"])])
    with pytest.raises(ConfigurationError, match="matches no parameter"):
        model.enter_phase(model.phases[0])


def test_a_loss_that_is_not_finite_stops_with_phase_and_step(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if pl_module.phase.name == "finetune" and trainer.global_step == 4:
                batch["main"][0].fill_(float("nan"))

    trainer = toy_trainer(tmp_path, callbacks=[Poison()])
    with pytest.raises(
        NonFiniteLossError, match=r"phase 'finetune', epoch 1, step 5: .*pretrain\.ckpt|finetune\.ckpt"
    ):
        trainer.fit(toy_module(), datamodule=ToyData())
    kept = list(tmp_path.glob("version_0/checkpoints/*.ckpt"))
    assert {p.stem for p in kept} >= {"pretrain"}
    for path in kept:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point())


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    class Broken(ToyData):
        def setup(self, stage: str) -> None:
            raise ConfigurationError("--data.root: no data here")

    with pytest.raises(ConfigurationError, match="no data here"):
        toy_trainer(tmp_path).fit(toy_module(), datamodule=Broken())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not list(tmp_path.glob("version_*"))


def test_forward_gives_each_task() -> None:
    model = toy_module().eval()
    x = torch.randn(3, FEATURES)
    everything = model(x)
    assert {task: tuple(y.shape) for task, y in everything.items()} == {"main": (3, 2), "aux": (3, 2)}
    assert torch.equal(model(x, "main"), everything["main"])


def test_seeded_phases_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    states = []
    for extra in (0, 5):

        class Draw(Callback):
            count = extra

            def on_train_end(self, trainer: Any, pl_module: Any) -> None:
                torch.rand(self.count)

        seed_everything(3)
        model = toy_module()
        toy_trainer(tmp_path / str(extra), callbacks=[Draw()]).fit(model, datamodule=ToyData())
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
