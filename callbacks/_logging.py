"""Writing numbers through whatever loggers a Trainer has."""

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer


def prefix_of(module: LightningModule) -> str:
    """Return the module's ``log_prefix`` (``"pretrain/"`` inside a phase), empty where it has none."""
    return str(getattr(module, "log_prefix", "") or "")


def log_scalars(trainer: Trainer, module: LightningModule, values: Mapping[str, float]) -> None:
    """Send values to every logger at the step at which the fit loop itself would log."""
    prefix = prefix_of(module)
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics({f"{prefix}{name}": value for name, value in values.items()}, step=step)
