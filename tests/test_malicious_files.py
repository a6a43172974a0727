"""Files from others: none of them runs, and each is refused in one line with the option and the file."""

import hashlib
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from malicious_helpers import KINDS, Marks, is_armed, poison

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.models import TimmBackbone
from lit_aux.modules import SingleTaskModule
from lit_aux.phases import PhaseTrainer
from lit_aux.phases.store import PhaseStore, read_tensor
from lit_aux.regimes import read_run

STUDENTS = ["--model=lit_aux.modules.PretrainFinetuneModule", "--model.backbone=lit_aux.models.DiagonalNet"]
DATA = ["--data=lit_aux.data.DiagonalTeacherDataModule", "--data.in_features=12", "--data.n_main=6"]
DEEP = ["--model=lit_aux.modules.SingleTaskModule", "--model.backbone=lit_aux.models.TimmBackbone"]
DIGITS = ["--model.backbone.name=test_resnet", "--data=lit_aux.data.DigitsDataModule", "--data.n_test=40"]
TRAINER = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
FILE = "received/model.ckpt"
COMMANDS = {
    "fit": ["fit", *DEEP, *DIGITS, *TRAINER, "--trainer.max_epochs=1", f"--ckpt_path={FILE}"],
    "test": ["test", *DEEP, *DIGITS, *TRAINER, f"--ckpt_path={FILE}"],
    "validate": ["validate", *DEEP, *DIGITS, "--data.n_val=9", *TRAINER, f"--ckpt_path={FILE}"],
    "predict": ["predict", *DEEP, *DIGITS, *TRAINER, f"--ckpt_path={FILE}"],
    "export": ["export", *DEEP, *DIGITS, *TRAINER, f"--ckpt_path={FILE}", "--output=w.pt"],
    "pretrained": [
        "fit",
        STUDENTS[0],
        *DEEP[1:],
        *DIGITS,
        *TRAINER,
        "--trainer.max_epochs=1",
        f"--model.pretrained={FILE}",
    ],
}
OPTIONS = {
    "pretrained": "pretrained",
    **dict.fromkeys(["fit", "test", "validate", "predict", "export"], "ckpt_path"),
}


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Return where code leaves its mark; there is none in the end."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists(), "code of a received file ran"


def refused(words: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Run a command line that is refused in one line, which holds some parts."""
    capsys.readouterr()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (line,) = [text for text in told.splitlines() if text.startswith("lit-aux: error:")]
    for part in parts:
        assert part in line
    assert "weights_only" not in line


@pytest.mark.parametrize("kind", KINDS)
def test_the_fixtures_are_armed(kind: str, mark: Path) -> None:
    assert is_armed(poison(Path(FILE), kind, mark), mark)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_checkpoints(
    name: str, kind: str, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(Path(FILE), kind, mark)
    command = COMMANDS[name][0]
    found = {command: AuxiliaryCLI.subcommands()[command]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    refused(COMMANDS[name], capsys, OPTIONS[name], FILE, "posix.system")
    assert not Path("w.pt").exists()


def test_a_checkpoint_at_an_address_is_not_unpickled(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning loads those without weights_only unless it is told."""
    poison(Path(FILE), "zip", mark)
    trainer = PhaseTrainer(accelerator="cpu", logger=False)

    def fetched(path: str, weights_only: bool | None = None) -> Any:
        return torch.load(FILE, weights_only=weights_only or False)

    monkeypatch.setattr(trainer.strategy, "load_checkpoint", fetched)
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: 'http://x/m\.ckpt' "):
        trainer._checkpoint_connector.resume_start("http://x/m.ckpt")


@pytest.mark.parametrize("key", ["kth_best_model_path", "last_model_path", "best_k_models"])
def test_a_checkpoint_removes_no_files_of_others(key: str) -> None:
    """Lightning removes what the state of its ModelCheckpoint calls earlier files when it writes newer."""
    precious = Path("precious.txt")
    precious.write_text("mine")

    def fit(epochs: int, resumed: str | None) -> None:
        keeper = ModelCheckpoint(dirpath="kept", save_last=True)
        trainer = PhaseTrainer(
            max_epochs=epochs, accelerator="cpu", logger=False, callbacks=keeper, enable_progress_bar=False
        )
        module = SingleTaskModule(TimmBackbone("test_resnet"), {"main": 2})
        trainer.fit(module, datamodule=DigitsDataModule(n_test=40, n_main=40), ckpt_path=resumed)

    fit(1, None)
    (path,) = Path("runs/checkpoints").glob("*.ckpt")
    content = torch.load(path, weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    file = f"{state['dirpath']}/../precious.txt"
    state[key] = {file: torch.tensor(1e9)} if key == "best_k_models" else file
    torch.save(content, path)
    with pytest.raises(ConfigurationError, match=r"precious.txt' removed"):
        fit(2, str(path))
    assert precious.exists()


# A run's folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run of students."""
    root = tmp_path_factory.mktemp("run")
    patch = pytest.MonkeyPatch()
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    patch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    patch.setattr("sys.argv", ["lit-aux"])
    small = ["--data.k_main=2", "--data.k_aux=2", "--data.overlap=1", "--data.n_aux=12", "--data.n_test=20"]
    ends = [f"--model.{phase}_settings.max_evaluations=20" for phase in ("pretrain", "finetune")]
    with patch.context():
        words = ["fit", *STUDENTS, "--model.backbone.in_features=12", *DATA, *small, *TRAINER[:2], *ends]
        assert main([*words, f"--trainer.default_root_dir={root}"]) == 0
    patch.undo()
    return next(root.glob("version_*"))


@pytest.fixture
def received(run_folder: Path) -> Path:
    """Return a copy of that folder, as it was unpacked in the working folder."""
    shutil.copytree(run_folder, "received")
    return Path("received")


def test_the_run_can_be_read(received: Path) -> None:
    assert len(read_run(received)[0]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_a_run(
    kind: str, received: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = received / "checkpoints" / "pretrain.ckpt"
    poison(Path("other.ckpt"), kind, mark)
    refused(
        ["regime", "received", "--pretrained", "other.ckpt"], capsys, "--pretrained", "other.ckpt", "posix"
    )
    poison(good.with_name("finetune.ckpt"), kind, mark)
    refused(["regime", "received"], capsys, "RUN", "received/checkpoints/finetune.ckpt", "posix.system")


CALL = "!!python/object/apply:os.system [\"touch 'MARK'\"]"
OF_YAML = {
    "apply": f"model: {CALL}\n",
    "within": f"model: {{class_path: lit_aux.modules.SingleTaskModule, init_args: {{x: {CALL}}}}}\n",
    "new": "model: !!python/object/new:subprocess.Popen [[touch, 'MARK']]\n",
    "name": "model: !!python/name:os.system\n",
    "module": "model: !!python/module:evil\n",
    "key": f"? {CALL}\n: 1\n",
    "list of callbacks": f"trainer: {{callbacks: [{CALL}]}}\nmodel: {{}}\ndata: {{}}\n",
}


@pytest.mark.parametrize("command", ["regime", "sweep", "fit"])
@pytest.mark.parametrize("name", OF_YAML)
def test_tags_of_yaml(
    name: str,
    command: str,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = OF_YAML[name].replace("MARK", str(mark))
    Path("evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    Path("received").mkdir()
    file = Path("received/config.yaml")
    file.write_text(text)
    words = {
        "regime": (["regime", "received"], "RUN received"),
        "sweep": (["sweep", str(file)], f"FILE {file}"),
        "fit": (["fit", "--config", str(file)], f"--config {file}: "),
    }[command]
    if command == "fit":
        found = {"fit": AuxiliaryCLI.subcommands()["fit"]}
        monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
        monkeypatch.setattr("sys.argv", ["lit-aux"])
    refused(words[0], capsys, words[1])


# Stores and tables


@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_the_phase_store(kind: str, mark: Path) -> None:
    store = PhaseStore("phases")
    poison(store.path("key"), kind, mark)
    with pytest.raises(ConfigurationError, match=r"phase_store: .*key\.ckpt.*posix\.system"):
        store.load("key")
    assert store.nearest({"a": "1"}) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_networks_beside_a_table(kind: str, mark: Path) -> None:
    path = poison(Path("pretrained/0.pt"), kind, mark)
    with pytest.raises(ConfigurationError, match=r"pretrained/0\.pt.*posix\.system"):
        read_tensor(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.pt"])
def test_weights_of_a_backbone(name: str, kind: str, mark: Path) -> None:
    poison(Path(name), kind, mark)
    with pytest.raises(ConfigurationError, match=rf"pretrained: '{name}'.*posix\.system"):
        TimmBackbone("test_resnet", pretrained=name)


def test_weights_that_only_say_they_are_safe(mark: Path) -> None:
    poison(Path("w.safetensors"), "raw", mark)
    with pytest.raises(ConfigurationError, match=r"pretrained: 'w\.safetensors'"):
        TimmBackbone("test_resnet", pretrained="w.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_cifar_100(name: str, kind: str, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickles of the data set are loaded where their checksums are those of the published ones."""
    from torchvision.datasets import CIFAR100

    from lit_aux.data import CIFAR100DataModule

    folder = Path("data/cifar-100-python")
    folder.mkdir(parents=True)
    sums = {}
    for part in ("train", "test", "meta"):
        content = {"data": torch.zeros(1, 3072).numpy(), "fine_labels": [0], "fine_label_names": ["a"]}
        (folder / part).write_bytes(pickle.dumps(content))
        sums[part] = hashlib.md5((folder / part).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    data = CIFAR100DataModule(root="data")
    data.load_pool()
    poison(folder / name, kind, mark)
    with pytest.raises(ConfigurationError, match=r"--data\.root data: "):
        data.load_pool()


@pytest.mark.parametrize("name", ["results.csv", "measures.csv", "trajectory.csv"])
@pytest.mark.parametrize("kind", KINDS)
def test_pickles_in_place_of_tables(
    name: str, kind: str, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(Path("received") / name, kind, mark)
    if name == "measures.csv":
        from lit_aux.runs.table import COLUMNS

        Path("received/results.csv").write_text(
            ",".join(COLUMNS) + "\n" + "a,e" + "," * (len(COLUMNS) - 2) + "\n"
        )
        refused(["table", "received", "--value", "ensd"], capsys, "received")
    elif name == "results.csv":
        refused(["table", "received"], capsys, "FILE received/results.csv")
        refused(["regime", "--results", "received/results.csv"], capsys, "--results received/results.csv")
    else:
        refused(["trajectories", "received"], capsys, "RUN received")


@pytest.mark.parametrize("name", ["summary.json", "ended.json"])
def test_pickles_in_place_of_json(name: str, mark: Path) -> None:
    from lit_aux.runs.folder import read_outcome

    poison(Path("received") / name, "raw", mark)
    assert read_outcome(Path("received")) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"error": {}, "seconds": []}', '"x"', "[1]", "null"])
def test_marks_of_an_end_that_say_nothing(text: str) -> None:
    from lit_aux.runs.folder import read_outcome

    Path("ended.json").write_text(text)
    assert read_outcome(Path()) is None


def test_what_another_fit_left_in_the_folder_is_not_unpickled(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What strategies that spawn bring back is a pickle: one that lay there before is not theirs."""
    from lit_aux.phases import PhaseTrainer, ranks

    trainer = PhaseTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    monkeypatch.setattr(ranks, "starts_processes", lambda trainer: True)
    (tmp_path / ".brought_back").write_bytes(pickle.dumps({"result": Marks(mark)}))
    module: Any = object()
    ranks.check_processes(trainer, module, 1)
    result: Any = object()
    assert not ranks.take_back(trainer, result, module, None)


# What a configuration names is in regimes/test_trust.py, scripts in sweeps/test_slurm_scripts.py

Editing = Callable[[dict[str, Any]], None]


def _set(path: str, value: Any) -> Editing:
    def edit(config: dict[str, Any]) -> None:
        *keys, last = path.split(".")
        part = config
        for key in keys:
            part = part[key]
        part[last] = value

    return edit


OF_RUNS = {
    "model": _set("model.class_path", "received.evil.Net"),
    "data": _set("data.class_path", "received.evil.Net"),
    "backbone": _set("model.init_args.backbone", {"class_path": "received.evil.Net"}),
    "backbone by a word": _set("model.init_args.backbone", "received.evil.Net"),
    "callable": _set("model.init_args.finetune_settings.optimizer", "received.evil.function"),
    "shell": _set("model.init_args.finetune_settings.optimizer", "os.system"),
    "shell as a class": _set("model.init_args.losses", {"main": {"class_path": "subprocess.Popen"}}),
    "hub": _set(
        "model.init_args.backbone", {"class_path": "torch.hub.load", "init_args": {"source": "local"}}
    ),
    "walk": _set("model.init_args.losses", {"main": "torch.nn.modules.module.warnings.sys.exit"}),
    "callback": _set("trainer.callbacks", [{"class_path": "received.evil.Net"}]),
    "text of yaml": _set("model.init_args.losses", "{main: {class_path: received.evil.Net}}"),
    "interpolation": _set("model.init_args.readout", "${oc.env:HOME}"),
    "class of two": _set("model.init_args.losses", {"main": {"class_path": "${model.x}.system"}}),
}


@pytest.mark.parametrize("name", OF_RUNS)
def test_what_a_received_configuration_names(
    name: str, received: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("received/evil.py").write_text(f"open({str(mark)!r}, 'w')\nNet = function = print\n")
    config = yaml.safe_load((received / "config.yaml").read_text())
    OF_RUNS[name](config)
    (received / "config.yaml").write_text(yaml.safe_dump(config))
    refused(["regime", "received"], capsys, "RUN received", "--trust")


def test_own_networks_are_taken_and_received_ones_with_trust(
    received: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    source = "from lit_aux.models import DiagonalNet\n\n\nclass Net(DiagonalNet):\n    pass\n"
    config = yaml.safe_load((received / "config.yaml").read_text())
    names = {"own_student.Net": "own_student.py", "received.their_student.Net": "received/their_student.py"}
    for name, file in names.items():
        Path(file).write_text(source)
        config["model"]["init_args"]["backbone"]["class_path"] = name
        (received / "config.yaml").write_text(yaml.safe_dump(config))
        if name.startswith("own"):
            assert len(read_run(received)[0]) == 1
    refused(["regime", "received"], capsys, "RUN received", "received.their_student.Net", "--trust")
    refused(["regime", "received", "--trust=yes"], capsys, "--trust=yes")
    assert main(["regime", "received", "--trust"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "--trust: imports received.their_student.Net (model.backbone)"


def test_messages_control_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "a\x1b]0;x\x07\x9b2J"]) == 2
    assert not {"\x1b", "\x07", "\x9b"} & {*capsys.readouterr().err}
