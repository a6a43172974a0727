"""First phases that this run takes from the store, or trains for others."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lit_aux.phases.phase import Phase
from lit_aux.phases.seeding import phase_seed
from lit_aux.phases.state import PhaseResult
from lit_aux.phases.store import PhaseStore, phase_key


class FirstPhaseReuse:
    """One run's dealings with the store, the same on every process.

    Args:
        root: The store's folder.
        poll: Seconds between looks while another run trains the phase.
    """

    def __init__(self, root: str | Path, poll: float = 0.5) -> None:
        self.store = PhaseStore(root)
        self.poll = poll
        self._key: str | None = None

    def look_up(self, trainer: pl.Trainer, model: pl.LightningModule, phase: Phase) -> dict[str, Any] | None:
        """Return what is stored of a phase, waiting where another run is at it; None to train it here.

        To be called in ``on_fit_start`` on every process. A phase without a seed, or over data that cannot
        say what they are, is neither found nor stored.
        """
        fingerprint = getattr(trainer.datamodule, "fingerprint", None)  # type: ignore[attr-defined]
        seed = phase_seed(phase)
        if fingerprint is None or seed is None:
            return None
        broadcast: Any = trainer.strategy.broadcast
        key = broadcast(phase_key(trainer, model, phase, seed, fingerprint(phase.tasks, phase.order)))
        while True:
            # One process asks; all hear the answer again and again, so that no collective call times out.
            answer = broadcast(self.store.claim(key) if trainer.is_global_zero else "")
            if answer != "busy":
                break
            time.sleep(self.poll)
        if answer == "claimed":
            self._key = key
            return None
        content: dict[str, Any] = broadcast(self.store.load(key) if trainer.is_global_zero else {})
        return content

    def keep(
        self, trainer: pl.Trainer, model: pl.LightningModule, result: PhaseResult, logged_steps: int
    ) -> None:
        """Store a finished phase that this run claimed, for others to find."""
        if self._key is not None and trainer.is_global_zero:
            stored = {"result": result.asdict(), "logged_steps": logged_steps}
            self.store.save(self._key, {"state_dict": model.state_dict(), **stored})
        self.release()

    def release(self) -> None:
        """Let others train what this run claimed and has not stored."""
        self._key = None
        self.store.release()
