"""How a fit went, brought back from processes that a strategy started to the one that waits for them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from lit_aux.callbacks._processes import fetch, read, write
from lit_aux.errors import ConfigurationError

if TYPE_CHECKING:
    from lit_aux.phases.state import PhaseResult
    from lit_aux.phases.trainer import PhaseTrainer

_FILE = ".brought_back"


def starts_processes(trainer: "PhaseTrainer") -> bool:
    """Whether the strategy trains in processes of its own (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``)."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def check_processes(trainer: "PhaseTrainer", model: LightningModule, phases: int) -> None:
    """Refuse what cannot be brought back, and settle the run's folder, which all processes must know.

    Raises:
        ConfigurationError: For several phases, each of which goes on from the one before, and for students.
    """
    if not starts_processes(trainer):
        return
    if phases > 1:
        raise ConfigurationError(
            "trainer.strategy: strategies that spawn or fork cannot run several phases; use strategy=ddp"
        )
    if getattr(model, "students", None) is not None:
        raise ConfigurationError(
            "trainer.strategy: students train in this process, and what they find would be lost in another; "
            "use strategy=auto"
        )
    folder = _folder(trainer)
    if trainer.is_global_zero:  # what lies there now is of another fit, or of whoever sent the folder
        (folder / _FILE).unlink(missing_ok=True)


def bring_back(trainer: "PhaseTrainer") -> None:
    """In a process that was started, write down how the fit went; everywhere else, do nothing."""
    if starts_processes(trainer) and trainer.is_global_zero:
        loops = trainer.fit_loop.state_dict()
        write({"result": trainer.phase_results[-1].asdict(), "loops": loops}, str(_folder(trainer) / _FILE))


def take_back(
    trainer: "PhaseTrainer", result: "PhaseResult", model: LightningModule, data: LightningDataModule | None
) -> bool:
    """In the process that waited, take over how the fit went.

    Args:
        trainer: The Trainer, whose loops go on from there.
        result: What is known of the phase, to be filled in.
        model: The module.
        data: The data module, which only the other processes have met.

    Returns:
        Whether there was something to take.
    """
    path = _folder(trainer) / _FILE
    if not starts_processes(trainer) or not path.exists():
        return False
    content: dict[str, Any] = read(str(path))
    vars(result).update(content["result"])
    trainer.fit_loop.load_state_dict(content["loops"])
    if data is not None:
        trainer._data_connector.attach_datamodule(model, data)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        fetch(callback)
    return True


def _folder(trainer: "PhaseTrainer") -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir)
