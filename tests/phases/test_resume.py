"""Runs that are killed and resumed end as if nothing had happened; first phases are shared."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from process_helpers import prepared
from toys import ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.errors import ConfigurationError
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.phases import PhaseCheckpoint, PhaseSettings, PhaseStore, PhaseTrainer

LAYERS = ["net.backbone.0", "net.backbone.2"]


class KillAt(Callback):
    """Sends this process SIGKILL after a step of a phase."""

    def __init__(self, phase: str, step: int) -> None:
        self.phase, self.step = phase, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == self.phase and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    root: Path, *extra: Callback, ckpt_path: str | None = None, **options: Any
) -> tuple[PhaseTrainer, Any]:
    """Run the same two phases as every other test here."""
    seed_everything(11)
    model: PretrainFinetuneModule = toy_module(
        rescale=0.5,
        pretrain_settings=PhaseSettings(
            max_epochs=4, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)
        ),
        finetune_settings=PhaseSettings(max_epochs=4, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)),
    )
    measure = RepresentationDimensionality(LAYERS, num_samples=20, picture=False)
    options = {"phase_store": False, **options}
    trainer = toy_trainer(root, callbacks=[measure, PhaseCheckpoint(budget=1.0), *extra], **options)
    trainer.fit(model, datamodule=ToyData(), ckpt_path=ckpt_path)
    return trainer, model


def run_and_die(root: str, phase: str, step: int) -> None:
    torch.set_num_threads(1)
    run(Path(root), KillAt(phase, step))


def outcome(trainer: PhaseTrainer) -> list[Any]:
    measure = next(c for c in trainer.callbacks if isinstance(c, RepresentationDimensionality))
    results = [
        {k: v for k, v in r.asdict().items() if k not in ("seconds", "checkpoint")}
        for r in trainer.phase_results
    ]
    return [results, measure.results]


@pytest.mark.parametrize(("phase", "step"), [("pretrain", 8), ("finetune", 5), ("finetune", 1)])
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, phase: str, step: int) -> None:
    torch.set_num_threads(1)
    whole, expected = run(tmp_path / "whole")
    context = prepared()
    process = context.Process(target=run_and_die, args=(str(tmp_path / "killed"), phase, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    trainer, model = run(tmp_path / "killed", ckpt_path="last")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert outcome(trainer) == outcome(whole)


def test_resuming_a_finished_run_trains_nothing_more(tmp_path: Path) -> None:
    whole, expected = run(tmp_path)
    trainer, model = run(tmp_path, ckpt_path="last")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in expected.state_dict().items())
    assert outcome(trainer) == outcome(whole)


def test_last_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="starting anew"):
        trainer, _ = run(tmp_path, ckpt_path="last")
    assert [r.epochs for r in trainer.phase_results] == [4, 4]


def test_requeued_slurm_job_resumes_only_in_its_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Requeue(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if pl_module.phase.name == "pretrain" and trainer.current_epoch == 2:
                trainer.save_checkpoint(tmp_path / "cut" / "hpc_ckpt_1.ckpt")
                raise KeyboardInterrupt

    whole, expected = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", Requeue())
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lit_aux.phases.resume.SLURMEnvironment.detect", staticmethod(lambda: True))
    trainer, model = run(tmp_path / "cut")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in expected.state_dict().items())
    assert outcome(trainer) == outcome(whole)


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_broken_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"ckpt_path: .*broken\.ckpt") as error:
        run(tmp_path, ckpt_path=str(path))
    assert "\n" not in str(error.value)


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        run(tmp_path, ckpt_path=str(tmp_path / "none.ckpt"))


# The store of first phases


def test_a_first_phase_is_reused_and_nothing_differs(tmp_path: Path) -> None:
    alone, expected = run(tmp_path / "alone")
    first, _ = run(tmp_path / "shared", phase_store=str(tmp_path / "store"))
    second, model = run(tmp_path / "shared", phase_store=str(tmp_path / "store"))
    assert [r.reused for r in first.phase_results] == [False, False]
    assert [r.reused for r in second.phase_results] == [True, False]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in expected.state_dict().items())
    old, new = outcome(alone)[0], outcome(second)[0]
    assert new[0] == {**old[0], "reused": True}
    assert new[1] == old[1]
    assert second.phase_results[0].checkpoint is not None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"rescale": 0.1}, True),
        ({"finetune": "probe"}, True),
        ({"finetune_settings": PhaseSettings(max_epochs=1)}, True),
        ({"pretrain_settings": PhaseSettings(max_epochs=2)}, False),
        (
            {
                "pretrain_settings": PhaseSettings(
                    max_epochs=1, optimizer=lambda p: torch.optim.Adam(p, lr=0.5)
                )
            },
            False,
        ),
        ({"losses": torch.nn.CrossEntropyLoss(label_smoothing=0.1)}, False),
        ({"reestimate_batchnorm": False}, False),
    ],
)
def test_what_concerns_the_first_phase_decides_reuse(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    for options in ({}, change):
        seed_everything(4)
        short = {"pretrain_settings": PhaseSettings(max_epochs=1)}
        trainer = toy_trainer(tmp_path)
        trainer.fit(toy_module(**{**short, **options}), datamodule=ToyData())
    assert trainer.phase_results[0].reused is same


@pytest.mark.parametrize(("seed", "data"), [(5, ToyData()), (4, ToyData(n=16))])
def test_other_seed_or_data_is_another_phase(tmp_path: Path, seed: int, data: ToyData) -> None:
    for number, source in ((4, ToyData()), (seed, data)):
        seed_everything(number)
        trainer = toy_trainer(tmp_path)
        trainer.fit(toy_module(pretrain_settings=PhaseSettings(max_epochs=1)), datamodule=source)
    assert not trainer.phase_results[0].reused


def test_an_unseeded_run_stores_nothing(tmp_path: Path) -> None:
    toy_trainer(tmp_path).fit(toy_module(pretrain_settings=PhaseSettings(max_epochs=1)), datamodule=ToyData())
    assert not (tmp_path / "phases").exists()


def test_the_store_lets_one_train_and_others_wait(tmp_path: Path) -> None:
    mine, other = PhaseStore(tmp_path), PhaseStore(tmp_path)
    assert mine.claim("k") == "claimed"
    assert other.claim("k") == "busy"
    mine.save("k", {"state_dict": {"a": torch.ones(2)}})
    mine.release()
    assert other.claim("k") == "found"
    assert torch.equal(other.load("k")["state_dict"]["a"], torch.ones(2))


def test_a_failed_claim_is_free_again(tmp_path: Path) -> None:
    mine, other = PhaseStore(tmp_path), PhaseStore(tmp_path)
    assert mine.claim("k") == "claimed"
    mine.release()
    assert other.claim("k") == "claimed"


def test_many_ask_at_once_one_trains(tmp_path: Path) -> None:
    trained: list[int] = []

    def ask(number: int) -> None:
        store = PhaseStore(tmp_path)
        while (answer := store.claim("k")) == "busy":
            time.sleep(0.01)
        if answer == "claimed":
            trained.append(number)
            time.sleep(0.1)
            store.save("k", {"state_dict": {}, "who": number})
            store.release()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1


# Starting from a saved first phase


def test_pretrained_equals_the_whole_run(tmp_path: Path) -> None:
    whole, expected = run(tmp_path / "whole")
    path = str(whole.phase_results[0].checkpoint)
    seed_everything(11)
    model = toy_module(
        rescale=0.5,
        pretrained=path,
        finetune_settings=PhaseSettings(max_epochs=4, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)),
    )
    assert [phase.name for phase in model.phases] == ["finetune"]
    toy_trainer(tmp_path / "second").fit(model, datamodule=ToyData())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in expected.state_dict().items())


def test_pretrained_of_another_network_is_refused(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    path = str(whole.phase_results[0].checkpoint)
    wrong = torch.load(path, weights_only=True)
    wrong["state_dict"]["net.backbone.0.weight"] = torch.zeros(3, 3)
    torch.save(wrong, tmp_path / "wrong.ckpt")
    with pytest.raises(ConfigurationError, match=r"pretrained: .*net\.backbone\.0\.weight.*another network"):
        toy_module(pretrained=str(tmp_path / "wrong.ckpt"))
    del wrong["state_dict"]["net.backbone.0.weight"]
    torch.save(wrong, tmp_path / "wrong.ckpt")
    with pytest.raises(ConfigurationError, match="lacks"):
        toy_module(pretrained=str(tmp_path / "wrong.ckpt"))


def test_pretrained_with_other_tasks_keeps_the_backbone(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    path = str(whole.phase_results[0].checkpoint)
    model = PretrainFinetuneModule(toy_backbone(), {"main": 5}, pretrained=path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(model.state_dict()["net.backbone.0.weight"], stored["net.backbone.0.weight"])
    assert model.net.readout.weight.shape == (5, 10)
