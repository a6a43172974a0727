"""First phases that were trained before, found again by what went into them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.files import remove_parts
from lit_aux.locks import Lock, Say, remove_dead
from lit_aux.phases.state import read_checkpoint
from lit_aux.pickles import write_weights

_COMPARED = 50
"""How many stored phases, the newest, are looked at to say what differs."""


class PhaseStore:
    """Finished phases in a folder, one file each, named by a hash of configuration, data and seed.

    Several processes may share the folder: one of those that ask for the same phase trains it, the others
    wait and load it.

    Args:
        root: The folder; made when the first phase is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._lock: Lock | None = None
        self._asked: dict[str, Lock] = {}
        self._tidy = False

    def path(self, key: str) -> Path:
        """Return the file in which the phase of this key is, or would be."""
        return self.root / f"{key}.ckpt"

    def claim(self, key: str, unusable: int = 0) -> str:
        """Ask for a phase without waiting.

        Args:
            key: The phase.
            unusable: :meth:`mark` of a file that cannot be used: as long as there is no other, the phase is
                trained anew.

        Returns:
            ``"found"``: it is there. ``"claimed"``: it is this process's to train; call :meth:`release` in
            the end. ``"busy"``: another process trains it; ask again.

        Raises:
            ConfigurationError: If there can be no such folder.
        """
        if self.mark(key) not in (0, unusable):
            return "found"
        lock = self._asked.setdefault(key, Lock(self.root / f"{key}.lock"))
        try:
            self.tidy()
            self.root.mkdir(parents=True, exist_ok=True)
            free = lock.acquire()
        except OSError as error:
            raise ConfigurationError(
                f"trainer.phase_store: {str(self.root)!r} cannot be used ({error.strerror}); name a folder, "
                "or false for none"
            ) from error
        if not free:
            return "busy"
        if self.mark(key) not in (0, unusable):  # stored between the look and the lock
            lock.release()
            return "found"
        self._lock = lock
        return "claimed"

    def mark(self, key: str) -> int:
        """Return what tells the file of a phase from one that takes its place; 0 where there is none."""
        try:
            return self.path(key).stat().st_mtime_ns
        except OSError:
            return 0

    def tidy(self) -> None:
        """Remove, once, what processes have left that were killed; what others are at stays."""
        if not self._tidy:
            self._tidy = True
            remove_parts(self.root)
            remove_dead(self.root)
            with suppress(OSError):  # there is none, or phases are stored
                self.root.rmdir()

    def tell(self, key: str, what: str, say: Say) -> None:
        """Say now and then which process is at a phase."""
        self._asked[key].tell(what, say)

    def release(self) -> None:
        """Let others train the phase that this process claimed, if it did not store it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            with suppress(OSError):  # not empty: other phases are stored
                self.root.rmdir()

    def save(self, key: str, content: Mapping[str, Any]) -> None:
        """Store a finished phase, whole or not at all."""
        write_weights(self.path(key), dict(content))

    def load(self, key: str) -> dict[str, Any]:
        """Load a stored phase on the CPU.

        Raises:
            ConfigurationError: If the file is damaged, or holds no weights.
        """
        return read_checkpoint(self.path(key), "trainer.phase_store")

    def nearest(self, description: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
        """Return what tells a phase from the stored one that is most like it.

        Args:
            description: Of the phase, values by name.

        Returns:
            By name, the stored phase's value and this one's, None where there is none; empty where no phase
            is stored.
        """
        marks = {path: self.mark(path.stem) for path in self.root.glob("*.ckpt")}
        files = sorted(marks, key=lambda path: marks[path])[-_COMPARED:]
        found: list[dict[str, tuple[str | None, str | None]]] = []
        for file in files:
            with suppress(ConfigurationError):  # damaged, or of another kind: it is not what was asked for
                stored = read_checkpoint(file, "phase_store").get("description", {})
                if stored and isinstance(stored, dict):
                    found.append(differences(stored, description))
        return min(found, key=len, default={})


def differences(
    before: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return by name the values that differ, before and now; options come before what follows from them."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    derived = ("digest of ", "code of ", "version of ")

    def last(name: str) -> bool:
        """Whether it follows from others, or tells no value."""
        told = (before.get(name) or "", now.get(name) or "")
        return name.startswith(derived) or "made by" in name or any(v.startswith("= ") for v in told)

    names.sort(key=lambda name: (last(name), name.count("."), name))
    return {name: (before.get(name), now.get(name)) for name in names}
