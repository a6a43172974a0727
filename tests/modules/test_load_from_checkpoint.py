"""Every module comes back from a checkpoint of any Trainer, of a command line or of Python."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import nn
from toys import TASKS, ToyData, toy_backbone, toy_trainer

from lit_aux.cli import main
from lit_aux.data import DiagonalTeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.modules.loading import digest_of
from lit_aux.phases import PhaseSettings

ROOT = Path(__file__).parents[2]
SHORT = PhaseSettings(max_epochs=1)
MODULES: dict[type[AuxiliaryModule], dict[str, Any]] = {
    SingleTaskModule: {"task": "aux", "settings": SHORT},
    MultiTaskModule: {"task_weights": {"aux": 0.5}, "settings": SHORT, "weighting": "uncertainty"},
    PretrainFinetuneModule: {
        "rescale": 0.5,
        "finetune": "probe_then_full",
        "pretrain_settings": SHORT,
        "finetune_settings": SHORT,
    },
}


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in one.state_dict().items()
    )


def newest(root: Path) -> Path:
    return max(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def plainly(root: Path) -> Any:
    return pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, default_root_dir=root, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*as by default")
@pytest.mark.parametrize("kind", MODULES)
def test_of_a_phase_trainer(tmp_path: Path, kind: type[AuxiliaryModule]) -> None:
    module = kind(toy_backbone(), TASKS, **MODULES[kind])
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    found = kind.load_from_checkpoint(newest(tmp_path), backbone=toy_backbone())
    assert type(found) is kind
    assert same(found, module)
    assert [phase.name for phase in found.phases] == [phase.name for phase in module.phases]
    for name in ("task", "task_weights", "rescale", "finetune"):
        assert getattr(found, name, None) == getattr(module, name, None)


@pytest.mark.filterwarnings("ignore:.*as by default")
@pytest.mark.parametrize("kind", [SingleTaskModule, MultiTaskModule])
def test_of_a_plain_trainer(tmp_path: Path, kind: type[AuxiliaryModule]) -> None:
    module = kind("test_resnet", {"main": 2}) if kind is SingleTaskModule else kind(toy_backbone(), TASKS)
    trainer = plainly(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    given = {} if kind is SingleTaskModule else {"backbone": toy_backbone()}
    assert same(kind.load_from_checkpoint(tmp_path / "mine.ckpt", **given), module)


def test_what_is_given_goes_first_and_what_is_lacking_is_said(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]))
    module = SingleTaskModule(toy_backbone(), TASKS, losses=loss, settings=SHORT)
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    file = newest(tmp_path)
    with pytest.raises(ConfigurationError, match=r"does not hold Sequential, only its weights; give it"):
        SingleTaskModule.load_from_checkpoint(file)
    with (
        pytest.warns(UserWarning, match=r"losses \(CrossEntropyLoss\), settings \(PhaseSettings\)"),
        pytest.raises(ConfigurationError, match=r"holds the unknown 'evaluation\.losses"),
    ):
        SingleTaskModule.load_from_checkpoint(file, backbone=toy_backbone())
    again = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0]))
    found = SingleTaskModule.load_from_checkpoint(
        str(file), "cpu", backbone=toy_backbone(), losses=again, settings=SHORT, task="aux"
    )
    assert same(found, module)
    assert found.task == "aux"


def test_another_network_is_refused_unless_that_is_wanted(tmp_path: Path) -> None:
    module = SingleTaskModule(toy_backbone(), TASKS)
    trainer = plainly(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    other = nn.Sequential(*toy_backbone(), nn.Linear(10, 10))
    with pytest.raises(
        ConfigurationError, match=r"checkpoint_path: .*mine\.ckpt' lacks 'net\.backbone\.5"
    ) as e:
        SingleTaskModule.load_from_checkpoint(tmp_path / "mine.ckpt", backbone=other, num_features=10)
    assert "\n" not in str(e.value)
    found = SingleTaskModule.load_from_checkpoint(
        tmp_path / "mine.ckpt", strict=False, backbone=other, num_features=10
    )
    assert torch.equal(found.net.backbone[0].weight, module.net.backbone[0].weight)


class Own(MultiTaskModule):
    """A user's own module, with arguments of its own."""

    def __init__(self, width: int, names: tuple[str, ...] = ("main",)) -> None:
        backbone = nn.Sequential(nn.Linear(6, width), nn.ReLU())
        super().__init__(backbone, dict.fromkeys(names, 2), num_features=width, settings=SHORT)


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    module = Own(5, ("main", "aux"))
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    assert same(Own.load_from_checkpoint(newest(tmp_path)), module)


def test_students(tmp_path: Path) -> None:
    data = DiagonalTeacherDataModule([3, 4], n_main=8, n_aux=8, in_features=10, k_aux=2, k_main=2, overlap=0)
    settings = PhaseSettings(max_epochs=1, max_evaluations=5)
    module = SingleTaskModule(DiagonalNet(10), {"main": 1}, settings=settings)
    toy_trainer(tmp_path).fit(module, datamodule=data)
    file = newest(tmp_path)
    found = SingleTaskModule.load_from_checkpoint(file, backbone=DiagonalNet(10), settings=settings)
    assert same(found, module)
    assert found.net.seeds == [3, 4]


class CliNet(nn.Module):
    """A backbone that a configuration names."""

    num_features = 3

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.last = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.conv(x).amax((2, 3)))
        return found


def commanded(tmp_path: Path, *words: str) -> Path:
    config = str(ROOT / "configs/digits/stl.yaml")
    places = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--data.n_aux", "20"]
    assert main(["fit", "--config", config, *places, *limits, *words]) == 0
    return newest(tmp_path)


def test_of_a_command_line(tmp_path: Path) -> None:
    loss = ["--model.losses", "torch.nn.CrossEntropyLoss", "--model.losses.weight", "[1, 5]"]
    net = ["--model.backbone", f"{__name__}.CliNet", "--model.backbone.width", "4"]
    file = commanded(tmp_path, *loss, *net)
    found = SingleTaskModule.load_from_checkpoint(file)
    assert isinstance(found.net.backbone, CliNet)
    assert found.tasks == {"main": 2, "aux": 8}
    loss_found: Any = found.evaluation.loss("main")
    assert loss_found.weight.tolist() == [1, 5]
    optimizer: Any = found.phases[0].optimizer
    assert optimizer([nn.Parameter(torch.zeros(1))]).defaults["momentum"] == 0.9
    state = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    given = SingleTaskModule.load_from_checkpoint(file, backbone=CliNet(4), task="aux")
    assert given.task == "aux"


def changed(file: Path, target: Path, **options: Any) -> Path:
    content = torch.load(file, weights_only=True)
    content["lit_aux_module"]["configuration"] |= options
    torch.save(content, target)
    return target


@pytest.mark.filterwarnings("ignore:.*as by default")
def test_pretrained_weights_are_not_read_again(tmp_path: Path) -> None:
    torch.save(CliNet(4).state_dict(), tmp_path / "w.pth")
    net = ["--model.backbone", f"{__name__}.CliNet", "--model.backbone.width", "4"]
    file = commanded(tmp_path / "runs", *net, "--model.pretrained", str(tmp_path / "w.pth"))
    content = digest_of(tmp_path / "w.pth")
    (tmp_path / "w.pth").unlink()
    found = SingleTaskModule.load_from_checkpoint(file)
    assert found.pretrained == str(tmp_path / "w.pth")
    assert found.pretrained_content == content
    timm = {
        "class_path": "lit_aux.models.TimmBackbone",
        "init_args": {"name": "resnet18", "pretrained": True},
    }
    with pytest.raises(ConfigurationError, match="another network"):  # not that there is no network
        SingleTaskModule.load_from_checkpoint(changed(file, tmp_path / "timm.ckpt", backbone=timm))


def test_no_module_is_imported_because_a_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = commanded(tmp_path, "--model.backbone.name", "test_resnet")
    (tmp_path / "evil.py").write_text("raise SystemExit('this was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    bad = changed(file, tmp_path / "bad.ckpt", backbone={"class_path": "evil.Net", "init_args": {}})
    with pytest.raises(ConfigurationError, match=r"names evil\.Net, whose module is not imported") as error:
        SingleTaskModule.load_from_checkpoint(bad)
    assert "\n" not in str(error.value)
    assert "evil" not in sys.modules
    odd = changed(file, tmp_path / "odd.ckpt", backbone={"class_path": "subprocess.Popen", "init_args": {}})
    with pytest.raises(ConfigurationError, match="its configuration cannot be used"):
        SingleTaskModule.load_from_checkpoint(odd)


def test_the_class_that_all_share_cannot_be_built(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "lit_aux_module": {"class": "a.B"}}, tmp_path / "x.ckpt")
    with pytest.raises(ConfigurationError, match=r"is of a a\.B; call load_from_checkpoint of that class"):
        AuxiliaryModule.load_from_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("said", [None, "text", {"configuration": 3}])
def test_a_checkpoint_that_does_not_say(tmp_path: Path, said: Any) -> None:
    module = SingleTaskModule(toy_backbone(), TASKS)
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    content |= {} if said is None else {"lit_aux_module": said}
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ConfigurationError, match="give it: SingleTaskModule"):
        SingleTaskModule.load_from_checkpoint(tmp_path / "old.ckpt")
    with pytest.raises(ConfigurationError, match="what its tasks were"):
        SingleTaskModule.load_from_checkpoint(tmp_path / "old.ckpt", backbone=toy_backbone())
    found = SingleTaskModule.load_from_checkpoint(tmp_path / "old.ckpt", backbone=toy_backbone(), tasks=TASKS)
    assert same(found, module)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "code.ckpt")
    for name in ("none.ckpt", "code.ckpt"):
        with pytest.raises(ConfigurationError, match=r"^checkpoint_path: ") as error:
            SingleTaskModule.load_from_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_what_is_written_is_plain(tmp_path: Path) -> None:
    settings = PhaseSettings(optimizer=partial(torch.optim.SGD, lr=0.1), max_epochs=1)
    module = MultiTaskModule(toy_backbone(), TASKS, settings=settings, metrics={})
    toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    told: Mapping[str, Any] = torch.load(newest(tmp_path), weights_only=True)["lit_aux_module"]
    assert yaml.safe_load(yaml.safe_dump(dict(told))) == told
    assert told["objects"] == {"backbone": "Sequential", "settings": "PhaseSettings"}
    assert told["arguments"]["reduction"] == "sum"
