"""What callbacks that read measures off the weights of hidden units have in common."""

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_aux.adapters import adapted_layers, adapter_parameters, base_of, merged_weight
from lit_aux.callbacks._averages import Ran, which_weights
from lit_aux.callbacks._layers import named_layers
from lit_aux.callbacks._measurements import Measuring, WeightMeasurement, log_scalars, phase_of
from lit_aux.callbacks._no_trace import told
from lit_aux.callbacks._parameters import by_any_name, match, refuse_uninitialized
from lit_aux.callbacks._processes import Brought
from lit_aux.errors import ConfigurationError

NAN = float("nan")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Measures = dict[tuple[str, str], Sequence[float]]
"""Values of every replica by layer and measure."""


@dataclass(eq=False, repr=False, kw_only=True)
class WeightMeasures(Measuring):
    """Measures weights at the start of a fit, every few epochs and at its end; logs and keeps the values.

    Every process measures for itself: replicated weights are equal, and so are the values.

    Attributes:
        results: What was measured, in order of time; a new fit of a phase replaces that phase's rows. Part of
            checkpoints.

    Args:
        every_n_epochs: Measure every so many epochs of the fit too.
        at_start: Whether to measure before the first step (after a rescale).
    """

    at_start: bool = True

    results = Brought[list[WeightMeasurement]]()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._warned: set[str] = set()

    @abstractmethod
    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Measures:
        """Return the values of every replica by (layer, measure), as the weights are now."""

    def _forget(self) -> None:
        super()._forget()
        self._measured_at: int | None = None
        self._kept, self._started = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far and where this fit is."""
        rows = [{**asdict(row), "values": list(row.values)} for row in self.results]
        return {"results": rows, "epochs": self._epochs, "measured_at": self._measured_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        rows = state_dict["results"]
        self.results = [WeightMeasurement(**{**row, "values": tuple(row["values"])}) for row in rows]
        self._epochs, self._measured_at = state_dict["epochs"], state_dict["measured_at"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.results = [row for row in self.results if row.phase != phase_of(pl_module)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first step; a resumed fit has done so already."""
        self._started = True
        if self.at_start and self._measured_at is None:
            self._keep(trainer, pl_module, self.measure(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end, unless the last epoch's end was just measured."""
        if self._measured_at != self._epochs or not self._epochs:
            self.try_to_observe(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if nothing was measured."""
        if not self._kept:
            why = "every measurement failed or gave no value" if self._started else "the fit trained no step"
            rank_zero_warn(f"{self.user} measured nothing: {why}.")

    def try_to_observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, keep and log; what goes wrong once training is under way is a row that says so."""
        note, phase = "", phase_of(pl_module)
        try:
            found = self.measure(trainer, pl_module)
        except Exception as error:  # layers that were exchanged or grew; the fit is worth more
            note = told(error)
            rank_zero_warn(f"{self.user} failed after epoch {self._epochs}: {note}")
            known = dict.fromkeys((row.layer, row.measure) for row in self.results if row.phase == phase)
            found = {key: [NAN] for key in known}
        self._keep(trainer, pl_module, found, note)

    def _keep(self, trainer: Trainer, module: LightningModule, found: Measures, note: str = "") -> None:
        """Keep and log values."""
        self._measured_at = self._epochs
        phase, step = phase_of(module), trainer.fit_loop.epoch_loop._batches_that_stepped
        rows = [
            WeightMeasurement(phase, step, self._epochs, layer, measure, tuple(map(float, values)), note)
            for (layer, measure), values in found.items()
        ]
        if not self._kept:
            self._tell_weights(trainer, module)
        self._kept += sum(not row.note for row in rows)
        self.results += rows
        log_scalars(trainer, module, {f"{row.layer}/{row.measure}": row.value for row in rows})

    def _tell_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Say which weights are read where there are averages of them, too."""
        ran, layer = Ran(module), str(getattr(self, "layer", "") or getattr(self, "first", ""))
        ran.names = {name for name in ran.copies if f"{layer}.".startswith(f"{name}.")}
        if weights := which_weights(trainer, self, ran):
            rank_zero_warn(f"{self.user}: {weights}")

    def _each(self, what: str, measure: Callable[..., Tensor], *replicas: Iterable[Any]) -> list[float]:
        """Return a measure of every replica, NaN with a warning where it is not defined.

        Args:
            what: Its name, for the warning.
            measure: A function of what follows, of one replica.
            replicas: What it takes, replica by replica.
        """
        values = []
        for replica, given in enumerate(zip(*replicas, strict=True)):
            try:
                values.append(float(measure(*given)))
            except ConfigurationError as error:
                # A diverged or collapsed replica must not end the fit of all the others.
                values.append(NAN)
                if what not in self._warned:
                    self._warned.add(what)
                    rank_zero_warn(f"{what} is undefined for replica {replica}: {error}")
        return values


def counts(option: str, k: int | Sequence[int]) -> list[int]:
    """Return one or several counts as a list.

    Raises:
        ConfigurationError: If one is no integer of at least 1, one is given twice, or there is none.
    """
    try:
        numbers = [operator.index(count) for count in (k if isinstance(k, Sequence) else [k])]
    except TypeError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"{option}: {k!r} is not a count; give different integers of at least 1")
    return numbers


def unit_weights_by_name(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter that may hold units' weights: (units, inputs) or (replicas, units, inputs).

    A parameter ``NAME.weight`` is found as ``NAME`` too. The weights of a convolution count as (channels,
    everything else), those of a layer with low-rank adapters as they are with what these add. Values are
    detached.
    """
    owners = named_layers(module)
    adapters = adapter_parameters(module)
    merged = {id(base_of(one).weight): merged_weight(one) for one in adapted_layers(module).values()}
    found: dict[str, Tensor] = {}
    for name, parameter in by_any_name(module).items():
        if is_lazy(parameter) or not parameter.is_floating_point() or id(parameter) in adapters:
            continue
        weights = merged.get(id(parameter), parameter).detach()
        owner, _, last = name.rpartition(".")
        if weights.ndim > 2 and isinstance(base_of(owners.get(owner, module)), _CONVOLUTIONS):
            weights = weights.flatten(1)
        if weights.ndim not in (2, 3):
            continue
        if last == "weight" and owner:
            found.setdefault(owner, weights)
        found[name] = weights
    return found


def find_weights(option: str, module: nn.Module, pattern: str) -> dict[str, Tensor]:
    """Return the weights that a name or glob means, by name; each once, under its module's name if that fits.

    Raises:
        ConfigurationError: If nothing fits, or a parameter of that name has another shape.
    """
    named = by_any_name(module)
    known = unit_weights_by_name(module)
    if pattern in named and pattern not in known:
        refuse_uninitialized(option, {pattern: named[pattern]})
        if not named[pattern].is_floating_point():
            dtype = str(named[pattern].dtype).removeprefix("torch.")
            raise ConfigurationError(f"{option}: {pattern!r} is of {dtype}; name weights of real numbers")
        raise ConfigurationError(
            f"{option}: {pattern!r} has shape {tuple(named[pattern].shape)}; name weights of shape "
            "(units, inputs) or (replicas, units, inputs)"
        )
    found: dict[int, tuple[str, Tensor]] = {}
    for name in match(option, [pattern], known):
        found.setdefault(known[name].data_ptr(), (name, known[name]))
    return dict(found.values())


def find_one(option: str, module: nn.Module, pattern: str) -> Tensor:
    """Return the weights that a name or glob means.

    Raises:
        ConfigurationError: If nothing fits, or more than one parameter.
    """
    found = find_weights(option, module, pattern)
    if len(found) > 1:
        raise ConfigurationError(f"{option}: {pattern!r} means {', '.join(found)}; name one of them")
    return next(iter(found.values()))


def stacked(weights: Tensor) -> Tensor:
    """Return weights with a leading replica axis."""
    return weights if weights.ndim == 3 else weights[None]


def check_counts(k: Iterable[int], units: int, layer: str) -> None:
    """Raise `ConfigurationError` for more clusters than a layer has units."""
    if max(k) > units:
        raise ConfigurationError(
            f"k: {max(k)} clusters of the {units} units of {layer!r}; give at most {units}"
        )


def chosen_tasks(module: object, tasks: Iterable[str] | str | None) -> list[str]:
    """Return the tasks given, else those of the module's phase; none where there are no phases."""
    if tasks is not None:
        return [tasks] if isinstance(tasks, str) else list(tasks)
    return list(getattr(getattr(module, "phase", None), "tasks", None) or [])


def rows_of(net: object, task: str | None, outputs: int) -> slice:
    """Return the rows of a network's readout that belong to a task, all of them if that cannot be told."""
    slices: Mapping[str | None, slice] = getattr(net, "task_slices", None) or {}
    return slices.get(task, slice(0, outputs))
