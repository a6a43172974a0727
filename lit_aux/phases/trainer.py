"""A Trainer that runs a list of phases, each as one Lightning fit."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch import Tensor

from lit_aux.callbacks import WeightRescaling
from lit_aux.errors import ConfigurationError
from lit_aux.identity.configuration import flat_options
from lit_aux.phases import identity
from lit_aux.phases import resume as resumption
from lit_aux.phases.callback_list import CallbackList, stop_reason, with_checkpoint
from lit_aux.phases.checkpoint import PhaseCheckpoint, write_checkpoints_atomically
from lit_aux.phases.limits import check_reached, check_trainer
from lit_aux.phases.loggers import (
    LoggerName,
    build_logger,
    describe_runs,
    discard_runs,
    folder_of_run,
    shared_by_runs,
)
from lit_aux.phases.loop import MEETING, PhaseLoop
from lit_aux.phases.monitors import check_monitors, check_validation
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased, phased_data
from lit_aux.phases.places import check_places, remove_leftovers
from lit_aux.phases.predictions import PredictionWriter, check_predictions
from lit_aux.phases.quiet import quiet, with_progress
from lit_aux.phases.ranks import check_processes, starts_processes, take_back, watched
from lit_aux.phases.restore_best import RestoreBest, direction
from lit_aux.phases.state import PhaseResult
from lit_aux.phases.store import FirstPhaseReuse
from lit_aux.storage import check_place


class PhaseTrainer(Trainer):
    """Lightning's Trainer for modules that have ``phases``; for any other module, Lightning's Trainer.

    ``fit`` enters each phase and runs it as a fit of its own: optimizers, loaders, schedules and the process
    group's wrapping are built anew, and ``max_epochs``, ``max_steps``, ``max_time``, ``fast_dev_run`` and
    ``trainer.estimated_stepping_batches`` hold for each phase. Steps in the logs count on. Each phase ends
    with a test of its tasks, and ``phase_results`` says how each went. After ``fit``, ``callback_metrics``
    holds the last training, validation and test metrics of every phase.

    Attributes:
        phase_results: How each phase went.
        configuration: What ``lit-aux fit`` was configured with; None in Python. It names the run in tables.
        description: What the numbers of the run depend on, by name; see ``lit_aux.phases.identity``.
        limits: How long each phase may take.
        continued: Each checkpoint that the run was continued from, with its phase, epoch and step.

    Args:
        logger: ``"csv"``, ``"tensorboard"``, ``"wandb"``, or what Lightning's Trainer takes.
        phase_store: Folder in which finished first phases are kept and found again; True for ``phases`` in
            ``default_root_dir``, False for none. A phase is stored only in a run with a global seed.
        test_after_phase: Whether each phase ends with a test of its tasks.
        **kwargs: As for Lightning's Trainer.
    """

    def __init__(
        self,
        *,
        logger: LoggerName | Logger | Iterable[Logger] | bool | None = "csv",
        phase_store: bool | str = True,
        test_after_phase: bool = True,
        **kwargs: Any,
    ) -> None:
        check_trainer(kwargs)
        given = kwargs.setdefault("default_root_dir", None)
        root = os.path.expanduser("runs" if given is None else check_place("default_root_dir", given))
        if os.path.isfile(root):
            raise ConfigurationError(f"default_root_dir: {root!r} is a file; name a folder")
        kwargs["default_root_dir"] = root
        kwargs["callbacks"] = with_progress(with_checkpoint(kwargs), kwargs)
        if isinstance(logger, str):
            plain = kwargs.get("fast_dev_run") or kwargs.get("barebones")
            logger = False if plain else build_logger(logger, root)
        with quiet():
            super().__init__(logger=logger, **kwargs)
        self._connector = self._checkpoint_connector = resumption.PhaseCheckpointConnector(self)
        write_checkpoints_atomically(self)
        self.test_after_phase = test_after_phase
        self.phase_results: list[PhaseResult] = []
        self.phase_name = ""
        self.configuration: dict[str, Any] | None = None
        self.description: dict[str, dict[str, str]] = {}
        self.limits: dict[str, str] = {}
        self.continued: list[dict[str, Any]] = []
        self._resume = resumption.ResumePoint()
        self._files: dict[str, str] | None = None
        self._schedules: dict[str, str] = {}
        store = f"{root}/phases"
        if isinstance(phase_store, str):
            store = os.path.expanduser(check_place("phase_store", phase_store))
        keep = phase_store and not kwargs.get("fast_dev_run")
        self._reuse = FirstPhaseReuse(store) if keep else None
        self._limits = (self.min_epochs, self.max_epochs, self.min_steps, self.max_steps)
        self._callback_list = CallbackList(self)
        self._phases: list[Phase] = []
        self._hooks: set[int] = set()
        self._index = 0
        self._logged_steps = 0
        self._measured: dict[str, Tensor] = {}
        self._started = 0.0
        self._settled = False

    def fit(  # noqa: D417
        self,
        model: LightningModule,
        train_dataloaders: TRAIN_DATALOADERS | LightningDataModule | None = None,
        val_dataloaders: EVAL_DATALOADERS | None = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train: run every phase of the module, one after another.

        Args:
            ckpt_path: Checkpoint to resume from, in the phase that wrote it. ``last``: the newest of this
                ``default_root_dir``.
            weights_only: Lightning's own; checkpoints of this Trainer load with True.

        Raises:
            ConfigurationError: If the phases, the callbacks or the checkpoint do not fit together.
        """
        phases = phased(model).phases
        self._connector.phased = bool(phases)
        if not phases:
            loaders = train_dataloaders, val_dataloaders
            super().fit(model, *loaders, datamodule, ckpt_path, weights_only=weights_only)
            return
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        self._phases = list(phases)
        if (meeting := MEETING.get()) is not None:
            meeting.begin(self, model, datamodule)
        self._hooks = identity.hooks_of(model)
        phased(model).attach_data(datamodule, self.num_devices * self.num_nodes)
        self._check_callbacks(model)
        self._check_places(model)
        self._describe(model, datamodule)
        describe_runs(self.loggers, model, datamodule)
        root = str(self.default_root_dir)
        if self.is_global_zero:
            remove_leftovers(root)
            if self._reuse is not None:
                self._reuse.store.tidy()
        resume = self._find_resume_point(model, ckpt_path, root)
        self.phase_results = list(resume.results)
        self._logged_steps = resume.logged_steps
        self._measured = {}
        try:
            with quiet(), watched(self):
                for index in range(resume.phase, len(phases)):
                    point = resume if index == resume.phase else resumption.ResumePoint(phase=index)
                    self._run_phase(index, model, train_dataloaders, val_dataloaders, datamodule, point)
            self.callback_metrics.update(self._metrics_of_all_phases())
        except BaseException:
            unstarted = self.global_step == 0 and not starts_processes(self)  # those count for themselves
            if len(self.phase_results) <= 1 and unstarted and self.is_global_zero:
                discard_runs(self.loggers)
            raise
        finally:
            if self._reuse is not None:
                self._reuse.release()
            if self.is_global_zero:
                with suppress(OSError):  # only where nothing was written into it
                    Path(root).rmdir()

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Carry out a fit, a validation, a test or a prediction, without Lightning's tips."""
        with quiet():
            return super()._run(*args, **kwargs)

    @property
    def log_dir(self) -> str | None:
        """The run's own folder, also where its logger has one for all runs; every process must ask for it."""
        if not (self.loggers and shared_by_runs(self.loggers[0])):
            return super().log_dir
        return self.strategy.broadcast(folder_of_run(self.loggers[0]))

    def _describe(self, model: LightningModule, data: LightningDataModule | None) -> None:
        """Write down what the numbers of the run depend on."""
        own = self._callback_list.own
        self.description = identity.describe_run(self, model, self._phases, data, own)
        if self.configuration is not None:
            self.description["configuration"] = flat_options(self.configuration)
        self.limits = identity.limits_of(self._phases, self._limits[1], self._limits[3], own)
        self._files = None

    def _find_resume_point(
        self, model: LightningModule, ckpt_path: str | Path | None, root: str
    ) -> resumption.ResumePoint:
        """Find where to go on, and see that it is the same run."""
        names = [phase.name for phase in self._phases]
        point = resumption.find_resume_point(ckpt_path, names, root)
        self.continued = point.continued
        if point.path is not None:
            resumption.check_same_run(point, identity.as_built(model, self.description))
            if resumption.may_continue(point, self.limits, names):
                point.current = None
        identity.as_built(model, self.description)
        return point

    def begin_phase(self, model: LightningModule) -> None:
        """See, in ``on_fit_start``, that a resumed run is the same; take a first phase from the store."""
        self._check_resumed()
        if not (self._settled or self.fast_dev_run):  # type: ignore[attr-defined]
            left, data = self._phases[self._index :], self.datamodule  # type: ignore[attr-defined]
            check_validation(self, left, data, self._limits[1])
        self._look_up_phase(model)

    def _check_resumed(self) -> None:
        """Refuse data and schedules that are not those of the run that is resumed."""
        # Where nothing is left to train no batch is, and lengths that come from them are none.
        ended = self._settled and self._resume.path is not None
        told = self._resume.info.get("schedules", {})
        self._schedules = told if ended else identity.describe_schedules(self)
        if self._resume.path is not None:
            begun = [phase.name for phase in self._phases[: self._index + 1]]
            resumption.check_same_data(self._resume, self._data_files(), self._schedules, begun)

    def _data_files(self) -> dict[str, str]:
        """Return the fingerprint of each phase's data, taken once in a run."""
        if self._files is None:
            self._files = identity.describe_data(self.datamodule, self._phases)  # type: ignore[attr-defined]
        return self._files

    def _check_callbacks(self, model: LightningModule) -> None:
        check_processes(self, model, len(self._phases))
        if len(self._phases) > 1 and any(isinstance(c, WeightRescaling) for c in self._callback_list.own):
            raise ConfigurationError(
                "trainer.callbacks: WeightRescaling would act before the first phase; set --model.rescale, "
                "or put it into the callbacks of one phase"
            )
        for callback in (c for phase in self._phases for c in phase.callbacks):
            if isinstance(callback, WeightRescaling):
                callback.check(self, model)
        for phase in self._phases if not self.fast_dev_run else ():  # type: ignore[attr-defined]
            check_reached(phase.unfreeze, self._limits[1])
        check_monitors(model, self._phases, self._callback_list.own)
        for phase in self._phases:
            if phase.restore_best is not None:
                direction(model, phase)

    def _check_places(self, model: LightningModule) -> None:
        """Refuse to write over what is not a fit's own."""
        if not self.fast_dev_run:  # type: ignore[attr-defined]
            own = [*self._callback_list.own, *(c for phase in self._phases for c in phase.callbacks)]
            root = str(self.default_root_dir)
            check_places(root, logger=bool(self.loggers), model=model, phases=self._phases, callbacks=own)

    def _run_phase(
        self,
        index: int,
        model: LightningModule,
        train: TRAIN_DATALOADERS | None,
        val: EVAL_DATALOADERS | None,
        datamodule: LightningDataModule | None,
        resume: resumption.ResumePoint,
    ) -> None:
        """Run one phase as a fit, then test it."""
        phase = self._phases[index]
        self._index, self.phase_name, self._resume = index, phase.name, resume
        self._settled = resume.current is not None
        self._started = time.monotonic() - resume.seconds
        result = PhaseResult(**(resume.current or {"name": phase.name, "tasks": list(phase.tasks)}))
        phase.seed_everything()
        phased(model).enter_phase(phase)
        phased_data(datamodule).set_phase(phase.tasks, phase.order)
        self.phase_results.append(result)
        if (count := len(self._phases)) > 1:
            rank_zero_info(f"Phase {index + 1} of {count}: {phase.name} on {', '.join(phase.tasks)}")
        trained_batches = self.limit_train_batches
        with self._callback_list.of_phase(phase, self._phases, phased(model).trains_itself):
            self._prepare_loops(phase)
            if self._settled:  # the checkpoint is of the phase's end: restore it, train no step
                self.limit_train_batches = 0
            try:
                super().fit(model, train, val, datamodule, resume.path, weights_only=True)
            finally:
                self.limit_train_batches = trained_batches
            self._settled |= take_back(self, result, model, datamodule)
            self._measured |= self.callback_metrics
            self._leave(model, result)
            if phase.restore_best is not None:  # what has been measured last is of other weights
                self._measured |= {f"{phase.name}/{n}": torch.tensor(v) for n, v in result.metrics.items()}
            tested = any("/test_" in name for name in result.metrics)
            if self.test_after_phase and not tested and _has_test_data(model, datamodule):
                result.metrics |= self._test(model, datamodule)
            if self._reuse is not None:
                self._reuse.keep(self, model, result, self._logged_steps)
        result.seconds = time.monotonic() - self._started
        rank_zero_info(f"Phase {phase.name} ended: {result.reason}")

    def _prepare_loops(self, phase: Phase) -> None:
        """Give the phase new loops with its own limits; only the step of the logs counts on."""
        min_epochs, max_epochs, min_steps, max_steps = self._limits
        epochs = [n for n in (max_epochs, phase.max_epochs) if n is not None and n >= 0]
        steps = [n for n in (max_steps, phase.max_steps) if n >= 0]
        most = min(epochs, default=max_epochs)
        self.fit_loop = PhaseLoop(self, lambda: not self._settled, min_epochs=min_epochs, max_epochs=most)
        last = min(steps, default=-1)
        self.fit_loop.epoch_loop = _TrainingEpochLoop(self, min_steps=min_steps, max_steps=last)
        self.fit_loop.epoch_loop._batches_that_stepped = self._logged_steps

    def _look_up_phase(self, model: LightningModule) -> None:
        """Take a first phase that was trained before, so that no step is trained."""
        resuming = self._connector._ckpt_path is not None
        if self._reuse is None or self._index or len(self._phases) < 2 or resuming:
            return
        content = self._reuse.look_up(self, model, self._phases[0], self._hooks)
        if content is None:
            return
        model.load_state_dict(content["state_dict"])
        vars(self.phase_results[-1]).update(content["result"], reused=True, checkpoint=None)
        self.fit_loop.epoch_loop._batches_that_stepped = content["logged_steps"]
        self._settled = True
        self.limit_train_batches = 0  # the fit that is under way ends before its first step

    def settle_phase(self) -> None:
        """Write down how the phase went, while its callbacks still know."""
        if self._settled:
            return
        result = self.phase_results[-1]
        result.reason = stop_reason(self)
        result.epochs, result.steps = self.current_epoch, self.global_step
        result.metrics.update(self._phase_metrics())
        for callback in self.callbacks:
            if isinstance(callback, RestoreBest):
                callback.tell(result)
        self._settled = True

    def _phase_metrics(self) -> dict[str, float]:
        """Return what the phase has measured last, before it was resumed too."""
        prefix = f"{self.phase_name}/"
        found = {n: float(v) for n, v in self.callback_metrics.items() if n.startswith(prefix)}
        return self._resume.metrics | {n.removeprefix(prefix): value for n, value in found.items()}

    def _leave(self, model: LightningModule, result: PhaseResult) -> None:
        """Write the checkpoint of a phase that was not trained here, and note where it is."""
        self.settle_phase()
        self._logged_steps = self.fit_loop.epoch_loop._batches_that_stepped
        if result.reused:
            self._save_reused(model)
        # a resume of a phase that had ended writes none: the one that it came from is the phase's
        ended = self._resume.path if self._resume.current is not None else None
        result.checkpoint = self.newest_checkpoint() or result.checkpoint or ended

    def _save_reused(self, model: LightningModule) -> None:
        """Write the checkpoint of a phase that was taken from the store, as if it had been trained here."""
        for callback in self.checkpoint_callbacks:
            if isinstance(callback, PhaseCheckpoint):
                callback.save(self, model)

    def _metrics_of_all_phases(self) -> dict[str, Tensor]:
        """Return all metrics of the run: every fit and test of Lightning's forgets those before it."""
        known = {
            f"{result.name}/{name}": torch.tensor(value, dtype=torch.float64)  # as losses are
            for result in self.phase_results  # also of those that were not trained here
            for name, value in result.metrics.items()
            if name not in self._measured
        }
        return known | self._measured

    def _test(self, model: LightningModule, datamodule: LightningDataModule | None) -> dict[str, float]:
        prefix = f"{self.phase_name}/"
        with isolate_rng():
            super().test(model, datamodule=datamodule, verbose=False)
        self._measured |= self.callback_metrics
        found = {k.removeprefix(prefix): float(v) for k, v in self.callback_metrics.items()}
        self.state.fn = TrainerFn.FITTING
        return found

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: EVAL_DATALOADERS | LightningDataModule | None = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        output: str | None = None,
    ) -> Any:
        """Predict: compute a checkpoint's outputs, and write what they say into a file.

        Args:
            model: What predicts; by default what was fitted.
            dataloaders: What it predicts; by default the data module's ``predict_dataloader``.
            datamodule: The data module.
            return_predictions: Whether to return what ``predict_step`` does. By default it is returned unless
                it is written to ``output``, or processes are started that could not send it back.
            ckpt_path: Checkpoint whose weights predict; by default those of the model as it is.
            weights_only: Lightning's own; checkpoints of this Trainer load with True.
            output: File of the predictions: ``.csv``, a row for each input of each task with label,
                prediction and probabilities; or ``.npz``, arrays, also of dense outputs.

        Raises:
            ConfigurationError: If ``output`` cannot hold what is predicted, or is a file of another kind.
        """
        how: dict[str, Any] = {"dataloaders": dataloaders, "datamodule": datamodule}
        how |= {"ckpt_path": ckpt_path, "weights_only": weights_only}
        if output is None:
            return super().predict(model, return_predictions=return_predictions, **how)
        used = self.lightning_module if model is None else model
        path = check_predictions(output, used, self, ckpt_path)
        own = self._callback_list.own
        self.callbacks: list[Callback] = [*own, PredictionWriter(path)]
        try:
            with watched(self):
                return super().predict(model, return_predictions=bool(return_predictions), **how)
        finally:
            self.callbacks = own

    @property
    def nothing_left(self) -> bool:
        """Whether a run was cut off after its last epoch, so that nothing but the phase's end is done."""
        return isinstance(self.fit_loop, PhaseLoop) and self.fit_loop.at_end

    def phase_info(self) -> dict[str, Any]:
        """Return what a checkpoint says about where the run is."""
        *done, current = [result.asdict() for result in self.phase_results]
        return {
            "phase": self._index,
            "phases": [phase.name for phase in self._phases],
            "current": current if self._settled else None,
            "results": done,
            "logged_steps": self.fit_loop.epoch_loop._batches_that_stepped,
            "seconds": time.monotonic() - self._started,
            "metrics": self._phase_metrics(),
            "should_stop": bool(self.should_stop),
            "depends": self.description,
            "limits": self.limits,
            "files": self._data_files(),
            "schedules": self._schedules,
            "continued": self.continued,
        }

    def newest_checkpoint(self) -> str | None:
        """Return the path that the phase's checkpoint callback wrote last."""
        paths = (getattr(callback, "best_model_path", "") for callback in self.checkpoint_callbacks)
        return next((str(path) for path in paths if path), None)

    def export(
        self,
        model: LightningModule,
        ckpt_path: str,
        output: str,
        task: str | None = None,
        datamodule: LightningDataModule | None = None,
        weights_only: Literal[True] | None = True,
    ) -> None:
        """Export: write a checkpoint's network as plain timm weights, or as transformers' folder.

        Args:
            model: A module with ``export``.
            ckpt_path: The checkpoint to read.
            output: The file to write; ``.safetensors`` or anything torch saves. Of transformers, the folder.
            task: The task whose readout becomes the classifier; None exports the backbone alone.
            datamodule: Names the tasks and, for transformers, their classes; its ``tokenizer`` is written.
            weights_only: Not used; present so that a run's saved configuration can be given.
        """
        takes: Any = phased(model).export
        given = {"data": datamodule} if "data" in signature(takes).parameters else {}
        takes(output, task=task, ckpt_path=ckpt_path, **given)


def _has_test_data(model: LightningModule, datamodule: LightningDataModule | None) -> bool:
    source: Any = datamodule if datamodule is not None else model
    parent: Any = LightningDataModule if datamodule is not None else LightningModule
    return is_overridden("test_dataloader", source, parent)
