"""What a received configuration may import: classes of known packages and of the working folder."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from malicious_helpers import source_that_marks
from regime_helpers import config_of

from lit_aux.errors import ConfigurationError
from lit_aux.regimes import trust
from lit_aux.regimes.trust import check_trusted

RUN = Path("runs/version_0")


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test imported, and the working folder on the path."""
    own = ("mine", "pkg", "space", "runs", "known_package")
    monkeypatch.setattr(sys, "path", list(sys.path))
    RUN.mkdir(parents=True)
    before = {*sys.modules}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in own and name not in before]:
        del sys.modules[name]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def write(path: str, mark: Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(source_that_marks(mark))


def check(config: Any, trust: bool = False) -> None:
    check_trusted(config, RUN, f"RUN {RUN}", trust)


def as_class(name: str) -> dict[str, Any]:
    return {"model": {"init_args": {"part": {"class_path": name, "init_args": {}}}}}


def as_word(name: str) -> dict[str, Any]:
    return {"model": {"init_args": {"part": name}}}


CLASSES = [
    "lit_aux.modules.PretrainFinetuneModule",
    "lit_aux.models.ReLUNet",
    "lit_aux.data.DigitsDataModule",
    "lit_aux.callbacks.L2SP",
    "lit_aux.integrators.GradientFlow",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.LightningModule",
    "torch.nn.Linear",
    "torch.nn.modules.linear.Linear",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.StepLR",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torchmetrics.classification.MulticlassAccuracy",
    "torchvision.models.ResNet",
    "timm.models.resnet.ResNet",
]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spelled", [as_class, as_word])
def test_classes_of_known_packages(name: str, spelled: Any) -> None:
    check(spelled(name))


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
def test_configurations_of_runs(kind: str) -> None:
    check(config_of(kind, RUN))


@pytest.mark.parametrize(
    "text",
    [
        "resnet18.a1_in1k",
        "net.readout",
        "a/b.ckpt",
        "runs.csv",
        "1.5",
        "see a.b and c.d",
        "pretrain.ckpt",
        "x.y.z",
    ],
)
def test_text_with_dots_that_is_no_code(text: str, mark: Path) -> None:
    write("pretrain.py", mark)  # a script of the user's, beside a checkpoint of its name
    check(as_word(text))
    assert not mark.exists()


REFUSED = [
    "os.system",
    "posix.system",
    "builtins.exec",
    "subprocess.Popen",
    "torch.hub.load",
    "torch.load",
    "torch.nn.functional.cross_entropy",
    "torch.nn.modules.os.system",
    "torch.nn.modules.module.warnings.sys.exit",
    "torch.nn.modules.module.torch.hub.load",
    "lit_aux.cli.os.system",
    "lit_aux.runs.slurm.shlex.split",
    "lit_aux.cli.main",
    "lit_aux.errors.ConfigurationError",
    "lit_aux.phases.PhaseTrainer",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.pytorch.trainer.Trainer",
    "timm.create_model",
    "torchvision.io.read_file",
    "torch.nn.__loader__.exec_module",
    "torch.nn.modules.module.Path",
    "__main__.anything",
    "antigravity.fly",
    "sys.exit",
    "os.path.join",
]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("spelled", [as_class, as_word])
def test_all_else_is_refused(name: str, spelled: Any) -> None:
    if name == "torch.nn.modules.module.Path":  # there is none: nothing to import
        check(as_word(name))
        return
    imported = set(sys.modules)
    with pytest.raises(ConfigurationError, match=r"^RUN runs/version_0: ") as raised:
        check(spelled(name))
    text = str(raised.value)
    assert "--trust" in text
    assert name in text
    assert "model.part" in text
    assert "\n" not in text
    assert "antigravity" not in set(sys.modules) - imported


@pytest.mark.parametrize("name", ["os.system", "torch.hub.load", "runs.evil.Net"])
def test_with_trust_what_will_be_imported_is_said(
    name: str, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("runs/evil.py", mark)
    check(as_class(name), trust=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("--trust: ")
    assert f"{name} (model.part)" in line
    check(as_class("torch.nn.Linear"), trust=True)
    assert capsys.readouterr().out == ""


def test_without_anything_trusted_nothing_is_imported(mark: Path) -> None:
    """Own files neither: a list with one refused name is refused before any is imported."""
    write("mine.py", mark)
    config = {"a": {"class_path": "mine.Net"}, "b": {"class_path": "os.system"}}
    with pytest.raises(ConfigurationError, match=r"os\.system \(b\)"):
        check(config)
    assert not mark.exists()
    check({"a": {"class_path": "mine.Net"}})
    assert mark.exists(), "files of the working folder are the user's own"


@pytest.mark.parametrize("place", ["mine.py", "pkg/__init__.py", "pkg/mine.py", "space/mine.py"])
def test_files_of_the_working_folder(place: str, mark: Path) -> None:
    write(place, mark)
    module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    check(as_class(f"{module}.Net"))
    check(as_word(f"{module}.Net"))
    for name in ("function", "os.system", "pathlib.Path"):
        with pytest.raises(ConfigurationError, match="--trust"):
            check(as_class(f"{module}.{name}"))
        with pytest.raises(ConfigurationError, match="--trust"):
            check(as_word(f"{module}.{name}"))


def compiled(path: str, mark: Path) -> None:
    """Write a module without its source."""
    import py_compile

    write("elsewhere.py", mark)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    py_compile.compile("elsewhere.py", cfile=path, doraise=True)
    Path("elsewhere.py").unlink()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("runs/version_0/evil.py", "runs.version_0.evil.Net"),
        ("runs/evil.py", "runs.evil.Net"),
        ("runs/__init__.py", "runs.Net"),
        ("runs/version_0/__init__.py", "runs.version_0.Net"),
        ("runs/version_0/ckpt.py", "runs.version_0.ckpt.anything"),
        ("runs/version_0/evil.pyc", "runs.version_0.evil.Net"),
    ],
)
@pytest.mark.parametrize("spelled", [as_class, as_word])
def test_files_that_came_with_the_run(place: str, name: str, spelled: Any, mark: Path) -> None:
    (compiled if place.endswith(".pyc") else write)(place, mark)
    with pytest.raises(ConfigurationError, match="--trust"):
        check(spelled(name))
    assert not mark.exists()


def test_a_link_into_the_run_is_of_the_run(mark: Path) -> None:
    write("runs/version_0/evil.py", mark)
    Path("mine.py").symlink_to("runs/version_0/evil.py")
    with pytest.raises(ConfigurationError, match="--trust"):
        check(as_class("mine.Net"))
    assert not mark.exists()


def test_the_working_folder_itself_may_be_what_was_received(
    mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("mine.py", mark)
    monkeypatch.setattr(trust, "PACKAGES", (*trust.PACKAGES, "known_package"))
    write("known_package.py", mark)  # as a known package that is not installed is called
    with pytest.raises(ConfigurationError, match="--trust"):
        check_trusted(as_class("known_package.Net"), Path(), "RUN .", False)
    with pytest.raises(ConfigurationError, match="--trust"):
        check_trusted(as_class("mine.Net"), Path(), "RUN .", False)
    assert not mark.exists()
    check_trusted(as_class("torch.nn.Linear"), Path(), "RUN .", False)


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"class_path": ["os.system"]}},
        {"model": {"class_path": {"x": "os.system"}}},
        {"model": {"class_path": " os.system"}},
        {"model": {"class_path": "os.system "}},
        {"model": {"class_path": "os:system"}},
        {"model": {"class_path": ".os.system"}},
        {"model": {"class_path": "os..system"}},
        {"model": [{"init_args": [{"dict_kwargs": {"x": ("os.system",)}}]}]},
        {"model": {"part": "{class_path: os.system}"}},
        {"model": {"part": '[{"class_path": "os.system"}]'}},
        {"model": {"part": "'os.system'"}},
        {"model": {"part": "{a: '{b: [os.system]}'}"}},
        {"model": {"part": "list[os.system]"}},
        {"model": {"part": "int | os.system"}},
        {"model": {"part": "${oc.env:HOME}"}},
        {"model": {"class_path": "torch.${x}"}},
        {"model": {"part": "{a: '${x}'}"}},
        {1: {None: "os.system"}},
    ],
)
def test_other_spellings(config: Any) -> None:
    with pytest.raises(ConfigurationError, match="--trust"):
        check(config)


def test_yaml_that_expands_without_end() -> None:
    bomb: Any = ["x"]
    for _ in range(30):
        bomb = [bomb, bomb]
    circle: Any = {}
    circle["again"] = circle
    for config in ({"model": bomb}, circle):
        with pytest.raises(ConfigurationError, match=r"^RUN runs/version_0: .* values"):
            check(config)


def test_a_class_is_trusted_for_where_it_is_defined(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known package may hand on a class of another one."""
    stranger = type("Stranger", (torch.nn.Module,), {"__module__": "subprocess", "__qualname__": "Popen"})
    monkeypatch.setattr(torch.nn, "Stranger", stranger, raising=False)
    with pytest.raises(ConfigurationError, match=r"torch\.nn\.Stranger .*subprocess\.Popen"):
        check(as_class("torch.nn.Stranger"))
