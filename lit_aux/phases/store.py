"""First phases that were trained before, found again by what went into them."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.files import remove_parts
from lit_aux.identity.encoder import UnidentifiedError
from lit_aux.locks import Lock, Say, remove_dead
from lit_aux.phases.identity import describe_phase
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import Fingerprinted
from lit_aux.phases.state import PhaseResult, check_finite, check_fit, read_checkpoint, result_of
from lit_aux.pickles import read_weights, unreadable, write_weights

Differences = dict[str, tuple[str | None, str | None]]
"""What was, and is, by name; None where there is none."""
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

    def nearest(self, description: Mapping[str, str]) -> Differences:
        """Return what tells a phase from the stored one that is most like it.

        Args:
            description: Of the phase, values by name.

        Returns:
            By name, the stored phase's value and this one's, None where there is none; empty where no phase
            is stored.
        """
        marks = {path: self.mark(path.stem) for path in self.root.glob("*.ckpt")}
        files = sorted(marks, key=lambda path: marks[path])[-_COMPARED:]
        found: list[Differences] = []
        for file in files:
            with suppress(ConfigurationError):  # damaged, or of another kind: it is not what was asked for
                stored = read_checkpoint(file, "phase_store").get("description", {})
                if stored and isinstance(stored, dict):
                    found.append(differences(stored, description))
        return min(found, key=len, default={})


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> Differences:
    """Return by name the values that differ, before and now; options come before what follows from them."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    derived = ("digest of ", "code of ", "version of ")

    def last(name: str) -> bool:
        """Whether it follows from others, or tells no value."""
        told = (before.get(name) or "", now.get(name) or "")
        return name.startswith(derived) or "made by" in name or any(v.startswith("= ") for v in told)

    names.sort(key=lambda name: (last(name), name.count("."), name))
    return {name: (before.get(name), now.get(name)) for name in names}


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
        data, seed = trainer.datamodule, phase.seed()  # type: ignore[attr-defined]
        if seed is None:
            return None
        if not isinstance(data, Fingerprinted):
            name = type(data).__name__
            reason = "no data module" if data is None else f"data: {name} has no fingerprint"
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


# Students pretrain many seeds as one batch: an entry for each, in a file of its own


@contextmanager
def claimed_files(files: Iterable[Path], *, wait: bool = True) -> Iterator[bool]:
    """Be the only process that makes these files; wait while another makes one of them.

    Within, look again which of them are missing. A process that is killed leaves its claims to the others.

    Args:
        files: Those that are missing; their folder is made.
        wait: Whether to wait; else others are let do what they do.

    Yields:
        Whether they are this process's to make: always, where it waits.
    """
    with ExitStack() as held:
        for path in sorted(set(files)):  # all in the same order, so that no two wait for each other
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(path.with_name(f".{path.name}.lock"))
            if wait:
                lock.wait(f"the pretrained network {path.name}")
            elif not lock.acquire():
                yield False
                return
            held.callback(lock.release)
        yield True


def read_tensor(path: Path) -> Tensor:
    """Read the weights of one network.

    Raises:
        ConfigurationError: If the file is damaged or holds something else, naming it.
    """
    try:
        found = read_weights(path)
    except Exception as error:
        raise ConfigurationError(
            f"{path}: {unreadable(path, error)}; remove it, and it is trained again"
        ) from None
    if not isinstance(found, Tensor):
        raise ConfigurationError(
            f"{path}: holds no weights of pretraining; remove it, and it is trained again"
        )
    return found


def write_tensor(path: Path, weights: Tensor) -> None:
    """Write weights whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, weights)
