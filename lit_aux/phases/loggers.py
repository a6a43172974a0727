"""Loggers by one word, each run in a folder of its own."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_aux.errors import ConfigurationError

LoggerName = Literal["csv", "tensorboard", "wandb"]


def _next_version(root: Path) -> int:
    """Make and claim the next free ``version_N`` folder; two runs never get the same one.

    Of the processes of one run only the first claims: Lightning tells the others its folder.
    """
    if getattr(rank_zero_only, "rank", 0):
        return 0
    root.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name[8:]) for p in root.glob("version_*") if p.name[8:].isdigit()]
    version = max(taken, default=-1) + 1
    while True:
        try:
            (root / f"version_{version}").mkdir()
            return version
        except FileExistsError:
            version += 1


class _ClaimedTensorBoardLogger(TensorBoardLogger):
    """A TensorBoard logger whose run folder is claimed when it is first needed."""

    def _get_next_version(self) -> int:
        return _next_version(Path(self.root_dir))


class RunLogger(CSVLogger):
    """A CSV logger whose run folder is claimed when it is first needed, safely among many processes.

    Args:
        save_dir: The folder in which ``version_0``, ``version_1``, ... lie.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__(save_dir=save_dir, name="", flush_logs_every_n_steps=200)

    def _get_next_version(self) -> int:
        return _next_version(Path(self.root_dir))

    def discard(self) -> None:
        """Remove the run folder of a run that ended before it began."""
        if self._version is not None:
            self._experiment = None
            shutil.rmtree(self.log_dir, ignore_errors=True)


def discard_runs(loggers: Iterable[Logger]) -> None:
    """Remove the folders of a run that failed before its first step."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.discard()


def describe_runs(loggers: Sequence[Logger], model: Any, data: Any) -> None:
    """Tell W&B runs what they belong to; see :func:`~lit_aux.phases.wandb_logger.describe_runs`."""
    if "lit_aux.phases.wandb_logger" in sys.modules:  # else there is none
        sys.modules["lit_aux.phases.wandb_logger"].describe_runs(loggers, model, data)


def build_logger(kind: str, root: str | Path) -> Logger:
    """Build a logger from its name.

    W&B without an account (no API key in the environment or in ``~/.netrc``) works offline.

    Raises:
        ConfigurationError: If the kind is unknown or its package is not installed.
    """
    if kind == "csv":
        return RunLogger(root)
    if kind == "tensorboard":
        try:
            return _ClaimedTensorBoardLogger(root, name="")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "trainer.logger: 'tensorboard' needs the package tensorboard (uv sync --extra tensorboard)"
            ) from error
    if kind == "wandb":
        from lit_aux.phases.wandb_logger import RunWandbLogger

        return RunWandbLogger(root)
    raise ConfigurationError(f"trainer.logger: {kind!r} is unknown; choose csv, tensorboard or wandb")
