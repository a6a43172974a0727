"""Disks that are full or may not be written, told in one line that names the place."""

import errno
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from unicodedata import category

from lit_aux.errors import ConfigurationError, causes

_KINDS = {
    errno.ENOSPC: "no space is left on the disk; free some, or name another folder",
    errno.EDQUOT: "your disk quota is used up; free some space, or name another folder",
    errno.EFBIG: "the file would be larger than is allowed here; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; name another folder",
    errno.EACCES: "permission is denied; name another place, or ask for permission",
    errno.EPERM: "it is not permitted here; name another place",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TORCH = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|basic_ios::clear: iostream error")
_PROBE = 1 << 16  # bytes
_LONGEST = 255  # bytes of the name of a file
TOO_LONG = "is longer than the name of a file may be"


_PSEUDO = ("/proc", "/sys", "/dev")
"""File systems that hold no files; ``/dev/shm`` holds some."""


class StorageError(RuntimeError):
    """A file could not be written; the message is one line that names it and says what would help."""


def storage_trouble(error: BaseException | str | None, folder: str | Path) -> StorageError | None:
    """Return the error for people where a disk is full, read-only or closed to this user; else None.

    Args:
        error: What was raised, with all that it came from, or the line that another process said.
        folder: Where files were written, for errors that name no file.
    """
    if isinstance(error, str):
        kind = next(
            (k for k in _KINDS if os.strerror(k).lower() in error.lower() or _KINDS[k] in error), None
        )
        if kind not in _FULL:  # a file that a run may not read or write is its own affair
            return None
        return StorageError(error if str(folder) in error else _line(folder, _KINDS[kind]))
    for cause in causes(error):
        if isinstance(cause, StorageError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _KINDS:
            place = cause.filename2 or cause.filename
            return StorageError(_line(folder if place is None else os.fsdecode(place), _KINDS[cause.errno]))
        if isinstance(cause, RuntimeError) and _TORCH.search(str(cause)):
            trouble = writable(Path(folder))
            return trouble or StorageError(
                _line(folder, "a checkpoint could not be written whole; is the disk full?")
            )
    return None


def writable(folder: Path) -> StorageError | None:
    """Try to write into a folder, or the nearest one that is there; return what is wrong, if anything is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{uuid.uuid4().hex}.probe"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * _PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return storage_trouble(error, folder)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _line(place: str | Path, what: str) -> str:
    return f"{place}: {what}"


def check_given(option: str, given: str | os.PathLike[str]) -> None:
    """Refuse a name of a file or folder to read that is empty: the working folder would be read.

    Args:
        option: Its name.
        given: As it was typed.

    Raises:
        ConfigurationError: If it is.
    """
    if not os.fspath(given).strip():
        raise ConfigurationError(f"{option} {os.fspath(given)!r}: names no file or folder")


def check_printable(option: str, value: str) -> None:
    """Refuse text that would end a line, or does not show what it is.

    Args:
        option: Its name.
        value: As it was typed.

    Raises:
        ConfigurationError: If a character is a control character, or ends lines or paragraphs.
    """
    odd = next((sign for sign in value if category(sign) in ("Cc", "Cs", "Zl", "Zp")), None)
    if odd is not None:
        raise ConfigurationError(f"{option} {value!r}: holds the control character {odd!r}; leave it out")


def is_too_long(text: str) -> bool:
    """Return whether a part of a path is longer than the name of a file may be."""
    return any(len(os.fsencode(part)) > _LONGEST for part in text.split(os.sep))


def check_place(option: str, given: str | os.PathLike[str]) -> Path:
    """Return where an option wants to have something written, refusing what can be no such place.

    Args:
        option: Its name.
        given: A file or folder that may not be there yet, as it was typed.

    Raises:
        ConfigurationError: For nothing at all, the root folder, a name that no file can have, and what is in
            a file system of the kernel's (``/proc``, ``/sys``, ``/dev``).
    """
    if not isinstance(given, str | os.PathLike):
        raise ConfigurationError(f"{option}: {given!r} is no name of a file or folder")
    text = os.fspath(given)
    if not text.strip():
        raise ConfigurationError(f"{option}: {text!r} names nothing; name a file or folder to write to")
    check_printable(option, text)
    path = Path(text)
    if is_too_long(text):
        raise ConfigurationError(f"{option}: {text[:40]!r}... {TOO_LONG}")
    found = Path(os.path.realpath(path))
    if found == found.parent:
        raise ConfigurationError(f"{option} {text}: is the root folder; name a file or folder in your own")
    for folder in map(Path, _PSEUDO):
        if found.is_relative_to(folder) and not found.is_relative_to("/dev/shm"):
            raise ConfigurationError(f"{option} {text}: {folder} holds no files; name another place")
    return path
