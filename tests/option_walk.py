"""A walk over every option of every command with values that are wrong, in process: what becomes of each.

``cases()`` lists them, ``try_case`` carries one out and says what is amiss. The suite tries a fixed sample;
``scripts/walk_options.py`` tries them all.
"""

import inspect
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from option_sense import sensible
from table_helpers import row, table
from test_bad_input import base, students
from trajectory_helpers import small_study

from lit_aux._messages import options_of
from lit_aux.cli import AuxiliaryCLI, main

VALUES = ("abc", "", "-1", "0", "nan", "inf", "99999999999999999999")
"""Of the wrong type or unknown, empty, negative, zero, not a number, infinite, huge."""
SECONDS = 60
Config = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One option with one value.

    Attributes:
        scene: What is run otherwise; a key of :data:`SCENES` or of :data:`COMMANDS`.
        option: Dotted, as in ``model.rescale``; ``trainer.callbacks.every_n_epochs`` of a callback.
        value: As it is typed.
    """

    scene: str
    option: str
    value: str

    def __str__(self) -> str:
        return f"{self.scene} --{self.option}={self.value}"


@dataclass
class Outcome:
    """What became of a case: ``refused`` or ``accepted``, and what is amiss."""

    kind: str
    line: str
    amiss: list[str] = field(default_factory=list)


def _set(config: Config, path: str, value: Any) -> Config:
    *keys, last = path.split("/")
    inner: Any = config
    for key in keys:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[last] = value
    return config


def _ptft() -> Config:
    config = base()
    config["trainer"]["max_time"] = "00:00:00:05"  # what would train for ever ends
    config["data"]["init_args"]["n_test"] = 20
    config["trainer"]["phase_store"] = False
    return config


def _module(name: str, **options: Any) -> Config:
    config = _ptft()
    backbone = config["model"]["init_args"]["backbone"]
    settings = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}, "max_epochs": 1}
    config["model"] = {
        "class_path": f"lit_aux.modules.{name}",
        "init_args": {"backbone": backbone, "settings": settings, **options},
    }
    return config


def _class(config: Config, path: str, class_path: str, **options: Any) -> Config:
    return _set(config, path, {"class_path": class_path, "init_args": options})


def _student(kind: str, integrator: str = "", **options: Any) -> Config:
    config = students(kind)
    config["trainer"] |= {"max_time": "00:00:00:05", "phase_store": False}
    if integrator:
        place = "model/init_args/finetune_settings/integrator"
        _class(config, place, f"lit_aux.integrators.{integrator}", **options)
    return config


def _callback(name: str, **options: Any) -> Config:
    config = _student("relu") if name in ("StudentNorms", "KMeansInertia", "FeatureAlignment") else _ptft()
    if name in ("L2SP", "WiSEFT"):  # of finetuning alone
        path = "model/init_args/finetune_callbacks"
    elif name == "WeightRescaling":
        phase = {"name": "one", "tasks": ["main"], "max_epochs": 1}
        _set(config, "model/init_args/phases", [phase])
        path = "model/init_args/phases/0/callbacks"
    else:
        path = "trainer/callbacks"
    entry = {"class_path": f"lit_aux.callbacks.{name}", "init_args": options}
    return _set(config, path, [entry])


_NEEDED: dict[str, Config] = {
    "StopAtTrainingLoss": {"threshold": 0.1},
    "WeightRescaling": {"factor": 0.5},
    "KMeansInertia": {"layer": "net.first", "k": 2},
    "FeatureAlignment": {"layer": "net.first", "k": 2},
    "FisherTrace": {"num_samples": 4, "batch_size": 4},
    "GradientCoherence": {"num_samples": 8, "batch_size": 4},
    "Sharpness": {"num_samples": 4, "iterations": 1},
    "GradientConflict": {"num_samples": 8},
}
CALLBACKS = (
    *("FeatureAlignment", "FisherTrace", "GradientCoherence", "GradientConflict", "KMeansInertia", "L2SP"),
    *("RepresentationDimensionality", "Sharpness", "StopAtTrainingLoss", "StudentNorms", "TrajectoryLog"),
    *("WeightRescaling", "WiSEFT"),
)
_WEIGHTINGS = ("GradNorm", "UncertaintyWeighting", "RandomWeighting")


def _phases() -> Config:
    settings = base()["model"]["init_args"]["pretrain_settings"]
    return with_keys_of(_ptft(), [{"name": "one", "tasks": ["main", "aux"], **settings}])


def with_keys_of(config: Config, phases: list[Config]) -> Config:
    """Give a configuration phases of its own."""
    config["model"]["init_args"]["phases"] = phases
    return config


def _scenes() -> dict[str, tuple[Config, list[tuple[str, str]]]]:
    """Return for every scene its configuration, and pairs of where a class stands in it and what it is."""
    model, settings = "model/init_args", "model/init_args/finetune_settings"
    optimizer = f"{settings}/optimizer/init_args"
    scenes: dict[str, tuple[Config, list[tuple[str, str]]]] = {
        "ptft": (
            _ptft(),
            [
                ("", "command"),
                ("trainer", "lit_aux.phases.PhaseTrainer"),
                (model, "lit_aux.modules.PretrainFinetuneModule"),
                (f"{model}/backbone/init_args", "lit_aux.models.TimmBackbone"),
                (settings, "lit_aux.phases.PhaseSettings"),
                (optimizer, "torch.optim.SGD"),
                ("data/init_args", "lit_aux.data.DigitsDataModule"),
            ],
        ),
        "adam": (
            _class(_ptft(), f"{settings}/optimizer", "torch.optim.AdamW"),
            [(optimizer, "torch.optim.AdamW")],
        ),
        "schedule": (
            _class(_ptft(), f"{settings}/lr_scheduler", "torch.optim.lr_scheduler.StepLR", step_size=1),
            [(f"{settings}/lr_scheduler/init_args", "torch.optim.lr_scheduler.StepLR")],
        ),
        "mtl": (_module("MultiTaskModule"), [(model, "lit_aux.modules.MultiTaskModule")]),
        "stl": (_module("SingleTaskModule"), [(model, "lit_aux.modules.SingleTaskModule")]),
        "lenet": (
            _class(_ptft(), f"{model}/backbone", "lit_aux.models.LeNet"),
            [(f"{model}/backbone/init_args", "lit_aux.models.LeNet")],
        ),
        "augment": (
            _class(_ptft(), "data/init_args/augment", "lit_aux.data.RandomCropFlip"),
            [("data/init_args/augment/init_args", "lit_aux.data.RandomCropFlip")],
        ),
        "phase": (_phases(), [(f"{model}/phases/0", "lit_aux.phases.Phase")]),
        "diagonal": (
            _student("diagonal"),
            [
                (f"{model}/backbone/init_args", "lit_aux.models.DiagonalNet"),
                (settings, "lit_aux.phases.PhaseSettings"),
                (f"{settings}/integrator/init_args", "lit_aux.integrators.GradientFlow"),
                ("data/init_args", "lit_aux.data.DiagonalTeacherDataModule"),
            ],
        ),
        "relu": (
            _student("relu"),
            [
                (f"{model}/backbone/init_args", "lit_aux.models.ReLUNet"),
                ("data/init_args", "lit_aux.data.ReLUTeacherDataModule"),
            ],
        ),
        "descent": (
            _student("diagonal", "GradientDescent", lr=0.01),
            [(f"{settings}/integrator/init_args", "lit_aux.integrators.GradientDescent")],
        ),
    }
    for name in _WEIGHTINGS:
        made = _module("MultiTaskModule")
        _class(made, f"{model}/weighting", f"lit_aux.modules.{name}")
        scenes[name] = (made, [(f"{model}/weighting/init_args", f"lit_aux.modules.{name}")])
    for name in CALLBACKS:
        made = _callback(name, **_NEEDED.get(name, {}))
        place = next(
            p
            for p in ("trainer/callbacks", f"{model}/finetune_callbacks", f"{model}/phases/0/callbacks")
            if _has(made, p)
        )
        scenes[name] = (made, [(f"{place}/0/init_args", f"lit_aux.callbacks.{name}")])
    return scenes


def _has(config: Any, path: str) -> bool:
    for key in path.split("/"):
        try:
            config = config[int(key)] if isinstance(config, list) else config[key]
        except (KeyError, IndexError):
            return False
    return True


SCENES = _scenes()
STUDENTS = (
    *("integrator", "max_evaluations", "max_flow_time", "block", "chunk", "test_every", "test_unit"),
    "test_thinning",
)
ONLY = {
    "reproduce images": [
        "device",
        "max-steps",
        "store",
        "jobs",
        "configs",
        "seeds",
        "n-main",
        "setups",
        "out",
    ],
    "sweep random": ["count", "seed", "method"],
    "sweep collect": ["out", "count", "logger", "task", "retry", "collect"],
    "table pairs": ["baseline", "mean", "value", "where", "by", "out"],
    "figures theory": ["out", "results", "value", "mean"],
    "regime run": ["pretrained", "out", "factors"],
    "regime config": ["factors", "seeds", "layer", "out"],
}
"""Of scenes that are a second look at a command: the options that matter there."""
_NOT_OPTIONS = {"kwargs", "args", "params", "optimizer_", "self", "tasks_"}


def _names(scene: str, kind: str) -> list[str]:
    if kind == "command":
        return ["seed_everything", "ckpt_path", "config"]
    names = options_of(kind)
    if scene in ("mtl", "stl"):  # what all modules have is tried in another scene
        names = [n for n in names if n not in options_of("lit_aux.modules.PretrainFinetuneModule")]
    if kind.endswith("PhaseSettings"):
        names = [n for n in names if (n in STUDENTS) == (scene == "diagonal")]
    if kind.endswith(".Phase"):
        names = [n for n in names if n not in STUDENTS]
    if kind.startswith("lit_aux.phases.Phase") and kind.endswith("Trainer"):
        names += [n for n in inspect.signature(lit_trainer()).parameters if n not in names]
    skipped = {"params"} if kind.startswith("torch.optim.") else set()
    if "lr_scheduler" in kind:
        skipped = {"optimizer"}
    return [n for n in dict.fromkeys(names) if n not in skipped | _NOT_OPTIONS]


def lit_trainer() -> Any:
    """Return Lightning's Trainer's constructor."""
    from lightning.pytorch import Trainer

    return Trainer.__init__


# The project's own commands: words with {option}s, and the options


COMMANDS: dict[str, list[str]] = {
    "reproduce": [
        *("diagonal-overlap", "--setups=[STL]", "--seeds=0", "--n-main=4", "--overlap=1", "--max-steps=4"),
        "--jobs=1",
    ],
    "reproduce images": ["cifar100-resnet18", "--setups=[STL]", "--seeds=0", "--n-main=4", "--jobs=1"],
    "sweep": ["INPUT/sweep.yaml", "--slurm=script.sh"],
    "sweep random": ["INPUT/sweep.yaml", "--slurm=script.sh", "--method=random", "--count=2"],
    "sweep collect": ["INPUT/sweep.yaml", "--collect"],
    "table": ["INPUT/results.csv"],
    "table pairs": ["INPUT/results.csv", "--pairs=true"],
    "figures": ["overlap", "--results=INPUT/results.csv", "--out=x.png"],
    "figures theory": ["penalties", "--out=x.png"],
    "regime": ["--results=INPUT/solved.csv"],
    "regime run": ["INPUT/run"],
    "regime config": ["--config", "INPUT/config.yaml", "--factors=[1]"],
    "trajectories": ["INPUT/study"],
    "export": ["--config", "INPUT/config.yaml", "--ckpt_path=INPUT/a.ckpt", "--output=x.pth"],
}


def _own_options(command: str) -> list[str]:
    from lit_aux.experiments import command as reproduce
    from lit_aux.figures import command as figures
    from lit_aux.regimes import command as regime
    from lit_aux.sweeps import command as sweep
    from lit_aux.tables import command as tables
    from lit_aux.trajectories import command as trajectories

    if command == "regime":
        return [name.lstrip("-") for name in regime._OWN]
    if command == "export":
        return ["ckpt_path", "output", "task"]
    rooms = {
        "reproduce": reproduce,
        "figures": figures,
        "sweep": sweep,
        "table": tables,
        "trajectories": trajectories,
    }
    actions = rooms[command].parser()._actions
    found = [a.option_strings[0].lstrip("-") for a in actions if a.option_strings and a.dest != "help"]
    return [*found, "no_such_option", ""]  # the last is the argument without option


def cases() -> list[Case]:
    """Return the whole walk, in a fixed order."""
    return [*_fit_cases(), *_command_cases()]


def _fit_cases() -> Iterator[Case]:
    for scene, (_, places) in SCENES.items():
        for place, kind in places:
            for name in _names(scene, kind):
                option = f"{place}/{name}".lstrip("/")
                yield from (Case(scene, option, value) for value in VALUES)
            if place:
                yield Case(scene, f"{place}/no_such_option", "1")


def _command_cases() -> Iterator[Case]:
    for words in COMMANDS:
        for name in ONLY.get(words, _own_options(words.split()[0])):
            yield from (Case(words, name, value) for value in VALUES)


# Carrying out


class TooLong(BaseException):
    """A case took longer than :data:`SECONDS`."""


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise :class:`TooLong` after so many seconds."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Walk:
    """Carries cases out, each in an empty working folder.

    Args:
        home: Where inputs are made and working folders stand.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.inputs, self.count = home, home / "inputs", 0
        self._made: set[str] = set()
        self._subcommands = AuxiliaryCLI.subcommands()

    def try_case(self, case: Case) -> Outcome:
        """Return what became of a case."""
        self.count += 1
        folder = self.home / f"work{self.count}"
        folder.mkdir()
        words = self._words(case)
        before = _listing(self.inputs)
        where, argv = Path.cwd(), sys.argv
        os.chdir(folder)
        try:
            sys.argv = ["lit-aux", *words]
            code, text = self._run(words)
        finally:
            os.chdir(where)
            sys.argv = argv
            _put_back()
        outcome = judge(case, code, text, [str(p.relative_to(folder)) for p in folder.rglob("*")])
        if _listing(self.inputs) != before:
            outcome.amiss.append("an input was changed")
            shutil.rmtree(self.inputs)
            self._made.clear()
        shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def _run(self, words: list[str]) -> tuple[Any, str]:
        only = {words[0]: self._subcommands.get(words[0], set())}
        if words[0] in ("regime", "reproduce", "sweep"):
            only = {"fit": self._subcommands["fit"]}
        kept = AuxiliaryCLI.subcommands
        AuxiliaryCLI.subcommands = staticmethod(lambda: only)  # type: ignore[method-assign]
        said = StringIO()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(said), limited():
                return main(words), said.getvalue()
        except TooLong:
            return "hang", said.getvalue()
        except SystemExit as end:
            return end.code, said.getvalue()
        except BaseException as error:
            return f"traceback: {type(error).__name__}: {error}", said.getvalue()
        finally:
            AuxiliaryCLI.subcommands = staticmethod(kept)  # type: ignore[method-assign]

    def _words(self, case: Case) -> list[str]:
        if case.scene in COMMANDS:
            return self._command(case)
        config, _ = SCENES[case.scene]
        in_list = re.search(r"/\d+/", case.option)
        if in_list or case.option.endswith("no_such_option"):
            config = _set(deepcopy(config), case.option, _typed(case.value))
        file = self.inputs / f"{case.scene}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(config))
        words = ["fit", "--config", str(file)]
        if not in_list and not case.option.endswith("no_such_option"):
            words.append(f"--{dotted(case.option)}={case.value}")
        return words

    def _command(self, case: Case) -> list[str]:
        command = case.scene.split()[0]
        self._make(command)
        words = [word.replace("INPUT", str(self.inputs)) for word in COMMANDS[case.scene]]
        if not case.option:
            return [command, case.value, *[w for w in words if w.startswith("-")]]
        words = [w for w in words if w.partition("=")[0] != f"--{case.option}"]
        if case.option == "from-wandb":
            words = [w for w in words if w.startswith("-")]
        if command in ("sweep",) and case.option in ("task", "collect"):
            words = [w for w in words if not w.startswith("--slurm")]
        return [command, *words, f"--{case.option}={case.value}"]

    def _make(self, command: str) -> None:
        """Make what the commands read."""
        if "all" in self._made:
            return
        self._made.add("all")
        self.inputs.mkdir(exist_ok=True)
        rows = [
            row(setup, seed, n, 0.1 * (seed + 1) / n, experiment="diagonal-overlap", overlap=overlap)
            for setup in ("STL", "PT+FT", "MTL")
            for seed in (0, 1)
            for n in (16, 64)
            for overlap in (0, 40)
        ]
        table(self.inputs / "results.csv", rows)
        config = _ptft()
        (self.inputs / "config.yaml").write_text(yaml.safe_dump(config))
        command_line = ["${env}", "lit-aux", "fit", "--config", str(self.inputs / "config.yaml"), "${args}"]
        sweep = {
            "method": "grid",
            "parameters": {"model.rescale": {"values": [0.5, 1.0]}},
            "command": command_line,
        }
        (self.inputs / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        small_study(self.inputs / "study", {"main": 0.02, "aux": -0.02})
        from regime_helpers import fit_run

        grid = ["reproduce", "diagonal-overlap", "--setups=[PT+FT]", "--seeds=0", "--n-main=4", "--overlap=1"]

        (self.inputs / "run").mkdir(exist_ok=True)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            run = fit_run("diagonal", self.home / "fit")
            main([*grid, "--jobs=1", "--max-steps=4", f"--out={self.inputs / 'solved.csv'}"])
            shutil.copytree(run, self.inputs / "run", dirs_exist_ok=True)
            words = ["fit", "--config", str(self.inputs / "config.yaml")]
            words.append(f"--trainer.default_root_dir={self.home / 'fit2'}")
            main(words)
        found = next((self.home / "fit2").rglob("finetune.ckpt"))
        shutil.copy(found, self.inputs / "a.ckpt")


def dotted(option: str) -> str:
    """Return an option as it is typed."""
    return re.sub(r"/\d+/", "/", option.replace("/init_args", "")).replace("/", ".")


def _typed(value: str) -> Any:
    return {"nan": float("nan"), "inf": float("inf"), "": ""}.get(value, yaml.safe_load(value or "''"))


def _put_back() -> None:
    """Undo what options of the Trainer change in the process."""
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.set_default_dtype(torch.float32)
    for name in (
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "CUBLAS_WORKSPACE_CONFIG",
        "WORLD_SIZE",
        "NODE_RANK",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        os.environ.pop(name, None)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in (".yaml",) and not p.name.startswith(".")
    }


def judge(case: Case, code: Any, text: str, left: list[str]) -> Outcome:
    """Say what is amiss with how a case ended."""
    told = [line for line in text.splitlines() if line.startswith("lit-aux: error: ")]
    line = told[-1].removeprefix("lit-aux: error: ") if told else ""
    if code == "hang" or str(code).startswith("traceback"):
        return Outcome("refused", " ".join(str(code).split())[:300], [str(code).partition(":")[0]])
    if "Traceback (most recent" in text:
        return Outcome("refused", " ".join(text[-300:].split()), ["traceback"])
    if code == 0 or (code == 1 and not told and case.scene == "sweep collect"):  # whose runs are missing
        outcome = Outcome("accepted", line)
        if not sensible(dotted(case.option), case.value):
            outcome.amiss.append("accepted")
        return outcome
    outcome = Outcome("refused", line)
    if len(told) != 1:
        outcome.amiss.append(f"{len(told)} lines")
    name = re.sub(r"\W+", ".", dotted(case.option)).rpartition(".")[2].replace("-", "[-_]")
    if case.option and not re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])", line.replace("-", "_") + line):
        outcome.amiss.append("option not named")
    echoes = {case.value, *([repr(_typed(case.value))] if re.search(r"/\d+/", case.option) else [])}
    with suppress(ValueError):  # of a file, YAML has read the value before
        echoes |= {str(float(case.value))} if re.search(r"/\d+/", case.option) else set()
    if not any(echo in line for echo in echoes) and not case.option.endswith("no_such_option"):
        outcome.amiss.append("value not echoed")
    late = (
        case.scene == "StopAtTrainingLoss" and "monitor" in case.option
    )  # an epoch has logged what there is
    if left and not late:
        outcome.amiss.append(f"left behind: {left[:3]}")
    return outcome


def limit_memory(gigabytes: int = 10) -> None:
    """Let what asks for more memory than a machine has fail at once."""
    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))


@contextmanager
def walk() -> Iterator[Walk]:
    """Yield a walk in a folder that is removed afterwards."""
    home = Path(tempfile.mkdtemp())
    try:
        yield Walk(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
