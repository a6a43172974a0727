"""Pictures and tables for loggers that take some."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_aux.callbacks._measurements import prefix_of


@runtime_checkable
class _TakesImages(Protocol):
    """A logger such as W&B's."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Take pictures by the paths of their files."""


@runtime_checkable
class _TakesTables(Protocol):
    """A logger such as W&B's."""

    def log_table(
        self, key: str, columns: list[str], data: list[list[Any]], *, step: int | None = None
    ) -> None:
        """Take a table by its rows."""


def log_picture(trainer: Trainer, module: LightningModule, name: str, path: Path) -> None:
    """Send a picture to W&B, TensorBoard, and loggers with the same methods, at the fit's step.

    Args:
        trainer: In a fit, in its first process.
        module: Its module, whose ``log_prefix`` precedes the name.
        name: Of the picture.
        path: The PNG.
    """
    key, step = f"{prefix_of(module)}{name}", trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, _pixels(path), step, dataformats="HWC")
        elif isinstance(logger, _TakesImages):
            logger.log_image(key, [str(path)], step=step)


def log_table(
    trainer: Trainer,
    module: LightningModule,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Send a table to W&B, and loggers with the same method, at the fit's step.

    Args:
        trainer: In a fit, in its first process.
        module: Its module, whose ``log_prefix`` precedes the name.
        name: Of the table.
        columns: The names of its columns.
        rows: What they hold; NaN is left empty.
    """
    key, step = f"{prefix_of(module)}{name}", trainer.fit_loop.epoch_loop._batches_that_stepped
    data = [[None if value != value else value for value in row] for row in rows]
    for logger in trainer.loggers:
        if isinstance(logger, _TakesTables):
            logger.log_table(key, list(columns), data, step=step)


def _pixels(path: Path) -> Any:
    """Return a picture as uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
