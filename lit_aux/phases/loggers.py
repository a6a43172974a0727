"""Loggers by one word, each run in a folder of its own."""

import netrc
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_aux.errors import ConfigurationError, not_installed, one_line
from lit_aux.phases.phased import setup_of

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

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
            raise not_installed(f"trainer.logger: {kind!r}", "TensorBoard", "tensorboard") from error
    if kind == "wandb":
        return RunWandbLogger(root)
    raise ConfigurationError(f"trainer.logger: {kind!r} is unknown; choose csv, tensorboard or wandb")


_CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_SWEEP_ID")  # agents have an account


class RunWandbLogger(WandbLogger):
    """A W&B logger with a folder of its own, offline where there is no account.

    The run is opened when it is first needed; until then it can be described. A run that an agent has named
    (``WANDB_RUN_ID``) keeps its name, and its folder bears it.

    Args:
        root: The folder in which the runs' folders lie.
    """

    def __init__(self, root: str | Path) -> None:
        offline = _is_offline()
        if offline:
            rank_zero_info("W&B: no account found, logging offline; `wandb sync` uploads the run later")
        folder = _folder(Path(root))
        super().__init__(save_dir=folder, offline=offline)
        # W&B writes from a process of its own, which may have started in another working folder.
        self._wandb_init["dir"] = str(folder.absolute())

    def describe(self, group: str, tags: Sequence[str]) -> None:
        """Say what the run belongs to, before it is opened.

        Args:
            group: Its group, unless the user has set ``WANDB_RUN_GROUP``.
            tags: Its tags, beside those in ``WANDB_TAGS``.
        """
        if not os.environ.get("WANDB_RUN_GROUP"):
            self._wandb_init["group"] = group
        own = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        self._wandb_init["tags"] = [tag[:64] for tag in dict.fromkeys([*tags, *own])]  # W&B's longest

    @property
    @rank_zero_experiment
    def experiment(self) -> "Run":
        """The W&B run, opened when it is first asked for.

        Raises:
            ConfigurationError: If the server cannot be reached or refuses the account.
        """
        import wandb

        try:
            opened: Run = super().experiment
            return opened
        except wandb.errors.Error as error:
            raise ConfigurationError(
                f"trainer.logger: W&B's server cannot be used ({one_line(error)}); WANDB_MODE=offline logs "
                "into a folder, which `wandb sync` uploads later"
            ) from error


def describe_runs(loggers: Sequence[Logger], model: Any, data: Any) -> None:
    """Group W&B runs by their setup, and tag them with setup, data and network where these are known.

    Args:
        loggers: Of a Trainer; what is no logger of this kind is left alone.
        model: A module with phases.
        data: Its data module; None for none.
    """
    for logger in loggers:
        if isinstance(logger, RunWandbLogger):
            logger.describe(setup_of(model), _tags(model, data))


def shared_by_runs(logger: Logger) -> bool:
    """Whether the folder of a logger is that of many runs: of all but those that number or name their own."""
    own = isinstance(logger, RunWandbLogger | CSVLogger | TensorBoardLogger)
    return not own and logger.save_dir is not None


def folder_of_run(logger: Logger) -> str:
    """Return the folder of a run in that of its logger, where Lightning's own checkpoints would be, too.

    To be called in every process; what the first one says is right.

    Args:
        logger: One whose folder runs share.
    """
    if logger.version is None:
        _ = getattr(logger, "experiment", None)  # which gives the run its name
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return os.path.join(logger.save_dir or "", str(logger.name), version)


def _tags(model: Any, data: Any) -> list[str]:
    """Return setup, data and network, as far as they are known."""
    net = getattr(model, "net", None)
    backbone = getattr(net, "backbone", net)
    tags = [setup_of(model)]
    tags += [] if data is None else [type(data).__name__.removesuffix("DataModule")]
    name = getattr(backbone, "name", None)
    name = name if isinstance(name, str) else type(backbone).__name__
    return tags if backbone is None else [*tags, name]


def _folder(root: Path) -> Path:
    """Return a folder for a run; one that an agent starts again under its name gets another."""
    given = os.environ.get("WANDB_RUN_ID")
    folder = root / f"wandb-{given or uuid.uuid4().hex[:8]}"
    return folder if not folder.exists() else root / f"{folder.name}-{uuid.uuid4().hex[:8]}"


def _is_offline() -> bool:
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode == "offline"
    if any(os.environ.get(name) for name in _CREDENTIALS):
        return False
    try:
        return not any("wandb" in host for host in netrc.netrc().hosts)
    except (FileNotFoundError, netrc.NetrcParseError):
        return True
