"""What phases ask of modules and data; what a stranger's module does not have stands here as a default."""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.phases.phase import Phase


class PhasedModule(Protocol):
    """A module that is trained phase by phase; a stranger's needs ``phases`` and ``enter_phase`` alone.

    Attributes:
        phases: The phases of a run, in order; none for a module that Lightning's own fit trains.
        phase: The phase that it is in.
        finetunes: Whether it finetunes what a phase before, ``pretrained`` or the backbone has learned.
        pretrained: A file whose weights it has read.
        trains_itself: Whether it moves its weights itself, in this process, and minds its training loss.
        stop_reason: How the phase ended, where it knows better than the Trainer.
        evaluation: Losses and metrics; their tensors are options of a run, other tensors are not.
        later_phase_options: Attributes that concern later phases alone: a first phase is shared by runs that
            differ in them.
        running_state: Attributes that a fit changes: they do not tell one run from another.
    """

    phases: Sequence[Phase]
    phase: Phase | None
    finetunes: bool
    pretrained: str | Path | None
    trains_itself: bool
    stop_reason: str | None
    evaluation: nn.Module
    later_phase_options: frozenset[str]
    running_state: frozenset[str]

    def attach_data(self, data: Any, processes: int = 1) -> None:
        """Look at the data module before processes are started; refuse data that do not fit."""

    def enter_phase(self, phase: Phase) -> None:
        """Prepare the weights and what trains."""

    def refresh_batchnorm(self) -> None:
        """Bring batch-normalization statistics up to date."""

    def prepare_checkpoint(self, checkpoint: dict[str, Any], *, training: bool) -> None:
        """Bring the network and what a checkpoint holds into one form, before its weights are loaded."""

    def logged(self, phase: Phase) -> Mapping[str, bool | None]:
        """Return the metrics of training and validation in a phase, and whether more is better.

        Names are without the phase's prefix; of some it is not known, None, which is better.
        """

    def export(
        self, path: str | Path, *, task: str | None = None, ckpt_path: str | Path | None = None
    ) -> None:
        """Write its weights for use without this package; one with ``data`` is given the data module."""


class PhasedData(Protocol):
    """A data module that knows which tasks a phase trains.

    Attributes:
        tokenizer: What has made tokens of its text; None where there is none.
        vocab_size: How many tokens that has.
    """

    tokenizer: Any
    vocab_size: int | None

    def set_phase(self, tasks: Sequence[str], order: str) -> None:
        """Give loaders of these tasks alone from now on."""

    def names_of_classes(self, task: str) -> Sequence[str] | None:
        """Return the names of a task's classes, by their number within it; None where they have none."""

    def in_units(self, task: str, values: Tensor) -> Tensor:
        """Return outputs or targets of a task in the units in which the data were given."""

    def has_validation(self, task: str) -> bool:
        """Whether a task has validation data; to be asked when they are set up."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A data module that can say what its data are, without which no phase is shared."""

    def fingerprint(self, tasks: Sequence[str], order: str) -> str:
        """Return the same text for the same training data of a phase, in every process."""


@runtime_checkable
class FingerprintedValidation(Protocol):
    """A data module that can say what validates, which is part of a phase's key where it decides its end."""

    def validation_fingerprint(self, tasks: Sequence[str]) -> str:
        """Return the same text for the same validation data, in every process."""


class _ModuleDefaults:
    """A module that says nothing of itself."""

    phases: Sequence[Phase] = ()
    phase = pretrained = stop_reason = None
    finetunes = trains_itself = False
    evaluation = nn.Module()
    later_phase_options = running_state = frozenset[str]()

    def attach_data(self, data: Any, processes: int = 1) -> None:
        """Take any data."""

    def refresh_batchnorm(self) -> None:
        """Leave the statistics as they are."""

    def prepare_checkpoint(self, checkpoint: dict[str, Any], *, training: bool) -> None:
        """Leave both as they are."""

    def logged(self, phase: Phase) -> Mapping[str, bool | None]:
        """Know of none."""
        return {}


class _DataDefaults:
    """Data that are the same in every phase."""

    tokenizer = vocab_size = None

    def set_phase(self, tasks: Sequence[str], order: str) -> None:
        """Leave the loaders as they are."""

    def names_of_classes(self, task: str) -> None:
        """Know none."""

    def in_units(self, task: str, values: Tensor) -> Tensor:
        """Return them as they are."""
        return values

    def has_validation(self, task: str) -> bool:
        """Believe so."""
        return True


class _Completed:
    """An object, and the defaults of what it does not have."""

    def __init__(self, thing: Any, defaults: object) -> None:
        self._thing, self._defaults = thing, defaults

    def __getattr__(self, name: str) -> Any:
        """Look into the object first."""
        return getattr(self._thing if hasattr(self._thing, name) else self._defaults, name)


def phased(module: LightningModule) -> PhasedModule:
    """Return a module as phases see it."""
    return cast(PhasedModule, _Completed(module, _ModuleDefaults()))


def phased_data(data: Any) -> PhasedData:
    """Return a data module, or none, as phases see it."""
    return cast(PhasedData, _Completed(data, _DataDefaults()))


def check_phased_data(module: LightningModule, data: Any) -> None:
    """Refuse data that cannot know which tasks a phase trains, where phases train different ones.

    Args:
        module: A module with ``phases``.
        data: Its data module; None where there are loaders alone.

    Raises:
        ConfigurationError: For data without a ``set_phase``, or with one that does not take tasks and order.
    """
    phases = phased(module).phases
    if len({frozenset(phase.tasks) for phase in phases}) < 2:
        return
    if data is None and is_overridden("train_dataloader", module, LightningModule):
        return  # which knows its phase
    tell = getattr(data, "set_phase", None)
    if not callable(tell):
        given = "loaders" if data is None else type(data).__name__
        raise ConfigurationError(
            f"data: {given} without set_phase would train the same tasks in each of the phases "
            f"{', '.join(phase.name for phase in phases)}; give a data module with set_phase(tasks, order), "
            "after which its loaders hold these tasks alone"
        )
    try:
        signature(tell).bind([], "interleaved")
    except TypeError as error:
        raise ConfigurationError(
            f"data: set_phase of {type(data).__name__} must take the tasks and their order: {error}"
        ) from error


def setup_of(module: LightningModule) -> str:
    """Return the setup of the results table that a module's phases are: STL, MTL, PT+FT, with (LP) or (LoRA).

    Args:
        module: A module with phases.
    """
    seen = phased(module)
    *earlier, last = seen.phases
    # without a phase of pretraining, a deep network finetunes the weights that its backbone came with
    given = seen.finetunes and (not seen.trains_itself or seen.pretrained is not None)
    if given or any(phase.trainable != "readout" for phase in earlier):
        name = "PT+FT"
    else:
        name = "MTL" if len(last.tasks) > 1 else "STL"
    if last.lora is not None:
        return f"{name} (LoRA)"
    return f"{name} (LP)" if last.trainable == "readout" else name
