"""How the runs of an experiment are carried out: what the command line may change for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.ranges import MOST_JOBS
from lit_aux.teachers import RELU_DRAWS, SAMPLINGS, OutputScale, Sampling, output_scales, short_form

DType = Literal["float32", "float64"]
INTEGRATORS = ("gradient_flow", "gradient_descent", "exact")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices that hold for every run of a call; None leaves one to the experiment.

    Args:
        integrator: ``gradient_flow``, ``gradient_descent``, ``exact`` (diagonal networks with one output are
            solved instead of trained) or the name of a class in ``torch.optim``.
        pretrain_integrator: The same of pretraining. By default ReLU networks with published draws are
            pretrained by descent wherever what follows is flow: at kinks the two part, and the published runs
            descended. All others are pretrained as what follows trains.
        tolerance: Error per step of gradient flow, relative to the weights.
        sampling: ``published`` draws teachers and inputs exactly as the paper's code does, ``independent``
            gives every seed its own generator.
        output_scale: Size of the teachers' coefficients or output weights: ``sqrt``, +-1/sqrt(units), or
            ``units``, +-1/units; one for all teachers, or a mapping of ``main``, ``aux`` (beside ``main``)
            and ``pretrain``. What is left out, or all of it, is as in the experiment's published tables.
        dtype: float64 for diagonal networks by gradient flow (they are followed to 1e-10), else float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``.
        max_steps: Most steps of every phase, in place of the published limits. Gradient flow ends at the same
            time as that many published steps.
        max_evaluations: Most gradients that flow may take for a replica: where units oscillate at their kinks
            it can cost hundreds of thousands to the end of the clock, and nothing changes any more.
        stride: Steps from one look at the test loss to the next, on the published clock; of mini-batches
            epochs.
        patience: Descent of ReLU networks also ends where the smallest test loss has not improved for as many
            epochs as came before it, and for at least so many; None never ends it so.
        replicas_per_slice: Most runs that train as one batch; by default 256 of diagonal networks, which
            share products, and 8 of ReLU networks on a CPU, where they do not (64 on a GPU and for ridge
            regression).
        jobs: Processes that carry out slices, the cores divided among them. By default two on a CPU, where
            there are as many cores and at least 16 runs are left, else one: this process itself.
        store: Folder in which pretrained networks are kept for other runs; None keeps none.

    Raises:
        ConfigurationError: For a value that cannot be.
    """

    integrator: str = "gradient_flow"
    pretrain_integrator: str | None = None
    tolerance: float = 1e-2
    sampling: Sampling = "published"
    output_scale: OutputScale | Mapping[str, OutputScale] | None = None
    dtype: DType | None = None
    device: str = "auto"
    max_steps: int | None = None
    max_evaluations: int = 20_000
    stride: int = 50
    patience: int | None = 5000
    replicas_per_slice: int | None = None
    jobs: int | None = None
    store: Path | None = None

    def __post_init__(self) -> None:
        for option, name in (
            ("integrator", self.integrator),
            ("pretrain-integrator", self.pretrain_integrator),
        ):
            if name is not None and name not in INTEGRATORS:
                _check_optimizer(option, name)
        if self.pretrain_integrator is not None and "exact" in (self.integrator, self.pretrain_integrator):
            raise ConfigurationError(
                f"--pretrain-integrator {self.pretrain_integrator}: what is solved is pretrained exactly, "
                "and nothing else is; leave it out"
            )
        if not 0 < self.tolerance < 1:
            raise ConfigurationError(f"--tolerance {self.tolerance}: must be above 0 and below 1")
        for option, value in (
            ("max-steps", self.max_steps),
            ("max-evaluations", self.max_evaluations),
            ("stride", self.stride),
            ("patience", self.patience),
            ("replicas-per-slice", self.replicas_per_slice),
            ("jobs", self.jobs),
        ):
            if value is not None and value < 1:
                raise ConfigurationError(f"--{option} {value}: must be at least 1")
        if self.jobs is not None and self.jobs > MOST_JOBS:
            raise ConfigurationError(f"--jobs {self.jobs}: must be at most {MOST_JOBS}")
        _one_of("sampling", self.sampling, *SAMPLINGS)
        self.output_scales({})
        _one_of("dtype", self.dtype, None, "float32", "float64")

    def resolved_dtype(self, network: str) -> DType:
        """Return the precision in which a kind of network trains."""
        if self.dtype is not None:
            return self.dtype
        precise = network == "diagonal" and self.integrator in ("gradient_flow", "exact")
        return "float64" if precise else "float32"

    def output_scales(self, published: Mapping[str, OutputScale]) -> dict[str, OutputScale]:
        """Return the size of every teacher.

        Args:
            published: Those of the experiment that are not ``sqrt``.
        """
        given = {} if self.output_scale is None else self.output_scale
        return output_scales("--output-scale", given, published)

    def of_pretraining(self, network: str) -> "Options":
        """Return the options by which a kind of network is pretrained."""
        by_descent = network == "relu" and self.sampling == "published" and self.integrator == "gradient_flow"
        usual = "gradient_descent" if by_descent else self.integrator
        return replace(self, integrator=self.pretrain_integrator or usual, pretrain_integrator=None)

    def of_results(
        self, network: str, scales: Mapping[str, OutputScale], *, pretrained: bool = False
    ) -> dict[str, Any]:
        """Return the options on which a kind of network's numbers depend, beside those in its protocol.

        Args:
            network: The kind.
            scales: Sizes of the teachers that count.
            pretrained: Whether the integrator of pretraining counts, too.
        """
        numbers = {name: getattr(self, name) for name in ("integrator", "sampling", "stride")}
        scale = short_form(scales)
        if network == "relu" or scale != "sqrt":  # of diagonal networks there was no other before
            numbers["output_scale"] = scale
        if network == "relu" and self.sampling == "published":
            numbers["draws"] = RELU_DRAWS
        before = self.of_pretraining(network).integrator
        if pretrained and before != self.integrator:
            numbers["pretrain_integrator"] = before
        if network == "relu" and self.integrator not in ("gradient_flow", "exact"):
            numbers["patience"] = self.patience
        if self.integrator == "gradient_flow":
            numbers["tolerance"] = self.tolerance
            numbers["max_evaluations"] = self.max_evaluations
        return numbers


def _one_of(option: str, value: Any, *choices: Any) -> None:
    if value not in choices:
        raise unknown_name(f"--{option}", value, [choice for choice in choices if choice is not None])


def _check_optimizer(option: str, name: str) -> None:
    """Raise unless torch has an optimizer of that name."""
    import torch

    known = [n for n, kind in vars(torch.optim).items() if isinstance(kind, type) and n != "Optimizer"]
    if name not in known:
        raise unknown_name(f"--{option}", name, [*INTEGRATORS, *known])
