"""What callbacks that measure have in common: when they do, the rows that they keep, and the loggers."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer

from lit_aux.callbacks._processes import BringsBack, Brought
from lit_aux.ranges import WHOLE, check
from lit_aux.verdicts import BORDERLINE, UNTRAINED, Verdict, near, verdict


def prefix_of(module: LightningModule) -> str:
    """Return the module's ``log_prefix`` (``"pretrain/"`` inside a phase), empty where it has none."""
    return str(getattr(module, "log_prefix", "") or "")


def phase_of(module: LightningModule) -> str:
    """Return the name of the phase, as rows have it; empty outside of phases."""
    return prefix_of(module).rstrip("/")


def folder_of(trainer: Trainer) -> Path | None:
    """Return the folder that a callback writes to; None where it must not: on other processes, in a trial.

    Every process must ask for it, since the first one tells the others.
    """
    folder = Path(os.fspath(trainer.log_dir or trainer.default_root_dir))
    return folder if trainer.is_global_zero and not trainer.fast_dev_run else None  # type: ignore[attr-defined]


def log_scalars(trainer: Trainer, module: LightningModule, values: Mapping[str, float]) -> None:
    """Send values to every logger at the step at which the fit loop itself would log."""
    prefix = prefix_of(module)
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics({f"{prefix}{name}": value for name, value in values.items()}, step=step)


@dataclass(eq=False, repr=False, kw_only=True)
class Measuring(BringsBack, ABC):
    """Measures every so many epochs of a fit and leaves training as it was.

    Attributes:
        results: What was measured; part of checkpoints.

    Args:
        every_n_epochs: Measure every so many epochs of the fit.
    """

    every_n_epochs: int | None = None

    changes_training = False
    results = Brought[list[Any]]()

    def __post_init__(self) -> None:
        super().__init__()
        check("every_n_epochs", self.every_n_epochs, WHOLE)
        self.results = []
        self._forget()

    @property
    def user(self) -> str:
        """The class's name, for errors and warnings."""
        return type(self).__name__

    def _forget(self) -> None:
        """Drop what belongs to one fit."""
        self._epochs = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        if stage == "fit":
            self._forget()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure every few epochs."""
        self._epochs += 1
        if self.every_n_epochs is not None and self._epochs % self.every_n_epochs == 0:
            self.try_to_observe(trainer, pl_module)

    @abstractmethod
    def try_to_observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure now; what goes wrong is a warning, since training is worth more."""


@dataclass(frozen=True)
class TaskMeasurement:
    """A measure of one task; the columns of ``trajectory.csv`` that differ within a run.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        epoch: Epochs of this fit that were done; 0 before the first.
        step: Optimizer steps of this fit up to then.
        task: The task's name.
        measure: The measure's name, such as ``"sharpness"`` or ``"train_loss"``.
        value: Its value; NaN where measuring failed.
        note: Why there is no value; empty but for a :class:`FailedMeasurement`.
    """

    phase: str
    epoch: int
    step: int
    task: str
    measure: str
    value: float
    note: ClassVar[str] = ""


@dataclass(frozen=True)
class FailedMeasurement(TaskMeasurement):
    """A row that says that a measure of a task could not be taken.

    Attributes:
        note: Why there is no value.
    """

    note: str  # type: ignore[misc]


@dataclass(frozen=True)
class WeightMeasurement:
    """A measure of one layer at one moment of a fit.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        step: The optimizer steps of this fit up to then, as loggers count them.
        epoch: The epochs of this fit up to then; 0 before the first.
        layer: The layer's name.
        measure: The measure's name: ``"inertia_k6"``, say.
        values: One value a replica; a single one where the weights have no replica axis. NaN where the
            measure is not defined.
        note: Why there is no value; mostly empty.
    """

    phase: str
    step: int
    epoch: int
    layer: str
    measure: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def value(self) -> float:
        """The mean over the replicas for which the measure is defined; NaN if there is none."""
        known = [value for value in self.values if not math.isnan(value)]
        return math.fsum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class MixingMeasurement:
    """A measure of one task at one mixing weight; a row of ``wise_ft.csv``.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        mixing: 0 for the weights before the fit, 1 for those after.
        task: The task's name.
        measure: Such as ``"val_accuracy"`` or ``"test_loss"``.
        value: Its value.
    """

    phase: str
    mixing: float
    task: str
    measure: str
    value: float


@dataclass(frozen=True)
class LayerDimensionality:
    """Dimensionality of one layer before and after a fit.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        layer: The layer's name.
        pr_before: Participation ratio of its activations at the start of the fit.
        pr_after: Participation ratio now.
        ensd: Effective number of dimensions that both share.
        pr_ratio: ``pr_after / pr_before``.
        ensd_ratio: ``ensd / pr_after``; may exceed 1.
        verdict: See :func:`verdict`.
        note: What there is to say of the numbers: why there are none, or which weights they are of; mostly
            empty.
    """

    phase: str
    layer: str
    pr_before: float
    pr_after: float
    ensd: float
    pr_ratio: float
    ensd_ratio: float
    verdict: Verdict
    note: str = ""

    @property
    def borderline(self) -> bool:
        """Whether the verdict could be another with other seeds or threads; the note says why."""
        return BORDERLINE in self.note

    @property
    def shown_verdict(self) -> str:
        """The verdict as tables and pictures have it: in brackets if borderline, empty if none is due."""
        if UNTRAINED in self.note:
            return ""
        return f"({self.verdict})" if self.borderline else self.verdict

    @classmethod
    def compare(
        cls,
        phase: str,
        layer: str,
        pr_before: float,
        pr_after: float,
        ensd: float,
        *,
        nested_below: float = 0.8,
        replaced_below: float = 0.5,
        note: str = "",
        untrained: bool = False,
    ) -> "LayerDimensionality":
        """Build a row from the three measures.

        Args:
            phase: As in the row.
            layer: As in the row.
            pr_before: As in the row.
            pr_after: As in the row.
            ensd: As in the row.
            nested_below: See :func:`verdict`.
            replaced_below: See :func:`verdict`.
            note: What there is to say beside that.
            untrained: Whether the weights at the start were random: no features were there to be reused, and
                there is no verdict.
        """
        pr_ratio = pr_after / pr_before if pr_before else math.nan
        ensd_ratio = ensd / pr_after if pr_after else math.nan
        word = verdict(pr_ratio, ensd_ratio, nested_below=nested_below, replaced_below=replaced_below)
        notes = [note] if note else []
        if untrained:
            word, notes = "undefined", [*notes, UNTRAINED]
        elif word != "undefined":
            notes += near(pr_ratio, ensd_ratio, nested_below, replaced_below)
        text = "; ".join(notes)
        return cls(phase, layer, pr_before, pr_after, ensd, pr_ratio, ensd_ratio, word, text)
