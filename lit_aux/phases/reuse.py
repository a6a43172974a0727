"""First phases that this run takes from the store, or trains for others."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_aux.errors import ConfigurationError
from lit_aux.identity.encoder import UnidentifiedError
from lit_aux.phases.identity import describe_phase
from lit_aux.phases.phase import Phase
from lit_aux.phases.seeding import phase_seed
from lit_aux.phases.state import PhaseResult, check_finite, check_fit, result_of
from lit_aux.phases.store import PhaseStore


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
        self._description: dict[str, str] = {}

    def look_up(
        self, trainer: pl.Trainer, model: pl.LightningModule, phase: Phase, hooks: Iterable[int]
    ) -> dict[str, Any] | None:
        """Return what is stored of a phase, waiting where another run is at it; None to train it here.

        To be called in ``on_fit_start`` on every process. A phase without a seed, or over data that cannot
        say what they are, is neither found nor stored.

        Args:
            trainer: The Trainer of the fit that has begun.
            model: Its module.
            phase: The first phase.
            hooks: ``id`` of the hooks that the module had before the fit.
        """
        broadcast: Any = trainer.strategy.broadcast
        key = broadcast(self._identify(trainer, model, phase, hooks) if trainer.is_global_zero else None)
        if key is None:
            return None
        unusable = 0
        while True:
            # One process asks; all hear the answer again and again, so that no collective call times out.
            answer = broadcast(self.store.claim(key, unusable) if trainer.is_global_zero else "")
            if answer == "busy":
                if trainer.is_global_zero:
                    self.store.tell(key, f"phase {phase.name}, which another run trains", rank_zero_info)
                time.sleep(self.poll)
            elif answer == "found":
                unusable = self.store.mark(key)
                content: dict[str, Any] | None
                content = broadcast(self._stored(key, model, phase) if trainer.is_global_zero else None)
                if content is not None:
                    return content
            else:
                break
        if self.store.path(key).is_dir():
            self.store.release()  # it stays as it is, and nothing is stored
            return None
        self._key = key
        if trainer.is_global_zero and not unusable:
            self._say_what_differs(phase)
        return None

    def _stored(self, key: str, model: pl.LightningModule, phase: Phase) -> dict[str, Any] | None:
        """Return what is stored of a phase; None, and say why, where it cannot be used."""
        path = self.store.path(key)
        try:
            content = self.store.load(key)
            result_of(content.get("result"), f"trainer.phase_store: {str(path)!r}")
            if not isinstance(content.get("logged_steps"), int):
                raise ConfigurationError(f"trainer.phase_store: {str(path)!r} lacks 'logged_steps'")
            check_fit(model.state_dict(), content["state_dict"], "trainer.phase_store", path)
            check_finite(model, content["state_dict"], "trainer.phase_store", path)
        except ConfigurationError as error:
            rank_zero_warn(f"{error}; phase {phase.name} is trained anew")
            return None
        return content

    def _identify(
        self, trainer: pl.Trainer, model: pl.LightningModule, phase: Phase, hooks: Iterable[int]
    ) -> str | None:
        """Return the phase's key; None, and say why, where it has none."""
        data, seed = trainer.datamodule, phase_seed(phase)  # type: ignore[attr-defined]
        reason = ""
        if seed is None:
            return None
        if not hasattr(data, "fingerprint"):
            reason = (
                f"data: {type(data).__name__} has no fingerprint" if data is not None else "no data module"
            )
        else:
            try:
                described = describe_phase(trainer, model, phase, seed, hooks)
                self._description = described.flat()
                return described.key()
            except UnidentifiedError as error:
                reason = str(error)
        rank_zero_info(f"Phase {phase.name} is not shared with other runs: {reason}")
        return None

    def _say_what_differs(self, phase: Phase) -> None:
        """Say why none of the stored phases is this one."""
        differing = self.store.nearest(self._description)
        if differing:
            (name, (before, now)), *others = differing.items()
            more = f", and {len(others)} more" if others else ""
            rank_zero_info(
                f"Phase {phase.name} is trained anew; the stored one that is nearest differs in {name} "
                f"({before or 'absent'} there, {now or 'absent'} here){more}"
            )

    def keep(
        self, trainer: pl.Trainer, model: pl.LightningModule, result: PhaseResult, logged_steps: int
    ) -> None:
        """Store a finished phase that this run claimed, for others to find."""
        if self._key is not None and trainer.is_global_zero:
            stored: dict[str, Any] = {"result": result.asdict(), "logged_steps": logged_steps}
            stored["description"] = self._description
            self.store.save(self._key, {"state_dict": model.state_dict(), **stored})
        self.release()

    def release(self) -> None:
        """Let others train what this run claimed and has not stored."""
        self._key = None
        self.store.release()
