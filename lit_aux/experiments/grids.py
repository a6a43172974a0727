"""The paper's grids as data: which setups, and which values of every axis, an experiment has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from lit_aux.errors import unknown_name
from lit_aux.teachers import TEACHERS, OutputScale

TRAINED = ("STL", "MTL", "PT+FT")
PROBES = ("STL (LP)", "PT+FT (LP)")
KERNELS = ("STL (NTK)", "PT+FT (NTK)")
SEEDS = (0, 1, 2, 3, 4, 5)
SIXTEEN_TO_512 = (16, 32, 64, 128, 256, 512)
_LONG = 10  # minutes: of what takes longer it is said before it begins
ALL = "all"  # of overlap: every entry of the main teacher is an auxiliary one


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A grid of runs.

    Args:
        name: What ``lit-aux reproduce`` calls it.
        about: One line on what varies.
        network: ``diagonal`` or ``relu`` teachers and students, or ``image`` classifiers.
        setups: Every setup that it can run.
        default_setups: Those that it runs unless told otherwise; all of them where None.
        n_main: Rows, or images, of the main task.
        axes: Values of every other axis. Where ``rescale`` is one, runs that pretrain vary it.
        rescale_setups: The setups that have a rescale factor.
        in_features: Input dimension of the teachers.
        k_aux: Non-zero entries, or units, of the auxiliary teacher.
        output_scale: Teachers (``main``, ``aux`` beside it, ``pretrain``) whose published coefficients are
            not +-1/sqrt(units).
        seeds: Seeds.
        seconds: What a run took on two cores, on average over its grid; None where no grid was timed.
        short: Options of a part that takes minutes.
    """

    name: str
    about: str
    network: Literal["diagonal", "relu", "image"]
    setups: tuple[str, ...]
    default_setups: tuple[str, ...] | None = None
    n_main: tuple[int, ...] = SIXTEEN_TO_512
    axes: Mapping[str, tuple[Any, ...]]
    rescale_setups: tuple[str, ...] = ("PT+FT", "PT+FT (LP)", "PT+FT (NTK)")
    in_features: int = 0
    k_aux: int = 0
    output_scale: Mapping[str, OutputScale] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS
    seconds: float | None = None
    short: str = ""

    @property
    def default(self) -> tuple[str, ...]:
        """The setups that run unless others are asked for."""
        return self.setups if self.default_setups is None else self.default_setups

    @property
    def size(self) -> int:
        """How many runs its default grid has, without making them."""
        places = prod(len(values) for axis, values in self.axes.items() if axis != "rescale")
        factors = len(self.axes.get("rescale", (1.0,)))
        cells = sum(factors if setup in self.rescale_setups else 1 for setup in self.default)
        return cells * places * len(self.n_main) * len(self.seeds)

    def takes(self, runs: int) -> str:
        """Say how long so many runs take, and which part of the grid is short.

        Returns:
            Nothing where they take less than ten minutes on two cores.
        """
        if self.seconds is None:
            how_long = "not timed yet"
        elif (minutes := runs * self.seconds / 60) > _LONG:
            how_long = f"about {minutes:.0f} minutes on two CPU cores"
        else:
            return ""
        return f"{runs:,} runs, {how_long}; a short part: {self.short}"


def _diagonal(name: str, about: str, **given: Any) -> Experiment:
    return Experiment(
        name=f"diagonal-{name}",
        about=about,
        network="diagonal",
        in_features=1000,
        k_aux=40,
        **{"setups": (*TRAINED, *PROBES), "short": "--seeds 0 --n-main 64", **given},
    )


def _relu(name: str, about: str, **given: Any) -> Experiment:
    options = {"setups": (*TRAINED, *PROBES, *KERNELS), "in_features": 15, "k_aux": 6, **given}
    options.setdefault("short", "--seeds 0 --n-main 64")
    return Experiment(name=f"relu-{name}", about=about, network="relu", **options)


def _image(name: str, about: str, **given: Any) -> Experiment:
    return Experiment(name=name, about=about, network="image", **given)


def _units(*values: float) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


# Correlation of each of the six main units with its auxiliary one: none, some or all of them the same
# feature, all correlated, and mixtures.
OVERLAPS = (
    _units(0, 0, 0, 0, 0, 0),
    _units(1, 1, 1, 0, 0, 0),
    _units(1, 1, 1, 1, 1, 0),
    _units(1, 1, 1, 1, 1, 1),
    _units(0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    _units(1, 1, 0.9, 0.9, 0, 0),
    _units(1, 1, 1, 0.9, 0.9, 0),
    _units(1, 1, 1, 1, 1, 0.9),
)
# Where main teachers differ in their number of units, their outputs do too; the pretrained network is that of
# the overlap. Not in the paper's text: found by comparison with its tables.
SMALLER: dict[str, OutputScale] = {"main": "units", "aux": "units"}
LARGE = (0.0, (1.0,) * 20 + (0.0,) * 20, 1.0, 0.9)
CIFAR = {
    "setups": (*TRAINED, "PT+FT (LP)"),
    "n_main": (10, 20, 50, 100, 200, 500, 1000),
    "axes": {"rescale": (1.0, 0.125, 0.25, 0.5, 2.0)},
    "rescale_setups": ("PT+FT",),
    "short": "--setups STL --seeds 0 --n-main 100",
}
FASHION = {
    "setups": TRAINED,
    "n_main": (20, 200),
    "axes": {"rescale": (1.0, 0.5, 0.25, 0.125)},
    "rescale_setups": ("PT+FT",),
    "short": "--setups STL --seeds 0 --n-main 20",
}
KS = (5, 10, 20, 30, 40)
UNITS = (1, 2, 3, 4, 5, 6)
SCALES = (1.0, 0.1, 0.01, 0.001)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        _diagonal(
            "overlap",
            "main and auxiliary teacher share 0 to all of 40 entries",
            seconds=0.24,
            axes={"k_main": (40,), "overlap": (0, 20, 30, 40), "rescale": (1.0,)},
        ),
        _diagonal(
            "sparsity",
            "5 to 40 main entries, all shared or none",
            seconds=0.24,
            output_scale=SMALLER,
            axes={"k_main": KS, "overlap": (ALL, 0), "rescale": (1.0,)},
        ),
        _diagonal(
            "rescaling",
            "as sparsity, weights rescaled after pretraining",
            seconds=0.16,
            setups=("STL", "PT+FT"),
            rescale_setups=("STL", "PT+FT"),
            output_scale=SMALLER,
            axes={"k_main": KS, "overlap": (ALL, 0), "rescale": SCALES},
        ),
        _relu(
            "overlap",
            "main units equal, correlated with or orthogonal to six auxiliary ones",
            seconds=1.4,
            axes={"k_main": (6,), "correlation": OVERLAPS, "magnitude": (1.0,), "rescale": (1.0,)},
        ),
        _relu(
            "sparsity",
            "1 to 6 main units, all shared or none",
            seconds=5.6,
            default_setups=TRAINED,
            output_scale=SMALLER,
            axes={"k_main": UNITS, "correlation": (1.0, 0.0), "magnitude": (1.0,), "rescale": (1.0,)},
        ),
        _relu(
            "rescaling",
            "as sparsity, first layer rescaled after pretraining",
            seconds=0.93,
            short="--setups STL --seeds 0 --n-main 64",
            default_setups=("STL", "PT+FT"),
            rescale_setups=("STL", "PT+FT", "PT+FT (LP)", "PT+FT (NTK)"),
            output_scale=SMALLER,
            axes={
                "k_main": UNITS,
                "correlation": (1.0, 0.0),
                "magnitude": (1.0,),
                "rescale": (0.01, 0.1, 1.0, 10.0, 100.0),
            },
        ),
        _relu(
            "correlation",
            "six correlated units against the size of the main teacher's outputs",
            seconds=3.3,
            short="--setups STL --n-main 64",
            default_setups=("STL", "PT+FT"),
            seeds=(0,),
            output_scale=dict.fromkeys(TEACHERS, "units"),
            n_main=(32, 64, 128, 256, 512, 1024),
            axes={
                "k_main": (6,),
                "correlation": (0.8, 0.9, 0.95, 0.99, 1.0),
                "magnitude": (1.0, 0.5, 0.1, 0.05, 0.01),
                "rescale": (1.0,),
            },
        ),
        _relu(
            "large",
            "forty units in each teacher, 100 inputs",
            default_setups=TRAINED,
            in_features=100,
            k_aux=40,
            n_main=(64, 128, 256, 512, 1024),
            axes={"k_main": (40,), "correlation": LARGE, "magnitude": (1.0,), "rescale": (1.0,)},
            seconds=18.0,
        ),
        _image("cifar100-resnet18", "2 main and 98 auxiliary classes, ResNet-18", **CIFAR),
        _image("cifar100-vit", "2 main and 98 auxiliary classes, ViT", **CIFAR),
        _image("fashion-resnet18", "2 main and 8 auxiliary classes, ResNet-18", **FASHION),
        _image("fashion-vit", "2 main and 8 auxiliary classes, ViT", **FASHION),
    )
}


def experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ConfigurationError: If there is none, with the nearest names.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("EXPERIMENT", name, EXPERIMENTS)
    return EXPERIMENTS[name]
