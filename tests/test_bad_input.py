"""Whatever is asked wrongly is answered by one line, before training, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.data import fashion_mnist
from lit_aux.modules import AuxiliaryModule

Config = dict[str, Any]
SETTINGS: Config = {
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
    "max_epochs": 1,
}
PROBE = "lit_aux.callbacks.RepresentationDimensionality"
RESCALING = "lit_aux.callbacks.WeightRescaling"


def base() -> Config:
    """A correct run on the digits."""
    backbone = {"class_path": "lit_aux.models.TimmBackbone", "init_args": {"name": "test_resnet"}}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return {
        "trainer": {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, **quiet},
        "model": {
            "class_path": "lit_aux.modules.PretrainFinetuneModule",
            "init_args": {
                "backbone": backbone,
                "rescale": 0.5,
                "pretrain_settings": dict(SETTINGS),
                "finetune_settings": dict(SETTINGS),
            },
        },
        "data": {"class_path": "lit_aux.data.DigitsDataModule", "init_args": {"n_main": 20}},
    }


@pytest.fixture
def configured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], str]:
    """Write a configuration outside the folder in which the command runs."""

    def write(config: Config) -> str:
        file = tmp_path_factory.mktemp("config") / "run.yaml"
        file.write_text(yaml.safe_dump(config))
        return str(file)

    return write


@pytest.fixture
def refused(
    configured: Callable[[Config], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command line and return its one line of complaint."""
    steps: list[int] = []
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines
    monkeypatch.setattr(AuxiliaryModule, "training_step", lambda self, batch, i: steps.append(i))

    def run(*arguments: str, config: Config | None = None) -> str:
        only_fit = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes a while
        monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only_fit))
        file = configured(base() if config is None else config)
        return complaint(["fit", "--config", file, *arguments])

    def complaint(words: list[str]) -> str:
        assert main(words) != 0
        streams = capsys.readouterr()
        told = [line for line in streams.err.splitlines() if line.startswith("lit-aux: error: ")]
        assert len(told) == 1
        assert streams.err.endswith(f"{told[0]}\n")
        assert "Traceback" not in streams.err + streams.out
        assert not steps, "training had begun"
        assert not list(Path.cwd().iterdir()), "something was left behind"
        return told[0]

    run.words = complaint  # type: ignore[attr-defined]
    return run


class Case(NamedTuple):
    """Arguments after a correct configuration, and what the line must hold."""

    arguments: str
    expected: list[str]


OPTIONS = [
    # what no option is called
    Case("--model.rescal=0.5", ["--model.rescal:", "PretrainFinetuneModule", "did you mean 'rescale'"]),
    Case("--model.finetune_settings.max_epoch=3", ["--model.finetune_settings.max_epoch:", "'max_epochs'"]),
    Case("--model.finetune_settings.optimizer.lrr=3", ["optimizer.lrr:", "SGD", "'lr'"]),
    Case("--trainer.max_epoks=3", ["--trainer.max_epoks:", "'max_epochs'"]),
    Case("--dta.n_main=3", ["--dta.n_main:", "'--data.n_main'"]),
    Case("--data.n_mian=3", ["--data.n_mian:", "'n_main'"]),
    # of another type or choice
    Case("--model.rescale=half", ["--model.rescale:", "'half'", "number"]),
    Case("--data.batch_size=2.5", ["--data.batch_size:", "'2.5'", "whole number"]),
    Case("--model.finetune=half", ["--model.finetune:", "'half'", "full, probe, probe_then_full"]),
    Case("--trainer.logger=foo", ["--trainer.logger:", "'foo'", "csv, tensorboard, wandb"]),
    Case("--trainer.accelerator=abacus", ["--trainer", "abacus"]),
    Case("--trainer.strategy=foo", ["--trainer", "foo"]),
    Case("--seed_everything=x", ["--seed_everything:", "'x'"]),
    # classes and networks that do not exist
    Case("--data=NoSuch", ["--data:", "'NoSuch'"]),
    Case("--model=lit_aux.modules.SingleTask", ["--model:", "SingleTask'", "'SingleTaskModule'"]),
    Case("--model.finetune_settings.optimizer=torch.optim.SDG", ["finetune_settings.optimizer:", "'SGD'"]),
    Case("--model.backbone.name=test_resnets", ["--model.backbone.name:", "'test_resnets'", "'test_resnet'"]),
    # numbers out of range
    Case("--model.rescale=0", ["--model.rescale:", "0.0", "above 0"]),
    Case("--model.rescale=-0.5", ["--model.rescale:", "-0.5", "above 0"]),
    Case("--model.rescale=nan", ["--model.rescale:", "nan"]),
    Case("--model.rescale=inf", ["--model.rescale:", "inf"]),
    Case("--data.n_main=100000", ["--data.n_main", "100000"]),
    Case("--data.n_main=0", ["--data.n_main", "0:"]),
    Case("--data.n_main=1", ["--data.n_main", "1:", "balanced"]),
    Case("--data.batch_size=0", ["--data.batch_size", "0:"]),
    Case("--data.size=0", ["--data.size", "0:"]),
    Case("--data.n_val=-1", ["--data.n_val", "-1:"]),
    Case("--data.std=0", ["--data.std", "0"]),
    Case("--data.seed=-1", ["--data.seed", "-1"]),
    Case("--model.finetune_settings.stop_at_training_loss=-1", ["settings.stop_at_training_loss:", "-1"]),
    Case("--model.pretrain_settings.max_epochs=0", ["--model.pretrain_settings.max_epochs:", "0"]),
    Case("--model.finetune_settings.optimizer.lr=-1", ["optimizer", "-1"]),
    Case("--model.batchnorm_samples=1", ["--model.batchnorm_samples:", "1"]),
    Case("--model.backbone.drop_rate=2", ["--model.backbone.drop_rate:", "2"]),
    # tasks and classes
    Case("--data.classes={main: [3, 99], aux: 8}", ["--data.classes", "99"]),
    Case("--data.classes={main: [3, 4], aux: [4, 5]}", ["--data.classes", "'4'", "'aux'"]),
    Case("--data.classes={main: [3, nine], aux: 8}", ["--data.classes", "'nine'"]),
    Case("--data.classes={main: 2, aux: 9}", ["--data.classes", "'aux'", "9"]),
    Case("--data.classes={main: 2}", ["pretrain_tasks"]),
    Case("--data.n={other: 5}", ["--data.n", "'other'"]),
    Case("--model.finetune_tasks=[man]", ["'man'", "main, aux"]),
    # files that are not there
    Case("--ckpt_path=none.ckpt", ["ckpt_path:", "'none.ckpt'"]),
    Case("--model.pretrained=none.ckpt", ["--model.pretrained:", "'none.ckpt'"]),
    Case("--model.backbone.pretrained=none.pth", ["--model.backbone.pretrained:", "'none.pth'"]),
    Case("--data=lit_aux.data.CIFAR100DataModule", ["--data.root", "cifar-100-python", "--data.download"]),
    Case("--data=lit_aux.data.FashionMNISTDataModule", ["--data.root", "dataset-fashion-mnist"]),
    Case("--data=lit_aux.data.ImageFolderDataModule --data.root=none", ["--data.root", "none"]),
    # ways of running that cannot work
    Case("--trainer.strategy=ddp_spawn --trainer.devices=2", ["strategy", "ddp"]),
    Case("--trainer.devices=-3", ["devices"]),
]


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case.arguments)
def test_options(case: Case, refused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    options = case.arguments.removeprefix("--").split(" --")  # a value may hold spaces
    message = refused(*(f"--{option}" for option in options))
    assert all(part in message for part in case.expected), message


def with_callback(class_path: str, **options: Any) -> Config:
    config = base()
    config["trainer"]["callbacks"] = [{"class_path": class_path, "init_args": options}]
    return config


def with_phases(*phases: Config) -> Config:
    config = base()
    config["model"]["init_args"]["phases"] = list(phases)
    return config


def with_keys(*path: str, value: Any) -> Config:
    config = base()
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return config


PHASE: Config = {"name": "one", "tasks": ["main"], **SETTINGS}
FILES = {
    "unknown key of the Trainer": (with_keys("trainer", "max_epoch", value=3), ["--trainer.max_epoch:"]),
    "unknown key": (with_keys("modle", value=3), ["--modle:", "'--model'"]),
    "unknown key of the model": (with_keys("model", "init_args", "rescal", value=1), ["--model.rescal:"]),
    "unknown key of settings": (
        with_keys("model", "init_args", "finetune_settings", "epochs", value=1),
        ["--model.finetune_settings.epochs:", "PhaseSettings"],
    ),
    "no backbone": (with_keys("model", "init_args", value={}), ["--model.backbone:"]),
    "not a module": (with_keys("model", "class_path", value="torch.nn.Linear"), ["--model:", "Linear"]),
    "unknown class of a callback": (with_callback("lit_aux.callbacks.NoSuch"), ["callbacks", "NoSuch'"]),
    "unknown option of a callback": (with_callback(PROBE, num_sample=3), ["num_sample:", "'num_samples'"]),
    "unknown layer": (
        with_callback(PROBE, layers=["net.backbone.network.layr4"]),
        ["layers", "layr4", "layer4'"],
    ),
    "few inputs for unbiased estimates": (
        with_callback(PROBE, num_samples=3, unbiased=True),
        ["num_samples", "3"],
    ),
    "unknown pairing": (with_callback(PROBE, pairing="x"), ["pairing", "'x'", "feature, sample"]),
    "rescaling as the Trainer's callback": (
        with_callback(RESCALING, factor=0.5),
        ["callbacks", "--model.rescale"],
    ),
    "averaging undoes rescaling": (
        with_callback("lightning.pytorch.callbacks.EMAWeightAveraging"),
        ["EMAWeightAveraging", "rescale"],
    ),
    "no phase": (with_phases(), ["phases"]),
    "unknown task in a phase": (with_phases({**PHASE, "tasks": ["man"]}), ["phases", "'man'", "main, aux"]),
    "one name for two phases": (with_phases(PHASE, PHASE), ["phases", "'one'", "twice"]),
    "no such parameters": (with_phases({**PHASE, "trainable": ["head.*"]}), ["phases", "'head.*'"]),
    "rescaling that matches nothing": (
        with_phases(
            {
                **PHASE,
                "callbacks": [{"class_path": RESCALING, "init_args": {"factor": 0.5, "include": ["xyz*"]}}],
            }
        ),
        ["include", "'xyz*'"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_configurations(name: str, refused: Any) -> None:
    config, expected = FILES[name]
    message = refused(config=config)
    assert all(part in message for part in expected), message


def students(kind: str = "diagonal") -> Config:
    """A correct run of two small students."""
    diagonal = kind == "diagonal"
    backbone = {
        "class_path": f"lit_aux.models.{'DiagonalNet' if diagonal else 'ReLUNet'}",
        "init_args": {"in_features": 8, **({} if diagonal else {"hidden": 4})},
    }
    flow = {"class_path": "lit_aux.integrators.GradientFlow", "init_args": {"tolerance": 0.01}}
    settings = {"integrator": flow, "max_evaluations": 4}
    options = {"backbone": backbone, "readout": "reset", "rescale": 0.5, "finetune_settings": settings}
    small = {"seed": [0, 1], "n_main": 4, "n_aux": 6, "n_test": 4, "in_features": 8, "k_aux": 3, "k_main": 3}
    kind = "DiagonalTeacherDataModule" if diagonal else "ReLUTeacherDataModule"
    config = base()
    config["trainer"].pop("limit_val_batches")
    config["model"]["init_args"] = options
    similarity = {"overlap": 3} if diagonal else {"correlation": 1.0}
    config["data"] = {"class_path": f"lit_aux.data.{kind}", "init_args": small | similarity}
    return config


DIAGONAL = [
    Case("--data.overlap=4", ["--data.overlap 4:", "k_main", "3"]),
    Case("--data.overlap=[0, 4]", ["--data.overlap 4:", "k_main", "3"]),
    Case("--data.overlap=-1", ["--data.overlap -1:", "at least 0"]),
    Case("--data.overlap=0 --data.in_features=5", ["--data.in_features 5:", "at least 6"]),
    Case("--data.k_main=4", ["--data.k_main 4:", "k_aux", "independent"]),
    Case("--data.seed=[]", ["--data.seed []:", "at least one"]),
    Case("--data.n_main=[4, 4]", ["--data.n_main:", "4", "twice"]),
    Case("--data.n_main=0", ["--data.n_main 0:", "at least 1"]),
    Case("--data.sampling=fresh", ["--data.sampling:", "'fresh'", "published, independent"]),
    Case("--data.in_features=9", ["--model.backbone.in_features 8:", "9 inputs"]),
    Case("--model.backbone.in_features=0", ["--model.backbone.in_features:", "0"]),
    Case("--model.backbone.init_scale=[.1, .2, .3]", ["--model.backbone.init_scale:", "3 values"]),
    Case("--model.backbone.init_scale=0", ["--model.backbone.init_scale:", "0"]),
    Case("--model.backbone.dtype=float16", ["--model.backbone.dtype:", "'float16'", "'float32'"]),
    Case("--model.backbone.hidden=8", ["--model.backbone.hidden:", "DiagonalNet"]),
    Case("--model.rescale=[1, .5, .1]", ["--model.rescale:", "3 factors"]),
    Case("--model.readout_scale=[1, .5, .1]", ["--model.readout_scale:", "3 values"]),
    Case("--model.losses=torch.nn.MSELoss", ["losses", "mean squared error"]),
    Case("--trainer.devices=2", ["--trainer.devices:", "2 processes"]),
    Case(
        "--model.finetune_settings.integrator=gradient_flw",
        ["--model.finetune_settings.integrator:", "'gradient_flw'", "'gradient_flow'"],
    ),
    Case("--model.finetune_settings.integrator.tolerance=-1", ["integrator.tolerance:", "-1"]),
    Case("--model.finetune_settings.integrator.lr=.1", ["integrator.lr:", "GradientFlow"]),
    Case(
        "--model.finetune_settings.integrator=gradient_descent --model.finetune_settings.integrator.lr=-1",
        ["integrator.lr:", "-1"],
    ),
    Case("--model.finetune_settings.max_flow_time=0", ["--model.finetune_settings.max_flow_time:", "0"]),
    Case("--model.finetune_settings.block=0", ["--model.finetune_settings.block:", "0"]),
    Case(
        "--data=lit_aux.data.DigitsDataModule --data.n_aux=16", ["data:", "DigitsDataModule", "teacher data"]
    ),
]
RELU = [
    Case("--data.correlation=1.5", ["--data.correlation 1.5:", "-1 to 1"]),
    Case("--data.correlation=[.5, .5, -1.5]", ["--data.correlation", "-1.5", "-1 to 1"]),
    Case("--data.correlation=[.5, .5]", ["--data.correlation", "2 numbers for k_main 3"]),
    Case("--data.correlation=0 --data.in_features=5", ["--data.in_features 5:", "6 orthogonal"]),
    Case("--data.magnitude=0", ["--data.magnitude 0", "above 0"]),
    Case("--model.backbone.hidden=0", ["--model.backbone.hidden:", "0"]),
]


@pytest.mark.parametrize("case", [*DIAGONAL, *RELU], ids=lambda case: case.arguments)
def test_student_options(case: Case, refused: Any) -> None:
    options = case.arguments.removeprefix("--").split(" --")
    config = students("relu" if case in RELU else "diagonal")
    message = refused(*(f"--{option}" for option in options), config=config)
    assert all(part in message for part in case.expected), message


def test_a_deep_network_on_teacher_data(refused: Any) -> None:
    config = base()
    config["data"] = students()["data"]
    message = refused(config=config)
    assert all(part in message for part in ("tasks", "'main'", "DiagonalNet")), message
    config["model"]["init_args"] |= {
        "losses": {"class_path": "torch.nn.MSELoss"},
        "metrics": {"mae": {"class_path": "torchmetrics.MeanAbsoluteError"}},
    }
    message = refused(config=config)
    assert all(part in message for part in ("data", "DiagonalTeacherDataModule", "DiagonalNet")), message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["EXPERIMENT:", "diagonal-overlap"]),
        ("diagonal-overlp", ["EXPERIMENT", "'diagonal-overlp'", "'diagonal-overlap'"]),
        ("relu-overlap --setups STLL", ["--setups", "'STLL'"]),
        ("diagonal-overlap --setups PT+FT(NTK)", ["--setups", "'PT+FT(NTK)'"]),
        ("relu-overlap --overlap 3", ["--overlap", "relu-overlap"]),
        ("diagonal-overlap --overlap 41", ["--overlap", "41"]),
        ("relu-overlap --correlation 1.5", ["--correlation", "1.5", "-1 and 1"]),
        ("relu-overlap --seeds -1", ["--seeds", "-1"]),
        ("relu-overlap --tolerance -1", ["--tolerance", "-1"]),
        ("relu-overlap --integrator gradient_flw", ["--integrator", "'gradient_flw'"]),
        ("relu-overlap --max-steps 0", ["--max-steps", "0"]),
        ("relu-overlap --tolerence 1", ["--tolerence", "'--tolerance'"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_reproduce(words: str, expected: list[str], refused: Any) -> None:
    message = refused.words(["reproduce", *words.split()])
    assert all(part in message for part in expected), message


def test_reproduce_into_a_table_of_another_kind(
    refused: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("other") / "results.csv"
    file.write_text("name,score\nours,1\n")
    message = refused.words(["reproduce", "diagonal-overlap", "--out", str(file)])
    assert "--out" in message
    assert "results.csv" in message
    assert file.read_text() == "name,score\nours,1\n"
    assert [path.name for path in file.parent.iterdir()] == ["results.csv"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["fit, validate", "export, sweep, reproduce"]),
        (["fitt"], ["fitt", "fit, validate", "export, sweep, reproduce"]),
        (["fit"], ["--model", "--config"]),
        (["fit", "--config", "none.yaml"], ["--config", "none.yaml"]),
        (["fit", "--model.rescale", "1"], ["--model.rescale:", "--config"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands(words: list[str], expected: list[str], refused: Any) -> None:
    message = refused.words(words)
    assert all(part in message for part in expected), message


def test_a_file_that_is_not_yaml(refused: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("config") / "broken.yaml"
    file.write_text("trainer: {max_epochs: [1,\n")
    message = refused.words(["fit", "--config", str(file)])
    assert "--config" in message
    assert "broken.yaml" in message


@pytest.mark.parametrize("option", ["--ckpt_path", "--model.pretrained"])
@pytest.mark.parametrize("damage", ["corrupted", "no checkpoint", "of another network", "of other phases"])
def test_checkpoints(
    option: str, damage: str, refused: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("weights") / "saved.ckpt"
    phases = ["train"] if damage == "of other phases" else ["pretrain", "finetune"]
    info = {"phase": 0, "phases": phases, "current": None, "results": [], "logged_steps": 0, "seconds": 0.0}
    other = {"net.backbone.network.conv1.weight": torch.zeros(1, 2), "lit_aux": 1}
    content: dict[str, Any] = {
        "corrupted": None,
        "no checkpoint": {"weights": torch.zeros(2)},
        "of another network": {"state_dict": other, "lit_aux": {**info, "random_state": {}}},
        "of other phases": {"state_dict": {}, "lit_aux": info},
    }[damage]
    if content is None:
        file.write_bytes(b"not a checkpoint")
    else:
        torch.save({"pytorch-lightning_version": "2.6.6", **content}, file)
    message = refused(f"{option}={file}")
    assert option.lstrip("-").rpartition(".")[2] in message
    assert "saved.ckpt" in message or damage == "of another network"
