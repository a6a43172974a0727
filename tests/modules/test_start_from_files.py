"""Runs that start from somebody's file of weights: what is found in it, and what tells such runs apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18
from toys import FEATURES, TASKS, ToyData, toy_backbone, toy_trainer

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.models import TimmBackbone
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseSettings
from lit_aux.phases.identity import describe_run
from lit_aux.runs import read_rows

SHORT = PhaseSettings(max_epochs=1)
Weights = dict[str, Tensor]


class Net(nn.Module):
    """A stranger's network; ``width`` is that of its features."""

    def __init__(self, width: int = 10, classes: int = 0) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 12)
        self.blocks = nn.Sequential(nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, width))
        if classes:
            self.fc = nn.Linear(width, classes)
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.blocks(self.stem(x))
        return found


class Wrapped(nn.Module):
    """A backbone that holds its network as an attribute."""

    num_features = 10

    def __init__(self) -> None:
        super().__init__()
        self.network = Net()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x)
        return found


def source() -> Weights:
    """Weights of a network with a classifier, as nobody would draw them again."""
    torch.manual_seed(77)
    net = Net(classes=7)
    net.blocks[0].running_mean += 3  # type: ignore[operator]
    return net.state_dict()


def behind(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def started(file: Path, backbone: nn.Module | None = None, **options: Any) -> SingleTaskModule:
    return SingleTaskModule(backbone or Net(), TASKS, pretrained=str(file), **options)


def check_loaded(net: nn.Module) -> None:
    weights = source()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, weights[name.removeprefix("network.")], rtol=0, atol=0)


WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "plain.pth": lambda w: w,
    "state_dict.bin": lambda w: {"epoch": 3, "state_dict": w, "args": {"lr": 0.1}},
    "model.pt": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "model_state_dict.pt": lambda w: {"model_state_dict": w},
    "net.pth.tar": lambda w: {"net": behind("module.", w)},
    "compiled.pt": lambda w: behind("module._orig_mod.", w),
    "strangers.ckpt": lambda w: {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {**behind("model.backbone.", w), "criterion.weight": torch.ones(2)},
    },
    "encoder.bin": lambda w: {**behind("encoder.", w), "pooler.weight": torch.ones(2, 2)},
    "teacher.pth": lambda w: {"teacher": behind("backbone.", w), "student": {"other": torch.ones(1)}},
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("kind", [Net, Wrapped])
def test_a_file_of_weights(tmp_path: Path, name: str, kind: type[nn.Module]) -> None:
    torch.save(WRAPPED[name](source()), tmp_path / name)
    check_loaded(started(tmp_path / name, kind()).net.backbone)


def test_safetensors_and_what_is_left_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(behind("bert.", source()), tmp_path / "model.safetensors")
    with caplog.at_level("INFO"):
        check_loaded(started(tmp_path / "model.safetensors").net.backbone)
    assert "2 are left over: bert.fc.bias, bert.fc.weight" in caplog.text


def test_torchvisions_names_are_timms(tmp_path: Path) -> None:
    theirs = resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18-0123.pth")
    module = started(tmp_path / "resnet18-0123.pth", TimmBackbone("resnet18"))
    theirs.fc = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(module.net.backbone.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_timm_backbone_reads_checkpoints_by_itself(tmp_path: Path, prefix: str) -> None:
    weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save({"state_dict": behind(prefix, weights)}, tmp_path / "w.ckpt")
    backbone = TimmBackbone("test_resnet", pretrained=str(tmp_path / "w.ckpt"))
    assert all(torch.equal(value, weights[name]) for name, value in backbone.network.state_dict().items())


def test_two_networks_in_a_file_need_a_word(tmp_path: Path) -> None:
    other = {name: torch.zeros_like(value) for name, value in source().items()}
    torch.save({**behind("encoder_q.", source()), **behind("encoder_k.", other)}, tmp_path / "moco.pth")
    with pytest.raises(ConfigurationError, match=r"'encoder_q\.', 'encoder_k\.'; give one") as error:
        started(tmp_path / "moco.pth")
    assert "\n" not in str(error.value)
    check_loaded(started(tmp_path / "moco.pth", pretrained_prefix="encoder_q.").net.backbone)


def test_names_are_mapped(tmp_path: Path) -> None:
    weights = {k.replace("stem.", "first.").replace("blocks.", "rest."): v for k, v in source().items()}
    torch.save(behind("module.", weights), tmp_path / "w.pth")
    prefix = {"module.first.": "stem.", "module.rest.": "blocks."}
    check_loaded(started(tmp_path / "w.pth", pretrained_prefix=prefix).net.backbone)
    check_loaded(started(tmp_path / "w.pth", Wrapped(), pretrained_prefix=prefix).net.backbone)


def test_old_files_without_counters_and_tied_weights_written_once(tmp_path: Path) -> None:
    torch.save({k: v for k, v in source().items() if "num_batches" not in k}, tmp_path / "old.pth")
    check_loaded(started(tmp_path / "old.pth").net.backbone)

    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.stem

    check_loaded_twice = started(tmp_path / "old.pth", Tied()).net.backbone
    assert torch.equal(check_loaded_twice.again.weight, source()["stem.weight"])


REFUSED: list[tuple[Callable[[Weights], Any], dict[str, Any], list[str]]] = [
    (lambda w: {k: v for k, v in w.items() if "stem" not in k}, {}, ["2 missing: stem.weight, stem.bias"]),
    (
        lambda w: behind("model.", {k: v for k, v in w.items() if k != "stem.bias"}),
        {},
        ["1 missing: stem.bias", "2 left over: model.fc.weight, model.fc.bias", "pretrained_prefix"],
    ),
    (lambda w: {**w, "stem.weight": torch.ones(2, 2)}, {}, ["1 of wrong shape: stem.weight (2, 2) instead"]),
    (lambda w: {"a.b": torch.ones(1)}, {}, ["8 missing", "and 5 more", "1 left over: a.b"]),
    (lambda w: {"accuracy": 0.5}, {}, ["no state dict"]),
    (lambda w: w, {"pretrained_prefix": "encoder."}, ["pretrained_prefix: 'encoder.'", "stem, blocks, fc"]),
    (lambda w: behind("a.", w), {"pretrained_prefix": {"a.": "b."}}, ["missing: stem.weight"]),
    (lambda w: w, {"pretrained_prefix": {"stem.": "blocks."}}, ["missing"]),
    (
        lambda w: {**w, "x": w["fc.bias"]},
        {"pretrained_prefix": {"x": "fc.bias"}},
        ["would both be 'fc.bias'"],
    ),
    (lambda w: {**w, "stem.bias": w["stem.bias"] * float("nan")}, {}, ["'stem.bias'", "NaN"]),
    (lambda w: nn.Linear(1, 1), {}, ["cannot be read"]),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_does_not_fit_is_one_line(tmp_path: Path, number: int) -> None:
    content, options, words = REFUSED[number]
    torch.save(content(source()), tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"^pretrained") as error:
        started(tmp_path / "w.pth", **options)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["none.pth", "none.ckpt", "x" * 300 + ".pth"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^pretrained: "):
        started(Path(name))


def test_a_prefix_without_a_file() -> None:
    with pytest.raises(ConfigurationError, match=r"pretrained_prefix: 'a\.' needs a file"):
        SingleTaskModule(Net(), TASKS, pretrained_prefix="a.")


class Theirs(pl.LightningModule):
    """A stranger's LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net(classes=7)
        self.save_hyperparameters()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["main"]
        loss: Tensor = nn.functional.cross_entropy(self.model.fc(self.model(x)), y)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def plainly(root: Path) -> Any:
    return pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, default_root_dir=root, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def test_a_strangers_lightning_checkpoint(tmp_path: Path) -> None:
    theirs, trainer = Theirs(), plainly(tmp_path)
    trainer.fit(theirs, datamodule=ToyData())
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    backbone = started(tmp_path / "theirs.ckpt").net.backbone
    assert torch.equal(backbone.stem.weight, theirs.model.stem.weight)


def test_one_of_ours_brings_its_readout(tmp_path: Path) -> None:
    first = MultiTaskModule(toy_backbone(), TASKS, settings=SHORT, weighting="uncertainty")
    toy_trainer(tmp_path).fit(first, datamodule=ToyData())
    (file,) = tmp_path.rglob("train.ckpt")
    second = MultiTaskModule(toy_backbone(), TASKS, pretrained=str(file), weighting="gradnorm")
    names = [name for name in first.net.state_dict() if "readout" in name or "backbone" in name]
    assert all(torch.equal(first.net.state_dict()[n], second.net.state_dict()[n]) for n in names)
    alone = SingleTaskModule(toy_backbone(), {"main": 2}, pretrained=str(file))
    assert torch.equal(alone.net.backbone[0].weight, first.net.backbone[0].weight)


def test_finetuning_starts_from_a_file(tmp_path: Path) -> None:
    torch.save(behind("model.", source()), tmp_path / "w.pth")
    module = PretrainFinetuneModule(Net(), TASKS, pretrained=str(tmp_path / "w.pth"), finetune_settings=SHORT)
    assert [phase.name for phase in module.phases] == ["finetune"]
    assert not module.starts_untrained
    assert not started(tmp_path / "w.pth").starts_untrained
    check_loaded(module.net.backbone)
    toy_trainer(tmp_path / "run").fit(module, datamodule=ToyData())


def described(module: Any) -> dict[str, Any]:
    trainer = toy_trainer(Path("unused"), logger=False)
    return dict(describe_run(trainer, module, module.phases, None, [])["options"])


@pytest.mark.parametrize("kind", [SingleTaskModule, MultiTaskModule, PretrainFinetuneModule])
def test_the_content_of_the_file_names_the_run(tmp_path: Path, kind: Any) -> None:
    def with_file(scale: float) -> dict[str, Any]:
        torch.save({name: value * scale for name, value in source().items()}, tmp_path / "w.pth")
        return described(kind(Net(), TASKS, pretrained=str(tmp_path / "w.pth")))

    one, again, other = with_file(1), with_file(1), with_file(2)
    assert one == again
    assert {name for name in one if one[name] != other[name]} == {"model.pretrained_content"}


def test_runs_without_a_file_are_told_as_before() -> None:
    assert not [name for name in described(SingleTaskModule(Net(), TASKS)) if "pretrained" in name]
    assert not [name for name in described(SingleTaskModule(Net(), TASKS)) if "built_with" in name]


class Images(nn.Module):
    """A backbone that a command line names."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x).amax((2, 3))
        return found


def commanded(root: Path, *words: str) -> int:
    config = str(Path(__file__).parents[2] / "configs/digits/stl.yaml")
    places = [
        "--trainer.default_root_dir",
        str(root),
        "--trainer.accelerator",
        "cpu",
        "--trainer.callbacks=[]",
    ]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--data.n_aux", "20"]
    net = ["--model.backbone", f"{__name__}.Images"]
    return main(["fit", "--config", config, *places, *limits, *net, *words])


@pytest.mark.parametrize("prefix", ["enc.", "{enc.: ''}", None])
def test_of_the_command_line_the_content_names_the_run(tmp_path: Path, prefix: str | None) -> None:
    def run_of(scale: float) -> str:
        weights = {name: torch.full_like(value, scale) for name, value in Images().state_dict().items()}
        torch.save(behind("enc.", weights), tmp_path / "w.pth")
        words = [] if prefix is None else ["--model.pretrained_prefix", prefix]
        root = tmp_path / str(len([*tmp_path.iterdir()]))
        assert commanded(root, "--model.pretrained", str(tmp_path / "w.pth"), *words) == 0
        (row,) = read_rows(next(root.rglob("results.csv")))
        return str(row["run"])

    assert run_of(1) != run_of(2)


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (
            ["--model.pretrained", "w.pth", "--model.pretrained_prefix", "b."],
            "--model.pretrained_prefix: 'b.'",
        ),
        (["--model.pretrained", "none.pth"], "--model.pretrained: no weights file at 'none.pth'"),
        (["--model.pretrained_prefix", "b."], "--model.pretrained_prefix: 'b.' needs a file"),
        (["--model.pretrained", "part.pth"], "--model.pretrained: the weights in 'part.pth' do not fit"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(
    tmp_path: Path,
    words: list[str],
    begins: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Images().state_dict(), "w.pth")
    torch.save({"conv.weight": torch.ones(3, 3, 3, 3), "fc.bias": torch.ones(1)}, "part.pth")
    assert commanded(tmp_path / "runs", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"lit-aux: error: {begins}")
    assert not (tmp_path / "runs").exists()
