"""Options that mean nothing, files that are none: told in one line that names the right option."""

import os
import signal
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from option_cases import put
from test_bad_input import Config, base, configured, refused, with_callback, with_keys, with_phases

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.errors import ConfigurationError
from lit_aux.phases import PhaseTrainer
from lit_aux.storage import check_place

__all__ = ["configured", "refused"]  # fixtures
DIMENSIONALITY = "lit_aux.callbacks.RepresentationDimensionality"
FINETUNE = "--model.finetune_settings"

MEANINGLESS = [
    # what would train nothing, and test an untrained network like any other
    ("--trainer.max_epochs=0", "0"),
    ("--trainer.max_epochs=-2", "-2"),
    (f"{FINETUNE}.optimizer.lr=0", "0"),
    (f"{FINETUNE}.optimizer.dampening=-1", "-1"),
    ("--trainer.default_root_dir=", "''"),
    ("--trainer.phase_store=/proc/x", "/proc/x"),
    ("--trainer.max_steps=0", "0"),
    ("--trainer.max_steps=-7", "-7"),
    ("--trainer.limit_train_batches=0", "0"),
    ("--trainer.limit_train_batches=0.0", "0.0"),
    ("--trainer.min_epochs=-1", "-1"),
    ("--trainer.max_time=00:00:00:00", "00:00:00:00"),
    (f"{FINETUNE}.max_epochs=-1", "-1"),
    (f"{FINETUNE}.max_steps=0", "0"),
    # limits that were refused only when their phase began
    (f"{FINETUNE}.max_time=-1", "-1"),
    (f"{FINETUNE}.max_time=00:61", "00:61"),
    ("--model.pretrain_settings.max_time=soon", "soon"),
    # negative, or beyond what numbers of single precision can be
    ("--trainer.gradient_clip_val=-1", "-1"),
    ("--trainer.accumulate_grad_batches=-2", "-2"),
    ("--trainer.accumulate_grad_batches=0", "0"),
    ("--trainer.log_every_n_steps=-1", "-1"),
    ("--model.rescale=1e-300", "1e-300"),
    ("--model.rescale=1e200", "1e200"),
    ("--model.readout_scale=-1", "-1"),
    ("--data.std=1e-30", "1e-30"),
    ("--data.mean=1e30", "1e30"),
    ("--data.n_test=99999999999999999999", "99999999999999999999"),
    ("--data.size=99999999999999999999", "99999999999999999999"),
    (f"{FINETUNE}.optimizer.lr=.inf", ".inf"),
    (f"{FINETUNE}.optimizer.momentum=.nan", ".nan"),
    (f"{FINETUNE}.optimizer.weight_decay=1e30", "1e30"),
    (f"{FINETUNE}.optimizer.lr=-0.5", "-0.5"),
    # more than there is anywhere
    ("--trainer.devices=99999999", "99999999"),
    ("--trainer.devices=99999999999999999999", "99999999999999999999"),
    ("--trainer.num_nodes=99999999", "99999999"),
    ("--trainer.val_check_interval=1e300", "1e300"),
    # seeds
    ("--seed_everything=-1", "-1"),
    ("--seed_everything=4294967296", "4294967296"),
    ("--data.seed=-5", "-5"),
    # of another kind
    ("--model.losses={}", "{}"),
    ("--model.backbone=abc", "abc"),
    ("--model.tasks={main: 5, aux: 8}", "{main: 5, aux: 8}"),
    ("--trainer.profiler=abc", "abc"),
    ("--data.classes={main: 2, main: 3}", "{main: 2, main: 3}"),
    ("--trainer.max_epochs=${nope}", "${nope}"),
]


@pytest.mark.parametrize(("word", "echoed"), MEANINGLESS, ids=lambda value: value)
def test_an_option_is_refused_by_its_name_with_its_value(word: str, echoed: str, refused: Any) -> None:
    message = refused(word)
    option = word.partition("=")[0]
    assert message.startswith(f"lit-aux: error: {option}"), message
    assert option.rpartition(".")[2] in message
    assert echoed in message, message


def mtl(**options: Any) -> Config:
    config = base()
    settings = config["model"]["init_args"]["finetune_settings"]
    backbone = config["model"]["init_args"]["backbone"]
    config["model"] = {
        "class_path": "lit_aux.modules.MultiTaskModule",
        "init_args": {"backbone": backbone, "settings": settings, **options},
    }
    return config


def scheduled(name: str, **options: Any) -> Config:
    config = base()
    schedule = {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": options}
    config["model"]["init_args"]["finetune_settings"]["lr_scheduler"] = schedule
    return config


def long_validation() -> Config:
    config = base()
    config["trainer"].pop("limit_val_batches")
    config["trainer"]["val_check_interval"] = 99999999
    return config


PHASE: Config = {"name": "one", "tasks": ["main"], "max_epochs": 1}
RESCALING = {"class_path": "lit_aux.callbacks.WeightRescaling", "init_args": {"factor": -1}}
CONFIGURED = {
    "weights of tasks below 0": (mtl(task_weights={"main": -1}), "--model.task_weights", "-1"),
    "weights of tasks that are all 0": (mtl(task_weights={"main": 0, "aux": 0}), "--model.task_weights", "0"),
    "a factor of a callback": (
        with_callback("lit_aux.callbacks.WeightRescaling", factor=-1),
        "--trainer.callbacks.factor",
        "-1",
    ),
    "a factor of a phase's": (
        with_phases({**PHASE, "callbacks": [RESCALING]}),
        "--model.phases.callbacks.factor",
        "-1",
    ),
    "a limit of a phase": (with_phases({**PHASE, "max_epochs": 0}), "--model.phases.max_epochs", "0"),
    "no time": (with_phases({**PHASE, "max_time": "1"}), "--model.phases.max_time", "1"),
    "a schedule that cannot step": (scheduled("StepLR", step_size=0), f"{FINETUNE}.lr_scheduler", "0"),
    "a schedule into the negative": (
        scheduled("StepLR", step_size=1, gamma=-1.0),
        f"{FINETUNE}.lr_scheduler",
        "-1",
    ),
    "no probe": (with_callback(DIMENSIONALITY, probe=-1), "--trainer.callbacks.probe", "-1"),
    "a probe that is text": (with_callback(DIMENSIONALITY, probe="x"), "--trainer.callbacks.probe", "x"),
    "no data": (
        with_callback("lit_aux.callbacks.FisherTrace", data=7),
        "--trainer.callbacks.data",
        "7",
    ),
    "no validation in an epoch": (long_validation(), "--trainer.val_check_interval", "99999999"),
    "a reference to nothing": (with_keys("trainer", "max_epochs", value="${nope}"), "--config", "nope"),
    "references in a circle": (
        with_keys("trainer", "max_epochs", value="${fit.trainer.max_epochs}"),
        "--config",
        "max_epochs",
    ),
}


@pytest.mark.parametrize("given", ["os.system", "builtins.len", "builtins.id"])
def test_a_function_of_the_users_that_is_of_another_kind(given: str, refused: Any) -> None:
    message = refused(config=with_callback(DIMENSIONALITY, to_input=given, num_samples=4))
    assert message.startswith("lit-aux: error: --trainer.callbacks.to_input"), message
    assert given.removeprefix("builtins.") in message


def test_too_few_images_for_a_probe_are_no_fault_of_the_callbacks(refused: Any) -> None:
    config = with_callback(DIMENSIONALITY, unbiased=True)
    config["trainer"]["limit_val_batches"] = 1.0
    config["data"]["init_args"] |= {"n_val": 1}
    message = refused(config=config)
    assert "--data.n_val" in message
    assert "num_samples" not in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (yaml.safe_dump(base()).encode("utf-16"), "UTF-16"),
        (b"# caf\xe9\n" + yaml.safe_dump(base()).encode(), "UTF-8"),
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"--- abc\n", "abc"),
        (b"- 1\n", "[1]"),
        (yaml.safe_dump(base()).encode() + b"trainer: {max_epochs: 3}\n", "'trainer'"),
        (b"trainer: {max_epochs: 1, max_steps: 2, max_epochs: 3}\n", "'max_epochs'"),
        (b"a: [1,\n", "YAML"),
        (yaml.safe_dump(base()).encode("utf-32"), "UTF-32"),
        (b"trainer:\n\tmax_epochs: 1\n", "line 2"),
        (b"trainer: *nope\n", "'nope'"),
        (b"trainer: {<<: 3}\n", "merging"),
        (b"1: 2\n", "key 1"),
        (b"trainer: &a {b: *a}\n", "anchor"),
        (b"trainer: [&a {x: 1}, {k: 1, k: 2}]\n", "'k'"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (n + 1, n + 1, b", ".join([b"*%c" % n] * 10)) for n in b"abcdefgh"
            ),
            "anchors",
        ),
    ],
)
def test_a_configuration_that_is_none(content: bytes, told: str, refused: Any, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("config") / "odd.yaml"
    file.write_bytes(content)
    message = refused.words(["fit", "--config", str(file)])
    assert message.startswith(f"lit-aux: error: --config {file}"), message
    assert told in message


def changed(path: str, value: Any) -> Config:
    return put(deepcopy(base()), path, value)


OPTIMIZER = "model/init_args/finetune_settings/optimizer"
ENTRIES = {
    "a class path that is no text": (changed("model/class_path", 7), "--model:", "7"),
    "a class path that is no name": (changed("model/class_path", "a..b"), "--model:", "'a..b'"),
    "arguments in a list": (changed("model/init_args", [1]), "--model: init_args", "[1]"),
    "a key of another level": (changed("model/rescale", 0.5), "--model: 'rescale'", "init_args"),
    "of an optimizer": (
        changed(OPTIMIZER, {"class_path": "torch.optim.SGD", "lr": 0.1}),
        f"{FINETUNE}.optimizer: 'lr'",
        "init_args",
    ),
    "no such optimizer": (
        changed(OPTIMIZER, {"class_path": "torch.optim.SDG", "init_args": {"lr": 0.1}}),
        f"{FINETUNE}.optimizer:",
        "no class 'torch.optim.SDG'",
    ),
    "another class": (
        changed(OPTIMIZER, {"class_path": "torch.nn.Linear", "init_args": {}}),
        f"{FINETUNE}.optimizer: torch.nn.Linear",
        "torch.optim.SGD",
    ),
    "a function that is not there": (
        with_callback(DIMENSIONALITY, to_input="nope.nope"),
        "--trainer.callbacks.to_input:",
        "'nope.nope'",
    ),
    "numbers for a probe": (
        with_callback(DIMENSIONALITY, probe=[1, 2]),
        "--trainer.callbacks.probe: [1, 2]",
        "loader",
    ),
    "a command for data": (
        with_callback("lit_aux.callbacks.FisherTrace", data="os.system"),
        "--trainer.callbacks.data: os.system",
        "PhaseTrainer",
    ),
    "a task to stop on": (
        changed("model/init_args/finetune_settings/stop_on", ["nope"]),
        f"{FINETUNE}.stop_on",
        "'nope'",
    ),
    "factors for one readout": (
        changed("model/init_args/readout_scale", [1.0, 2.0]),
        "--model.readout_scale",
        "[1.0, 2.0]",
    ),
    "no such loss": (
        changed("model/init_args/losses", {"main": {"class_path": "some.Nope"}}),
        "--model.losses",
        "some.Nope",
    ),
    "no such option of a loss": (
        changed("model/init_args/losses/main", {"class_path": "torch.nn.MSELoss", "init_args": {"nope": 1}}),
        "--model.losses",
        "MSELoss",
    ),
    "weights of a name that no file has": (
        changed("model/init_args/pretrained", "x" * 300),
        "--model.pretrained: 'xxx",
        "longer",
    ),
    "a phase without a name": (with_phases({**PHASE, "name": ""}), "--model.phases.name", "''"),
    "options of the Trainer in a list": (changed("trainer", [1]), "--config", "[1]"),
    "no options of the Trainer": (changed("trainer", None), "--config", "--trainer: None"),
    "a key that is a number": (changed("trainer/1", 2), "--", "1"),
    "references in a circle of three": (
        put(
            changed("trainer/max_epochs", "${fit.trainer.min_epochs}")
            | {"seed_everything": "${fit.trainer.max_epochs}"},
            "trainer/min_epochs",
            "${fit.seed_everything}",
        ),
        "--config",
        "Recursive",
    ),
    "a reference of an older kind": (changed("trainer/max_epochs", "${env:HOME}"), "--config", "max_epochs"),
}


@pytest.mark.parametrize("name", [*CONFIGURED, *ENTRIES])
def test_a_configuration_is_refused_by_the_option(name: str, refused: Any) -> None:
    config, option, value = {**CONFIGURED, **ENTRIES}[name]
    message = refused(config=config)
    assert message.startswith(f"lit-aux: error: {option}"), message
    assert value in message, message


@pytest.mark.parametrize(
    ("content", "line", "kind"),
    [
        ("def f(:\n    pass\n", 1, "SyntaxError"),
        ("import no_such_module_anywhere\n", 1, "ModuleNotFoundError"),
        ("x = 1\ny = undefined_name\n", 2, "NameError"),
        ("def f():\n    return {}['a']\n\n\nf()\n", 2, "KeyError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    content: str, line: int, kind: str, refused: Any, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("own")
    (folder / f"broken_{kind}.py").write_text(content)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    message = refused(config=changed("model/init_args/backbone", {"class_path": f"broken_{kind}.Mine"}))
    assert message.startswith("lit-aux: error: --model.backbone: "), message
    assert f"broken_{kind}.py, line {line}: {kind}" in message


@pytest.mark.parametrize("word", ["--trainer=abc", "--trainer=", "--trainer=[1]", "--trainer=3"])
def test_a_trainer_is_a_mapping_of_options(word: str, refused: Any) -> None:
    message = refused(word)
    assert message.startswith("lit-aux: error: --trainer: "), message
    assert repr(word.partition("=")[2]) in message


def test_keys_of_a_merge_may_be_overridden(configured: Callable[[Config], str]) -> None:
    from lit_aux import _yaml

    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a, y: 4}\n"
    assert _yaml.load(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 4}}


@pytest.mark.parametrize(
    "given",
    ["", "  ", "/", "/.", "//", "/..", "/proc/x.csv", "/sys/a/b.csv", "/dev/null", "x/\n#SBATCH", "n" * 300],
)
def test_a_place_to_write_to_that_is_none(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--out"):
        check_place("--out", given)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["table", ""], "FILE ''"),
        (["table", "t.csv", "--reference="], "--reference ''"),
        (["figures", "overlap", "--results="], "--results ''"),
        (["trajectories", " "], "RUN ' '"),
        (["sweep", ""], "FILE ''"),
        (["reproduce", "diagonal-overlap", "--device="], "--device ''"),
        (["sweep", "s.yaml", "--slurm", "s.sh", "--sbatch= "], "--sbatch ' '"),
    ],
    ids=lambda value: str(value),
)
def test_what_is_read_has_a_name(words: list[str], option: str, refused: Any) -> None:
    assert refused.words(words).startswith(f"lit-aux: error: {option}")


def test_a_link_to_such_a_place_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(ConfigurationError, match="/proc"):
        check_place("--out", tmp_path / "link" / "x.csv")
    assert check_place("--out", tmp_path / "x.csv") == tmp_path / "x.csv"
    assert check_place("--out", "/dev/shm/x.csv") == Path("/dev/shm/x.csv")


@pytest.mark.parametrize(
    "words",
    [
        ["table", "t.csv"],
        ["table", "--from-wandb", "a/b"],
        ["figures", "penalties"],
        ["regime", "--results", "t.csv"],
        ["trajectories", "t"],
        ["reproduce", "diagonal-overlap"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("given", ["", "/", "/proc/x.png"])
def test_commands_refuse_such_places(words: list[str], given: str, refused: Any) -> None:
    message = refused.words([*words, f"--out={given}"])
    assert message.startswith("lit-aux: error: --out"), message
    assert given in message


def test_the_home_folder_is_one_for_every_file_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    trainer = PhaseTrainer(default_root_dir="~/runs", phase_store="~/store", accelerator="cpu", logger="csv")
    home = tmp_path / "home"
    assert trainer.default_root_dir == str(home / "runs")
    assert Path(trainer.log_dir).is_relative_to(home / "runs")
    assert trainer._reuse is not None
    assert Path(trainer._reuse.store.root) == home / "store"
    assert not Path("~").exists()


def test_the_home_folder_behind_an_equals_sign(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any, refused: Any
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    (home / "odd.yaml").write_text("- 1\n")
    assert f"--config {home}/odd.yaml" in refused.words(["fit", "--config=~/odd.yaml"])
    assert f"{home}/t.csv" in refused.words(["table", "~/t.csv"])
    assert f"{home}/t.csv" in refused.words(["regime", "--results=~/t.csv"])


def test_a_bug_is_not_taken_for_a_wrong_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_own.py").write_text(
        "from torch import nn\nclass Mine(nn.Module):\n    def __init__(self, width: int = 3):\n"
        "        super().__init__()\n        self.x = undefined_name\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = with_keys("model", "init_args", "backbone", value={"class_path": "my_own.Mine"})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="'undefined_name' is not defined"):
        main(["fit", "--config", "c.yaml"])


def test_sweep_needs_processes_in_groups(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.delattr(os, "setsid")
    assert "Linux or macOS" in refused.words(["sweep", "s.yaml"])


@pytest.mark.parametrize(
    "words",
    [
        ["table", "n" * 300],
        ["trajectories", "n" * 300],
        ["figures", "overlap", "--results", "n" * 300],
        ["fit", "--config", "n" * 300],
        ["regime", "--results=" + "n" * 300],
        ["figures", "overlap", "--results", "a\0b"],
    ],
    ids=lambda words: words[0],
)
def test_names_that_no_file_can_have(words: list[str], refused: Any) -> None:
    message = refused.words(words)
    option = next((w.partition("=")[0] for w in words if w.startswith("--")), "the argument")
    assert message.startswith(f"lit-aux: error: {option}: "), message
    assert len(message) < 200


def test_a_file_is_no_folder_of_runs(refused: Any, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("a") / "file"
    file.touch()
    message = refused(f"--trainer.default_root_dir={file}")
    assert message.startswith(f"lit-aux: error: --trainer.default_root_dir: '{file}'")


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
@pytest.mark.parametrize("given", ["", "none.ckpt"])
def test_no_checkpoint_leaves_nothing(
    command: str, given: str, refused: Any, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {command: AuxiliaryCLI.subcommands()[command]}
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only))
    message = refused.words([command, "--config", configured(base()), f"--ckpt_path={given}"])
    assert message.startswith("lit-aux: error: --ckpt_path: ")
    assert repr(given) in message


def test_early_stopping_on_what_is_not_there(
    configured: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    only = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only))
    config = with_callback("lightning.pytorch.callbacks.EarlyStopping", monitor="nope")
    assert main(["fit", "--config", configured(config)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("lit-aux: error: --trainer.callbacks: EarlyStopping: ")
    assert "nope" in message


def test_fit_without_calls_of_posix(configured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no fork, no groups of processes, no fcntl, no SIGKILL."""
    from lightning.pytorch.trainer.connectors import signal_connector

    monkeypatch.setattr(signal_connector, "_IS_WINDOWS", True)
    there = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}
    monkeypatch.setattr(signal_connector._SignalConnector, "_valid_signals", staticmethod(lambda: there))
    for room, names in ((os, ("fork", "killpg", "setsid", "getpgid")), (signal, ("SIGKILL", "SIGUSR1"))):
        for name in names:
            monkeypatch.delattr(room, name, raising=False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    only = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only))
    config = base()
    config["data"]["init_args"]["n_test"] = 20
    assert main(["fit", "--config", configured(config)]) == 0
    assert list(Path("runs").rglob("finetune.ckpt"))
