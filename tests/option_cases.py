"""Every option of every command, each with values that are wrong: the cases of the walk."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from test_bad_input import base, students

from lit_aux.cli.commands import COMMANDS as TABLE
from lit_aux.cli.messages import options_of
from lit_aux.experiments.grids import EXPERIMENTS

Config = dict[str, Any]
VALUES = ("abc", "[1, 2]", "", "-1", "0", ".nan", ".inf", "99999999999999999999")
"""Unknown, of the wrong type, empty, negative, zero, not a number and infinite as YAML writes them, huge."""
INPUTS = ("results.csv", "sweep.yaml", "config.yaml", "a.ckpt")
"""What an option that names an output must not take: files that commands read."""


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


def put(config: Config, path: str, value: Any) -> Config:
    """Set a value in a configuration; a slash stands between keys, numbers are places in lists."""
    *keys, last = path.split("/")
    inner: Any = config
    for key in keys:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[last] = value
    return config


def short_run() -> Config:
    """Return a correct run of a second or so, which ends after five at most."""
    config = base()
    config["trainer"]["max_time"] = "00:00:00:05"  # what would train for ever ends
    config["data"]["init_args"]["n_test"] = 20
    config["trainer"]["phase_store"] = False
    return config


def _module(name: str, **options: Any) -> Config:
    config = short_run()
    backbone = config["model"]["init_args"]["backbone"]
    settings = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}, "max_epochs": 1}
    config["model"] = {
        "class_path": f"lit_aux.modules.{name}",
        "init_args": {"backbone": backbone, "settings": settings, **options},
    }
    return config


def _data(name: str, **options: Any) -> Config:
    """Return a run of a single task, or of several for data that have no single one."""
    several = name in ("CIFAR100DataModule", "FashionMNISTDataModule")
    config = _module("MultiTaskModule" if several or "MTL" in name else "SingleTaskModule")
    classes = {"classes": {"main": 2, "aux": 8}} if several else {}
    options = {"n_val": 2, "batch_size": 4, **classes, **options}
    config["data"] = {"class_path": f"lit_aux.data.{name}", "init_args": options}
    return config


def _class(config: Config, path: str, class_path: str, **options: Any) -> Config:
    return put(config, path, {"class_path": class_path, "init_args": options})


def _student(kind: str, integrator: str = "", **options: Any) -> Config:
    config = students(kind)
    config["trainer"] |= {"max_time": "00:00:00:05", "phase_store": False}
    if integrator:
        place = "model/init_args/finetune_settings/integrator"
        _class(config, place, f"lit_aux.integrators.{integrator}", **options)
    return config


def _callback(name: str, **options: Any) -> Config:
    config = (
        _student("relu") if name in ("StudentNorms", "KMeansInertia", "FeatureAlignment") else short_run()
    )
    if name in ("L2SP", "WiSEFT"):  # of finetuning alone
        path = "model/init_args/finetune_callbacks"
    elif name == "WeightRescaling":
        phase = {"name": "one", "tasks": ["main"], "max_epochs": 1}
        put(config, "model/init_args/phases", [phase])
        path = "model/init_args/phases/0/callbacks"
    else:
        path = "trainer/callbacks"
    entry = {"class_path": f"lit_aux.callbacks.{name}", "init_args": options}
    return put(config, path, [entry])


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
TINY_TRANSFORMER: Config = {
    **{"model_type": "bert", "vocab_size": 120, "hidden_size": 8, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32},
}
_WEIGHTINGS = ("GradNorm", "UncertaintyWeighting", "RandomWeighting")


def _phases() -> Config:
    settings = base()["model"]["init_args"]["pretrain_settings"]
    return with_keys_of(short_run(), [{"name": "one", "tasks": ["main", "aux"], **settings}])


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
            short_run(),
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
            _class(short_run(), f"{settings}/optimizer", "torch.optim.AdamW"),
            [(optimizer, "torch.optim.AdamW")],
        ),
        "schedule": (
            _class(short_run(), f"{settings}/lr_scheduler", "torch.optim.lr_scheduler.StepLR", step_size=1),
            [(f"{settings}/lr_scheduler/init_args", "torch.optim.lr_scheduler.StepLR")],
        ),
        "mtl": (_module("MultiTaskModule"), [(model, "lit_aux.modules.MultiTaskModule")]),
        "stl": (_module("SingleTaskModule"), [(model, "lit_aux.modules.SingleTaskModule")]),
        "lenet": (
            _class(short_run(), f"{model}/backbone", "lit_aux.models.LeNet"),
            [(f"{model}/backbone/init_args", "lit_aux.models.LeNet")],
        ),
        "diabetes": (
            _class(
                _data("DiabetesDataModule", n_main=8, n_test=4),
                f"{model}/backbone",
                "lit_aux.models.MLP",
                in_features=8,
            ),
            [
                (f"{model}/backbone/init_args", "lit_aux.models.MLP"),
                ("data/init_args", "lit_aux.data.DiabetesDataModule"),
            ],
        ),
        "text": (
            _class(
                _data("WordNetDataModule", root="INPUT/text", n_main=4, n_test=4, vocab_size=120),
                f"{model}/backbone",
                "lit_aux.models.TransformersBackbone",
                model=TINY_TRANSFORMER,
            ),
            [
                (f"{model}/backbone/init_args", "lit_aux.models.TransformersBackbone"),
                ("data/init_args", "lit_aux.data.WordNetDataModule"),
            ],
        ),
        "cifar100": (
            _data("CIFAR100DataModule", root="INPUT/cifar/data", n_main=4, n_aux=100),
            [("data/init_args", "lit_aux.data.CIFAR100DataModule")],
        ),
        "fashion": (
            _data("FashionMNISTDataModule", root="INPUT/fashion/data", n_main=4, n_aux=16),
            [("data/init_args", "lit_aux.data.FashionMNISTDataModule")],
        ),
        "fashion-mtl": (
            _data("FashionMTLDataModule", root="INPUT/fashion/data"),
            [("data/init_args", "lit_aux.data.FashionMTLDataModule")],
        ),
        "folder": (
            _data("ImageFolderDataModule", root="INPUT/images/data", size=32),
            [("data/init_args", "lit_aux.data.ImageFolderDataModule")],
        ),
        "augment": (
            _class(short_run(), "data/init_args/augment", "lit_aux.data.RandomCropFlip"),
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
    scenes["exact"] = (
        _student("diagonal", "Exact"),
        [(f"{settings}/integrator/init_args", "lit_aux.integrators.Exact")],
    )
    torch_sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
    scenes["torch-optimizer"] = (
        _student("diagonal", "TorchOptimizer", optimizer=torch_sgd),
        [(f"{settings}/integrator/init_args", "lit_aux.integrators.TorchOptimizer")],
    )
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
    *("test_thinning", "patience"),
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
_COMMON = (
    *("config", "seed_everything", "ckpt_path", "weights_only", "model", "data", "trainer", "print_config"),
    *("model.help", "data.help", "open"),
)
"""Of all commands of Lightning's."""
_NOT_OPTIONS = {"kwargs", "args", "params", "optimizer_", "self", "tasks_"}


def _names(scene: str, kind: str) -> list[str]:
    if kind == "command":
        kinds = ("accelerator", "callbacks", "logger", "plugins", "profiler", "strategy")
        return [*_COMMON, *(f"trainer.{kind}.help" for kind in kinds)]
    names = options_of(kind)
    if scene in ("mtl", "stl"):  # what all modules have is tried in another scene
        names = [n for n in names if n not in options_of("lit_aux.modules.PretrainFinetuneModule")]
    if (
        kind.startswith("lit_aux.data.")
        and kind.endswith("Module")
        and "Teacher" not in kind
        and scene != "ptft"
    ):
        names = [n for n in names if n not in options_of("lit_aux.data.DigitsDataModule")]
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
        *("diagonal-overlap", "--setups=[PT+FT]", "--seeds=0", "--n-main=4", "--overlap=1", "--max-steps=4"),
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
    "regime run": ["INPUT/run", "--out=o"],
    "regime config": ["--config=INPUT/config.yaml", "--factors=[1]"],
    "trajectories": ["INPUT/study"],
    "report": ["INPUT/results.csv", "--out=x.html"],
    "export": ["--config=INPUT/config.yaml", "--ckpt_path=INPUT/a.ckpt", "--output=x.pth"],
    "validate": ["--config=INPUT/config.yaml", "--ckpt_path=INPUT/a.ckpt"],
    "test": ["--config=INPUT/config.yaml", "--ckpt_path=INPUT/a.ckpt"],
    "predict": ["--config=INPUT/config.yaml", "--ckpt_path=INPUT/a.ckpt"],
}
_OF_LIGHTNING = {
    "validate": (*_COMMON, "verbose", "trainer.limit_val_batches", "model.rescale"),
    "test": (*_COMMON, "verbose", "trainer.limit_test_batches", "model.rescale"),
    "predict": (*_COMMON, "return_predictions", "output", "trainer.limit_predict_batches", "model.rescale"),
    "export": (*_COMMON, "output", "task"),
}
"""Options of Lightning's other commands; those of models, data and trainers are as in ``fit``."""


def _experiments() -> dict[str, list[str]]:
    """Return a scene for every other experiment with students: the grid's first point."""
    small = ["--setups=[PT+FT]", "--seeds=0", "--n-main=4", "--max-steps=4", "--jobs=1"]
    found = {}
    for one in EXPERIMENTS.values():
        if one.network != "image" and one.name != "diagonal-overlap":
            first = {axis: values[0] for axis, values in one.axes.items()}
            texts = {
                a: "|".join(f"{w:g}" for w in v) if isinstance(v, tuple) else v for a, v in first.items()
            }
            axes = [f"--{axis.replace('_', '-')}={text}" for axis, text in texts.items()]
            found[f"reproduce {one.name}"] = [one.name, *small, *axes]
    return found


COMMANDS |= _experiments()


_OUTPUTS = ("out", "output", "slurm", "store")


def _own_options(command: str) -> list[str]:
    from importlib import import_module

    if command in _OF_LIGHTNING:
        return list(_OF_LIGHTNING[command])
    actions = import_module(TABLE[command].module).parser()._actions
    found = [a.option_strings[0].lstrip("-") for a in actions if a.option_strings and a.dest != "help"]
    if command == "regime":
        return found
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
        command, _, experiment = words.partition(" ")
        axes = EXPERIMENTS[experiment].axes if experiment in EXPERIMENTS else ()
        names = ONLY.get(words) or [a.replace("_", "-") for a in axes] or _own_options(command)
        for name in names:
            yield from (Case(words, name, value) for value in VALUES)
            own = "results.csv" if command == "reproduce" else ""  # to which it adds rows
            if name in _OUTPUTS:
                yield from (Case(words, name, f"INPUT/{file}") for file in INPUTS if file != own)
