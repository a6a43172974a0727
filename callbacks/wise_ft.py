"""Weights between those before and after finetuning."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from statistics import fmean

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.adapters import adapted_layers, factors
from lit_aux.callbacks._loggers import log_picture
from lit_aux.callbacks._measurements import MixingMeasurement, folder_of, log_scalars, phase_of
from lit_aux.callbacks._no_trace import live_tensors, never_fatal, restore
from lit_aux.callbacks._options import check_source, names_of
from lit_aux.callbacks._parameters import by_first_name, is_continuous, refuse_uninitialized, without_integers
from lit_aux.callbacks._processes import Brought
from lit_aux.callbacks._start import FromStart
from lit_aux.callbacks._task_model import task_model, undisturbed
from lit_aux.callbacks.task_data import WHAT, TaskData, phase_tasks, task_probe
from lit_aux.callbacks.trajectory_log import TrajectoryLog
from lit_aux.drawing.mixing import draw_mixing
from lit_aux.drawing.style import save
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.files import atomic_write
from lit_aux.ranges import FINITE, Range, check
from lit_aux.spreadsheets import as_csv

COLUMNS = ("phase", "mixing", "task", "measure", "value")
FILE = "wise_ft.csv"


class WiSEFT(FromStart):
    """Evaluates mixtures of the weights before and after a fit on validation and test data when it has ended.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903): at mixing weight m
    every parameter is (1 - m) times its value when training started (after a rescale) plus m times that at
    the end (of low-rank adapters, so it is with the weights that they merge into); integer and quantised
    ones, which are named, stay as they are. Running statistics of batch
    normalization are mixed likewise, or, where the module re-estimates them in its own evaluations
    (``reestimate_batchnorm``), estimated anew for each mixture. The network itself stays as it was trained,
    bit for bit, unless ``keep_best`` is set. Every process evaluates its share.

    ``wise_ft.csv`` and ``wise_ft.png`` in the run's folder hold the table and its picture; loggers get
    ``wise_ft/best``, the mixing weight best on validation data, and ``wise_ft/{task}/{measure}`` there.
    In ``PretrainFinetuneModule`` it belongs into ``finetune_callbacks``.

    Attributes:
        results: One row a mixing weight, task and measure, in order.
        best: The mixing weight best on validation data by the mean over tasks of accuracy (the first metric
            of the module's ``task_metrics``; of the loss where there is no metric); None without such data.

    Args:
        mixing: The mixing weights, each from 0 to 1; 0, .1, ..., 1 by default.
        keep_best: Whether the network is left at the best mixture, before it is tested and saved.
        tasks: The tasks to evaluate; all that train by default.
        num_samples: Training examples of each task from which statistics are estimated anew.
        data: Where examples come from, see :data:`~lit_aux.callbacks.task_data.TaskData`; by default the data
            module.

    Raises:
        ConfigurationError: For a mixing weight out of range; as a fit starts for a module that is no
            :class:`~lit_aux.callbacks.TaskModel`, a task without data, validation data that ``keep_best``
            lacks, in every phase of several, or on resuming a run that was started without.
    """

    output_files = ((FILE, "table of mixtures"),)
    results: Brought[list[MixingMeasurement]] = Brought()
    best: Brought[float | None] = Brought()

    def __init__(
        self,
        mixing: Sequence[float] | None = None,
        *,
        keep_best: bool = False,
        tasks: Sequence[str] | None = None,
        num_samples: int = 1000,
        data: TaskData = None,
    ) -> None:
        super().__init__()
        check_source("data", data, WHAT)
        if isinstance(mixing, str) or not isinstance(mixing, Iterable | None):
            raise ConfigurationError(f"mixing: {mixing!r} is no list of mixing weights, such as [0, 0.5, 1]")
        check("mixing", None if mixing is None else list(mixing), FINITE)
        chosen = [number / 10 for number in range(11)] if mixing is None else [float(m) for m in mixing]
        for value in chosen:
            if not 0 <= value <= 1:
                raise ConfigurationError(f"mixing: {value} must be from 0 to 1")
        if not chosen:
            raise ConfigurationError("mixing: [] names no mixing weight")
        check("num_samples", num_samples, Range(least=2))
        self.mixing, self.keep_best = sorted({*chosen}), keep_best
        self.tasks = names_of("tasks", tasks)
        self.num_samples, self.data = num_samples, data
        self.results = []
        self.best = None
        self._evaluation = TrajectoryLog(splits=("val", "test"), data=data)

    def kept(self, module: LightningModule) -> Mapping[str, Tensor]:
        """Return parameters and running statistics.

        Of a low-rank adapter it is the factor that starts from zero: with the other one as it ends up, their
        product is mixed as weights are.
        """
        drawn = {id(factor) for factor in self._drawn(module)}
        named = by_first_name(module)
        left = {name for name, parameter in named.items() if id(parameter) in drawn}
        return {n: v for n, v in live_tensors(module).items() if is_continuous(v) and n not in left}

    def _drawn(self, module: LightningModule) -> Iterator[Tensor]:
        """Yield the factors of low-rank adapters that do not start from zero."""
        for name, layer in adapted_layers(module).items():
            pairs = list(factors(layer))
            if layer.lora_variant or any(bool(zero.any()) for _, zero in pairs):
                raise ConfigurationError(
                    f"{type(self).__name__}: the low-rank adapter of {name!r} does not start from zero, so "
                    "that its mixtures are none of weights; start it as LoRA does, or leave this out"
                )
            yield from (factor for factor, _ in pairs)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without the protocol; name the parameters that cannot be mixed."""
        task_model(pl_module, type(self).__name__)
        named = by_first_name(pl_module)
        refuse_uninitialized(type(self).__name__, named)
        without_integers(type(self).__name__, named)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights and collect examples."""
        super().on_train_start(trainer, pl_module)
        user = type(self).__name__
        known = phase_tasks(trainer, pl_module, self.data, user)
        for task in self.tasks or []:
            check_known(f"{user}: tasks", task, known)
        self._evaluation.probe = task_probe(trainer, self.data, self.tasks or known, self.num_samples, user)
        self.results, self.best = [], None
        if self.keep_best and not any(
            name.startswith("val_") for found in self._measure(trainer, pl_module).values() for name in found
        ):
            raise ConfigurationError("keep_best: there are no validation data to choose by; see --data.n_val")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate every mixture; leave the network as it was trained, or at the best."""
        with never_fatal(type(self).__name__):
            self._evaluate(trainer, pl_module)
        if not self.results:
            user = type(self).__name__
            rank_zero_warn(f"{user} measured nothing: there are no validation or test examples.")

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate every mixture, choose and write."""
        after = {name: value.detach().clone() for name, value in live_tensors(pl_module).items()}
        phase = phase_of(pl_module)
        try:
            for mixing in self.mixing:
                self._set(pl_module, after, mixing)
                found = self._measure(trainer, pl_module)
                self.results += [
                    MixingMeasurement(phase, mixing, task, name, value)
                    for task, measures in found.items()
                    for name, value in measures.items()
                ]
        finally:
            restore(pl_module, after)
        self._choose(trainer, pl_module)
        if self.keep_best and self.best is not None:
            self._keep(trainer, pl_module, after, self.best)
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the memory."""
        super().on_fit_end(trainer, pl_module)
        self._evaluation.probe = {}

    def _measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        model = task_model(module, type(self).__name__)
        with undisturbed(trainer, module, model, self._evaluation.probe):
            return self._evaluation.measure(trainer, module)

    @torch.no_grad()
    def _set(self, module: LightningModule, after: Mapping[str, Tensor], mixing: float) -> None:
        """Mix; the ends are exact."""
        mixed = {
            name: self.start[name] + mixing * (value - self.start[name])
            if name in self.start and 0 < mixing < 1
            else (value if mixing or name not in self.start else self.start[name])
            for name, value in after.items()
        }
        restore(module, mixed)

    def _keep(
        self, trainer: Trainer, module: LightningModule, after: Mapping[str, Tensor], mixing: float
    ) -> None:
        """Leave the network at a mixture, with the statistics that it was evaluated with."""
        self._set(module, after, mixing)
        if 0 <= mixing < 1:
            model = task_model(module, type(self).__name__)
            with undisturbed(trainer, module, model, self._evaluation.probe):
                statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    buffer.copy_(statistics[name])

    def _choose(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the mixing weight best on validation data, the largest of equals, and log what it gives."""
        measures = [r.measure for r in self.results if r.measure.startswith("val_")]
        if not measures:
            return
        judged = next((name for name in measures if name != "val_loss"), "val_loss")
        sign = -1 if judged == "val_loss" else 1
        scores = {
            m: sign * fmean(r.value for r in self.results if (r.mixing, r.measure) == (m, judged))
            for m in self.mixing
        }
        self.best = max(self.mixing, key=lambda m: (scores[m], m))
        there = {f"wise_ft/{r.task}/{r.measure}": r.value for r in self.results if r.mixing == self.best}
        log_scalars(trainer, module, {"wise_ft/best": self.best, **there})

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        folder = folder_of(trainer)
        if folder is None:
            return
        text = as_csv([COLUMNS, *map(astuple, self.results)])
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / FILE, text)
        path = save(draw_mixing(self.results, self.best), folder / "wise_ft.png")
        log_picture(trainer, module, "wise_ft", path)
