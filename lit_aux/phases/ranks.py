"""Several processes: what is brought back from those that a strategy starts, and one that dies."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.multiprocessing.spawn import ProcessExitedException

from lit_aux.callbacks._processes import fetch, read, write
from lit_aux.errors import ConfigurationError, RankError, causes, one_line, signal_name
from lit_aux.phases.phased import phased
from lit_aux.phases.state import PhaseResult

_FILE = ".brought_back"
_EVERY = 0.25
_GRACE = 10.0
"""Seconds that a process goes on whose starter has ended: it may be about to end well itself."""
_OWN_ERROR = 3.0
"""Seconds in which a process that finds the same mistake as another says so itself."""
_LOST = re.compile(
    r"connection (?:was )?(?:closed|reset)|connection refused|remote process exited|NCCL.*remote", re.I
)


@contextmanager
def watched(trainer: Trainer) -> Iterator[None]:
    """Look after the processes that train together while a block runs.

    The one that started others ends the run within a second where one of them ends badly; those that were
    started end themselves where it is gone. Where something else starts the processes (``torchrun``, SLURM),
    it looks after them, and a lost connection is told in one line.

    Raises:
        RankError: Where the connection to another process is lost, or one that a strategy spawned has died.
    """
    if trainer.world_size < 2:
        yield
        return
    watch = _watch(trainer)
    if watch is not None:
        watch.start()
    try:
        yield
    except Exception as error:
        known = _lost(error)
        if known is None and watch is None:
            raise
        if watch is not None:
            watch.look(patience=4.0 if known else 0.3)
        if known is None:
            raise
        raise known from error
    finally:
        if watch is not None:
            watch.over.set()


def _watch(trainer: Trainer) -> "_Watch | None":
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return None
    environment = launcher.cluster_environment
    if environment.local_rank() == 0:
        return None if environment.creates_processes_externally else _Children(launcher)
    # started by the script of the first process, which sets this and is this one's parent
    started = type(environment).__name__ == "LightningEnvironment" and trainer.num_nodes == 1
    return _Parent(trainer.global_rank) if started else None


class _Watch(threading.Thread):
    """Ends this process, with one line, when another one is dead."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()

    def dead(self) -> str | None:
        """Say in words which process has died; None where none has."""
        raise NotImplementedError

    def end(self) -> None:
        """End the other processes."""

    def run(self) -> None:
        """Look until the block has ended."""
        while not self.over.wait(_EVERY):
            self.look()

    def look(self, patience: float = 0.0) -> None:
        """End this process if another is dead, or is so within some seconds.

        Args:
            patience: Seconds: a connection is lost before the process is seen to be gone.
        """
        limit = time.monotonic() + patience
        while (found := self.dead()) is None:
            if time.monotonic() >= limit:
                return
            time.sleep(0.05)
        with _ENDING:
            print(f"lit-aux: error: {found}", file=sys.stderr, flush=True)
            self.end()
            os._exit(1)


_ENDING = threading.Lock()


class _Children(_Watch):
    """Of the processes that this one has started."""

    def __init__(self, launcher: _SubprocessScriptLauncher) -> None:
        super().__init__()
        self._launcher = launcher
        self._since = 0.0

    def dead(self) -> str | None:
        """Say which one has died; one that failed by itself has said why, and this one may be about to."""
        for rank, process in enumerate(self._launcher.procs, 1):
            if code := process.poll():
                self._since = self._since or time.monotonic()
                if code < 0 or time.monotonic() - self._since > _OWN_ERROR:
                    return f"process {process.pid} (rank {rank}) {_how(process)}; the run ends"
        return None

    def end(self) -> None:
        """Kill what is left: it waits for the dead one."""
        for process in self._launcher.procs:
            with suppress(OSError):
                process.kill()


class _Parent(_Watch):
    """Of the process that has started this one."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._parent, self._rank, self._since = os.getppid(), rank, 0.0
        self._failed = False

    def dead(self) -> str | None:
        """Say that it has died, once it has been gone for a while."""
        if os.getppid() == self._parent:
            return None
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since < _GRACE and not self._failed:
            return None
        return f"process {self._parent} (rank 0) was killed; rank {self._rank} ends"

    def look(self, patience: float = 0.0) -> None:
        """End at once where the block has failed already."""
        self._failed = self._failed or patience > 0
        super().look(patience)


def _how(process: "Popen[Any]") -> str:
    code = process.returncode
    return f"ended with code {code}" if code > 0 else f"was killed by {signal_name(-code)}"


def _lost(error: BaseException | None) -> RankError | None:
    """Return the error for people where another process has gone."""
    for cause in causes(error):
        if isinstance(cause, ConfigurationError):
            return None
        if isinstance(cause, ProcessExitedException):
            killed = cause.signal_name
            how = f"was killed by {killed}" if killed else f"ended with {cause.exit_code}"
            return RankError(f"process {cause.error_pid} (rank {cause.error_index}) {how}; the run ends")
        if isinstance(cause, RuntimeError) and _LOST.search(str(cause)):
            ended = "another process of this run has ended, and the connection to it is lost"
            return RankError(f"{ended} ({one_line(cause)[:160]})")
    return None


def starts_processes(trainer: Trainer) -> bool:
    """Whether the strategy trains in processes of its own (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``)."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def check_processes(trainer: Trainer, model: LightningModule, phases: int) -> None:
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
    if phased(model).trains_itself:
        raise ConfigurationError(
            "trainer.strategy: students train in this process, and what they find would be lost in another; "
            "use strategy=auto"
        )
    folder = _folder(trainer)
    if trainer.is_global_zero:  # what lies there now is of another fit, or of whoever sent the folder
        (folder / _FILE).unlink(missing_ok=True)


def bring_back(trainer: Trainer, result: PhaseResult) -> None:
    """In a process that was started, write down how the fit went; everywhere else, do nothing."""
    if starts_processes(trainer) and trainer.is_global_zero:
        loops = trainer.fit_loop.state_dict()
        write({"result": result.asdict(), "loops": loops}, str(_folder(trainer) / _FILE))


def take_back(
    trainer: Trainer, result: PhaseResult, model: LightningModule, data: LightningDataModule | None
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


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.log_dir or trainer.default_root_dir)
