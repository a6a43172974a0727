"""WiSEFT: mixtures of weights before and after a fit."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_aux.callbacks import WiSEFT
from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.phases import PhaseSettings, PhaseTrainer


class Theirs(pl.LightningModule):
    """A stranger's linear regression, as a task."""

    def __init__(self, lr: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.lr = nn.Linear(3, 1), lr

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        return self.net(x)

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.task_loss("t", self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def examples(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1, keepdim=True)


def run(tmp_path: Path, wise: WiSEFT, lr: float = 0.2) -> tuple[Theirs, dict[str, Tensor], dict[str, Tensor]]:
    """Return the module, and its weights before the fit and as a run without the callback ends."""
    plain = Theirs(lr)
    before = {n: v.clone() for n, v in plain.state_dict().items()}
    data = DataLoader(TensorDataset(*examples(0)), batch_size=8)
    trainer(tmp_path, max_epochs=3).fit(plain, data)
    module = Theirs(lr)
    trainer(tmp_path, wise, max_epochs=3).fit(module, data)
    return module, before, plain.state_dict()


DATA = {split: {"t": examples(number)} for number, split in enumerate(("train", "val", "test"))}


def test_mixtures_are_evaluated_and_the_network_is_left_alone(tmp_path: Path) -> None:
    wise = WiSEFT([0, 0.25, 1], data=DATA)
    module, before, after = run(tmp_path, wise)
    for name, value in module.state_dict().items():
        assert torch.equal(value, after[name])
    for split in ("val", "test"):
        x, y = DATA[split]["t"]
        for mixing in (0, 0.25, 1):
            weight, bias = ((1 - mixing) * before[n] + mixing * after[n] for n in ("net.weight", "net.bias"))
            loss = float((x @ weight.T + bias - y).square().mean())
            (row,) = [r for r in wise.results if (r.mixing, r.measure) == (mixing, f"{split}_loss")]
            assert row.value == pytest.approx(loss, rel=1e-5)
            assert (row.task, row.phase) == ("t", "")
    rows = list(csv.DictReader((tmp_path / "wise_ft.csv").open()))
    assert [float(row["value"]) for row in rows] == [r.value for r in wise.results]
    assert (tmp_path / "wise_ft.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("lr", "best"), [(0.2, 1.0), (0.9, 0.0)])
def test_keeping_the_best(lr: float, best: float, tmp_path: Path) -> None:
    wise = WiSEFT([0, 0.5, 1], keep_best=True, data=DATA)
    module, before, after = run(tmp_path, wise, lr)  # a large learning rate diverges: before is better
    losses = {r.mixing: r.value for r in wise.results if r.measure == "val_loss"}
    assert wise.best == min(losses, key=losses.__getitem__) == best
    for name, value in module.state_dict().items():
        assert torch.equal(value, (after if best else before)[name])


def test_with_batch_normalization_in_a_run_of_phases(tmp_path: Path) -> None:
    """The ends of the table are what the phases' own tests measure."""
    settings = PhaseSettings(max_epochs=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    wise = WiSEFT([0, 0.5, 1], keep_best=True)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    data = DigitsDataModule(
        n_main=24, n_aux=40, n_val=24, n_test=40, size=8, channels=1, batch_size=8, seed=0
    )
    module = PretrainFinetuneModule(
        net,
        data.num_classes,
        num_features=6,
        pretrain_settings=settings,
        finetune_settings=settings,
        finetune_callbacks=[wise],
        reestimate_batchnorm=False,
    )
    fit = PhaseTrainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=str(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fit.fit(module, datamodule=data)
    found = fit.phase_results[-1].metrics
    kept = {r.measure: r.value for r in wise.results if r.mixing == wise.best}
    assert found["main/test_loss"] == pytest.approx(kept["test_loss"], rel=1e-5)
    assert found["main/test_accuracy"] == pytest.approx(kept["test_accuracy"])
    last = {r.measure: r.value for r in wise.results if r.mixing == 1}
    assert found["main/val_loss"] == pytest.approx(last["val_loss"], rel=1e-5)
    assert {r.phase for r in wise.results} == {"finetune"}
    assert (Path(str(fit.log_dir)) / "wise_ft.png").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mixing": [0.5, 1.5]}, "mixing: 1.5 must be from 0 to 1"),
        ({"mixing": []}, "mixing: .. names no"),
        ({"num_samples": 1}, "num_samples: 1 must"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        WiSEFT(**options)


def test_what_is_missing_is_said_before_training(tmp_path: Path) -> None:
    without = {split: DATA[split] for split in ("train", "test")}
    for wise, said in (
        (WiSEFT(keep_best=True, data=without), "keep_best: there are no validation data"),
        (WiSEFT(tasks=["other"], data=DATA), "WiSEFT: tasks: 'other' is unknown"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            run(tmp_path, wise)


def test_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only_fit = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only_fit))
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines
    words = ["fit", "--model=lit_aux.modules.PretrainFinetuneModule", "--model.backbone=test_resnet"]
    words += [
        "--data=lit_aux.data.DigitsDataModule",
        "--data.n_main=20",
        "--data.n_aux=40",
        "--data.n_test=8",
    ]
    words += ["--data.n_val=8", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    words += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    added = ["--model.finetune_callbacks+=lit_aux.callbacks.L2SP", "--model.finetune_callbacks.alpha=0.5"]
    added += ["--model.finetune_callbacks+=lit_aux.callbacks.WiSEFT"]
    words += ["--data.size=16", "--trainer.limit_val_batches=0", "--trainer.test_after_phase=false"]
    words += ["--trainer.enable_checkpointing=false", "--model.reestimate_batchnorm=false"]
    assert main([*words, *added, "--model.finetune_callbacks.mixing=[0, 1]"]) == 0, capsys.readouterr().err
    assert Path("runs/version_0/wise_ft.csv").is_file()
    assert main([*words, *added, "--model.finetune_callbacks.mixing=[2]"]) != 0
    assert "mixing: 2.0 must be from 0 to 1" in capsys.readouterr().err
    assert main([*words, "--trainer.callbacks+=lit_aux.callbacks.L2SP"]) != 0
    assert "put it into --model.finetune_callbacks" in capsys.readouterr().err
