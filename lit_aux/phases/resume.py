"""Where a run goes on: which phase, from which checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_warn

from lit_aux.phases.state import PhaseResult, phase_of_checkpoint, read_checkpoint


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
    """

    phase: int = 0
    path: str | None = None
    current: dict[str, Any] | None = None
    results: list[PhaseResult] = field(default_factory=list)
    logged_steps: int = 0
    seconds: float = 0.0


class PhaseCheckpointConnector(_CheckpointConnector):
    """Keeps SLURM's requeue checkpoint from being loaded into every phase."""

    phased = False

    @property
    def _hpc_resume_path(self) -> str | None:
        return None if self.phased else super()._hpc_resume_path


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
    path = _requeued(root) if ckpt_path is None else ckpt_path
    if path == "last":
        path = _newest(root, names)
    if path is None:
        return ResumePoint()
    content = read_checkpoint(path)
    info = phase_of_checkpoint(content, path, names)
    return ResumePoint(
        phase=info["phase"],
        path=str(path),
        current=info["current"],
        results=[PhaseResult(**result) for result in info["results"]],
        logged_steps=info["logged_steps"],
        seconds=info["seconds"],
    )


def _requeued(root: str) -> Path | None:
    """Return the checkpoint that a requeued SLURM job left."""
    if not SLURMEnvironment.detect():
        return None
    numbered = [p for p in Path(root).glob("hpc_ckpt_*.ckpt") if p.stem[9:].isdigit()]
    return max(numbered, key=lambda p: int(p.stem[9:]), default=None)


def _newest(root: str, names: list[str]) -> Path | None:
    """Return the newest checkpoint beneath a folder that is a phase's."""
    found = [p for p in Path(root).glob("**/checkpoints/**/*.ckpt") if p.is_file()]
    found += list(Path(root).glob("hpc_ckpt_*.ckpt"))
    if not found:
        rank_zero_warn(
            f"ckpt_path: 'last' was asked for, but there is no checkpoint in {root!r}; starting anew"
        )
        return None
    return max(found, key=lambda p: p.stat().st_mtime_ns)
