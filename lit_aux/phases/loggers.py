"""Loggers by one word, each run in a folder of its own."""

import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

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
        return _wandb_logger(Path(root))
    raise ConfigurationError(f"trainer.logger: {kind!r} is unknown; choose csv, tensorboard or wandb")


def _wandb_logger(root: Path) -> Logger:
    """Build a W&B logger with a folder of its own, offline where there is no account."""
    import netrc

    from lightning.pytorch.loggers import WandbLogger

    known = bool(os.environ.get("WANDB_API_KEY"))
    if not known:
        try:
            known = any("wandb" in host for host in netrc.netrc().hosts)
        except (FileNotFoundError, netrc.NetrcParseError):
            known = False
    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" if mode else not known
    if offline:
        rank_zero_info("W&B: no account found, logging offline; `wandb sync` uploads the run later")
    return WandbLogger(save_dir=root / f"wandb-{uuid.uuid4().hex[:8]}", offline=offline)
