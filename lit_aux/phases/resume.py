"""Where a run goes on: which phase, from which checkpoint, and whether it is the same run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.errors import ConfigurationError, with_class
from lit_aux.identity.configuration import LIMITS
from lit_aux.identity.encoder import DOES, UNKNOWN, Tree
from lit_aux.phases import state as checkpoints
from lit_aux.phases.identity import FOREIGN, OWN
from lit_aux.phases.phased import phased
from lit_aux.phases.store import differences
from lit_aux.pickles import unreadable
from lit_aux.storage import StorageError, storage_trouble

_CHOSEN = ("model.", "phase ", "trainer.", "callbacks.", "data.")
"""Beginnings of the names of what somebody chose; others are of classes, which are code."""
Description = Mapping[str, Tree]
Change = tuple[str | None, str | None]


@dataclass
class ResumePoint:
    """Where to start.

    Args:
        phase: Index of the phase.
        path: The checkpoint that this phase resumes from; None starts the phase anew.
        current: The phase's result, if it had ended when the checkpoint was written.
        results: Results of the phases before.
        logged_steps: The step that the logs had reached.
        seconds: Time that the phase had taken.
        metrics: What the phase had measured last, by name.
        continued: Where the run was continued before.
        info: All that the checkpoint says of its run.
        epochs: Epochs that the phase had trained.
        steps: Steps that the phase had taken.
    """

    phase: int = 0
    path: str | None = None
    current: dict[str, Any] | None = None
    results: list[checkpoints.PhaseResult] = field(default_factory=list)
    logged_steps: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    continued: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0


class PhaseCheckpointConnector(_CheckpointConnector):
    """Keeps SLURM's requeue checkpoint from being loaded into every phase."""

    phased = False

    @property
    def _hpc_resume_path(self) -> str | None:
        return None if self.phased else super()._hpc_resume_path

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Read a checkpoint, of an address too, so that nothing in it is run unless somebody asks for it."""
        with self._one_line(checkpoint_path):
            try:
                super().resume_start(checkpoint_path, True if weights_only is None else weights_only)
            except (UnpicklingError, RuntimeError, EOFError) as error:
                raise ConfigurationError(
                    f"ckpt_path: {str(checkpoint_path)!r} {unreadable(str(checkpoint_path), error)}"
                ) from error
        if self._loaded_checkpoint:
            checkpoints.check_content(self._loaded_checkpoint, str(checkpoint_path))

    def restore_model(self) -> None:
        """Load the weights; refuse those of another network in one line, whoever's module it is.

        Training does not go on from weights that are NaN or infinite; of those that are evaluated it is said.
        """
        module, fitting = self.trainer.lightning_module, self.trainer.state.fn == TrainerFn.FITTING
        if self._loaded_checkpoint:
            phased(module).prepare_checkpoint(self._loaded_checkpoint, training=fitting)
        if self._loaded_checkpoint and (self.phased if fitting else phased(module).phases):
            state: Mapping[str, Tensor] = self._loaded_checkpoint["state_dict"]
            checkpoints.check_fit(module.state_dict(), state, "ckpt_path", self._ckpt_path)
            if fitting:
                checkpoints.check_finite(module, state, "ckpt_path", self._ckpt_path)
            elif told := checkpoints.not_finite(module, state, "ckpt_path", self._ckpt_path):
                rank_zero_warn(told)
        if isinstance(self.trainer.precision_plugin, DoublePrecision):  # else its weights are rounded
            self.trainer.precision_plugin.convert_module(module)
        with self._one_line(self._ckpt_path):
            super().restore_model()

    def restore_datamodule(self) -> None:
        """Give the data their state."""
        with self._one_line(self._ckpt_path):
            super().restore_datamodule()

    def restore_callbacks(self) -> None:
        """Give the callbacks their states."""
        states = (self._loaded_checkpoint or {}).get("callbacks")
        for state in states.values() if isinstance(states, Mapping) else ():
            if isinstance(state, dict) and "best_k_models" in state:
                self._refuse_paths_outside(state)
        with self._one_line(self._ckpt_path):
            super().restore_callbacks()

    def _refuse_paths_outside(self, state: Mapping[str, Any]) -> None:
        """Refuse files of a ``ModelCheckpoint``, which it would remove in time, outside of its own folder."""
        folder = os.path.normpath(str(state.get("dirpath")))
        for path in (*state["best_k_models"], state.get("kth_best_model_path"), state.get("last_model_path")):
            if path and not os.path.normpath(str(path)).startswith(folder + os.sep):
                raise ConfigurationError(
                    f"ckpt_path: {str(self._ckpt_path)!r} would have {str(path)!r} removed, which is not in "
                    f"the folder of its run ({folder}); whoever made it may have meant that: do not use it"
                )

    def restore_training_state(self) -> None:
        """Give loops, optimizers and schedules their states; each must find one."""
        content = self._loaded_checkpoint
        if content and self.trainer.state.fn == TrainerFn.FITTING:
            optimizers, schedules = self.trainer.optimizers, self.trainer.lr_scheduler_configs
            needed = {"optimizer_states": len(optimizers), "lr_schedulers": len(schedules)}
            for name, count in needed.items():
                found = content.get(name)
                more = name == "lr_schedulers"  # averaging of weights adds one when it begins
                if isinstance(found, list) and (len(found) < count or (len(found) > count and not more)):
                    raise ConfigurationError(
                        f"ckpt_path: {str(self._ckpt_path)!r} has {len(found)} {name}, this run needs "
                        f"{count}; resume with the configuration that wrote it"
                    )
        with self._one_line(self._ckpt_path):
            super().restore_training_state()
        if content and self.trainer.state.fn == TrainerFn.FITTING and self.phased:
            checkpoints.check_optimizers(self.trainer.optimizers, f"ckpt_path: {str(self._ckpt_path)!r}")

    @contextmanager
    def _one_line(self, path: Any) -> Iterator[None]:
        """Name the checkpoint where something that is in it, or is not, cannot be restored."""
        try:
            yield
        except (ConfigurationError, MisconfigurationException, StorageError):
            raise
        except Exception as error:
            if path is None or storage_trouble(error, "."):
                raise
            raise ConfigurationError(
                f"ckpt_path: {str(path)!r} cannot be restored here ({with_class(error)[:160]}); name a "
                "checkpoint of this network and these options"
            ) from error


def find_resume_point(ckpt_path: str | Path | None, names: list[str], root: str) -> ResumePoint:
    """Find where to start from what the user asked for.

    Args:
        ckpt_path: A file; ``last`` for the newest checkpoint beneath ``root``; None for a new run, unless
            SLURM has requeued the job and left a checkpoint.
        names: Names of the run's phases.
        root: The Trainer's ``default_root_dir``.

    Raises:
        ConfigurationError: If the file is missing, broken, or of another set of phases.
    """
    if ckpt_path is None or ckpt_path == "last":
        found = _newest(_requeued(root) if ckpt_path is None else _written(root), names)
        if found is None:
            return ResumePoint()
        path, content, info = found
    else:
        path, content = Path(ckpt_path), checkpoints.read_checkpoint(ckpt_path)
        info = checkpoints.phase_of_checkpoint(content, path, names)
    place = {"checkpoint": str(path), "phase": names[info["phase"]]}
    place |= {"epoch": content.get("epoch", 0), "step": content.get("global_step", 0)}
    current = None if info["current"] is None else checkpoints.PhaseResult(**info["current"]).asdict()
    ended = current or {}
    return ResumePoint(
        phase=info["phase"],
        path=str(path),
        current=current,
        results=[checkpoints.PhaseResult(**result) for result in info["results"]],
        logged_steps=int(info["logged_steps"]),
        seconds=info["seconds"],
        metrics=dict(info.get("metrics", {})),
        continued=[*info.get("continued", []), place],
        info=info,
        epochs=int(ended.get("epochs", content.get("epoch", 0))),
        steps=int(ended.get("steps", content.get("global_step", 0))),
    )


def check_same_run(point: ResumePoint, now: Description) -> None:
    """Refuse to go on with other options or data than the run had; name other code and versions.

    Args:
        point: Where to go on.
        now: What the run depends on now: ``configuration`` where there is one, ``options``, ``data``,
            ``code`` and ``versions``.

    Raises:
        ConfigurationError: If an option or the data differ; the message names one of them.
    """
    before: Description = point.info.get("depends", {})
    if not before:  # written when checkpoints did not say
        return
    loose = [
        f"{kind} {name}" if kind == "code of" else f"{name} {old} (now {new})"
        for kind, part in (("code of", "code"), ("", "versions"))
        for name, (old, new) in differences(before.get(part, {}), now.get(part, {})).items()
        if old is not None and new is not None
    ]
    edited = differences(before.get("code", {}), now.get("code", {})) != {}
    other = bool(loose)
    loose += [
        f"{name} {old} (now {new})"
        for name, (old, new) in differences(before.get("options", {}), now.get("options", {})).items()
        if name.startswith("global ") and not name.endswith(DOES) and not {old, new} & {None, UNKNOWN}
    ]
    for part in ("configuration", "data", "options"):
        if before.get(part) and now.get(part):
            found = differences(before[part], now[part])
            _refuse(point, {k: v for k, v in found.items() if _is_option(part, k, v, edited, other)})
    if loose:
        other_parts = ", ".join(loose)
        rank_zero_warn(f"ckpt_path: {point.path!r} was written with other {other_parts}; going on with it")


def check_same_data(point: ResumePoint, files: Tree, schedules: Tree, phases: Sequence[str]) -> None:
    """Refuse to go on with data of other content, or a schedule of another length.

    To be called when the fit has set up the data and built the schedules, before they are restored.

    Args:
        point: Where to go on.
        files: The fingerprint of each phase's data.
        schedules: The schedules of the phase, as built.
        phases: Names of the phases that have begun.

    Raises:
        ConfigurationError: If something differs.
    """
    names = [f"data of phase {name}" for name in phases]
    before = {name: value for name, value in point.info.get("files", {}).items() if name in names}
    found = differences(before, {name: files[name] for name in before if name in files})
    _refuse(point, {name: value for name, value in found.items() if None not in value})
    told = point.info.get("schedules")
    if told is None:
        return
    other = {k: v for k, v in differences(told, schedules).items() if UNKNOWN not in v}
    if other:
        name, (old, new) = next(iter(other.items()))
        raise ConfigurationError(
            f"ckpt_path: {name} of the learning-rate schedule was {old} in {point.path!r} and is {new} now: "
            "its length comes from the limits; give them as before, or start anew"
        )


def may_continue(point: ResumePoint, now: Tree, names: Sequence[str]) -> bool:
    """Return whether the phase of a checkpoint goes on though it had ended: its limits are larger now.

    Args:
        point: Where to go on.
        now: The limits of all phases.
        names: The names of all phases.

    Raises:
        ConfigurationError: If a finished phase before the last one has other limits, or if more was trained
            than the limits allow.
    """
    before: Tree = point.info.get("limits", now)
    ended = point.phase + (point.current is not None)
    for index, phase in enumerate(names[:ended]):
        last = index == len(names) - 1
        for limit in LIMITS:
            old, new = (limits.get(f"phase {phase}.{limit}", "none") for limits in (before, now))
            if old != new and not last:
                raise ConfigurationError(
                    f"{limit}: phase {phase!r} of {point.path!r} has ended with {limit} {old}, now it is "
                    f"{new}; only the last phase goes on with larger limits: give {limit} {old} in that "
                    "phase's own settings, or start anew"
                )
    phase = names[point.phase]
    for limit, done in (("max_epochs", point.epochs), ("max_steps", point.steps)):
        old, new = (limits.get(f"phase {phase}.{limit}", "none") for limits in (before, now))
        if new not in (old, "none") and int(new) < done:
            raise ConfigurationError(
                f"{limit}: {new} is less than what phase {phase!r} of {point.path!r} has trained ({done}); "
                f"give at least {done}, or start anew"
            )
    if point.current is None:
        return True
    reason = str(point.current["reason"]).partition(":")[0]
    old, new = (limits.get(f"phase {phase}.{reason}", "none") for limits in (before, now))
    return old not in (new, "none") and (new == "none" or float(new) > float(old))


def _refuse(point: ResumePoint, found: Mapping[str, Change]) -> None:
    if not found:
        return
    (name, (old, new)), *others = found.items()
    more = f", and {len(others)} more differ" if others else ""
    raise ConfigurationError(
        f"ckpt_path: the run of {point.path!r} had {name} {old or 'absent'}, this one has {new or 'absent'}"
        f"{more}; give what it had, or start anew (--model.pretrained takes its weights alone)"
    )


def _is_option(part: str, name: str, values: Change, edited: bool, loose: bool) -> bool:
    """Whether a difference is one that somebody chose, and none that follows from other code or versions."""
    if part == "configuration":
        return not name.startswith("--trainer.callbacks")  # told apart below, by what they are
    if UNKNOWN in values or not name.startswith(_CHOSEN) or FOREIGN in name:
        return False
    if (edited and name.endswith(DOES)) or (f".{OWN}" in name and None in values):
        return False
    if not loose:
        return True
    private = any(piece.startswith("_") for piece in name.split("."))
    inner = name.startswith("model.") and name.count(".") > 1
    return not (None in values or private or "made by" in name or (edited and inner))


def _requeued(root: str) -> list[Path]:
    """Return the checkpoints that requeued SLURM jobs left, the last one first."""
    if not SLURMEnvironment.detect():
        return []
    numbered = [p for p in Path(root).glob("hpc_ckpt_*.ckpt") if p.stem[9:].isdigit()]
    return sorted(numbered, key=lambda p: int(p.stem[9:]), reverse=True)


def _written(root: str) -> list[Path]:
    """Return the checkpoints beneath a folder, the newest first."""
    found = [p for p in Path(root).glob("**/checkpoints/**/*.ckpt") if p.is_file()]
    found += list(Path(root).glob("hpc_ckpt_*.ckpt"))
    if not found:
        none = f"there is no checkpoint in {root!r}; starting anew"
        rank_zero_warn(f"ckpt_path: 'last' was asked for, but {none}")
    return sorted(found, key=lambda p: p.stat().st_mtime_ns, reverse=True)


def _newest(paths: Sequence[Path], names: list[str]) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """Return the first checkpoint that can be read and is of these phases, and say which ones were not.

    Raises:
        ConfigurationError: If there are some, but none is; the message is of the first.
    """
    refused: ConfigurationError | None = None
    for path in paths:
        try:
            content = checkpoints.read_checkpoint(path)
            info = checkpoints.phase_of_checkpoint(content, path, names)
        except ConfigurationError as error:
            refused = refused or error
            continue
        if refused is not None:
            rank_zero_warn(f"{refused}; going on from {str(path)!r}, which is the newest that can be used")
        return path, content, info
    if refused is not None:
        raise refused
    return None
