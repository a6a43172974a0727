"""Files that appear whole or not at all, whatever happens to the process that writes them."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PART = re.compile(r"\..+\.[0-9a-f]{32}\.part")
_ABANDONED = 24 * 3600.0
"""Seconds after which a part is nobody's, on file systems that cannot say who holds it."""


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a path beside a file; what is written there takes the file's place when the block has ended well.

    Until then the file is as it was. Nothing else is left where the block raises; what a process leaves that
    is killed, the next writer of the file removes, or :func:`remove_parts`.

    Args:
        path: The file; its folder is there.
        sync: Whether it shall be on the disk before it takes the place, lest a loss of power leave neither.

    Raises:
        OSError: If it cannot be put in its place.
    """
    remove_parts(path.parent, path.name)
    part, held = _new_part(path)
    mode = part.stat().st_mode  # as the umask has it; some writers close their files to everybody else
    try:
        yield part
        part.chmod(mode)
        if sync:
            _to_disk(part)
        part.replace(path)
    finally:
        os.close(held)
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside another; it takes the other's place when the block has ended well.

    Until then the other is as it was. Nothing else is left where the block raises.

    Args:
        path: The folder, which need not be there; what it lies in is.

    Raises:
        OSError: If it cannot be put in its place.
    """
    part, former = (path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for _ in range(2))
    part.mkdir()
    mode = part.stat().st_mode & 0o666
    try:
        yield part
        for file in part.iterdir():
            file.chmod(mode)
            _to_disk(file)
        if path.exists():
            path.replace(former)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if former.exists() and not path.exists():
            former.replace(path)
        shutil.rmtree(former, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Args:
        path: The file; its folder is there.
        content: What it shall hold; text is written as UTF-8.

    Raises:
        OSError: If it cannot be written; the file is as before then.
    """
    with atomic_path(path, sync=True) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_parts(folder: Path, name: str | None = None) -> None:
    """Remove what processes that were killed have left of files in a folder; what is being written stays.

    Args:
        folder: The folder; nothing is done where there is none.
        name: Only parts of the file of this name.
    """
    for part in _parts(folder):
        if name is None or part.name[1:-38] == name:  # a dot before, .<32 digits>.part behind
            with suppress(OSError):
                _remove_if_abandoned(part)


def _new_part(path: Path) -> tuple[Path, int]:
    """Make the file that becomes another, and say that somebody is at it until this process ends."""
    while True:
        # process numbers are not enough: machines that share a folder have the same ones
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        held = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _hold(held) is not False and os.fstat(held).st_nlink:
            return part, held
        os.close(held)  # taken for abandoned in the instant before it was held


def _parts(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if _PART.fullmatch(entry.name)]
    except OSError:
        return []


def _remove_if_abandoned(part: Path) -> None:
    file = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        nobodys = _hold(file)
        if nobodys is None:
            nobodys = time.time() - os.fstat(file).st_mtime > _ABANDONED
        if nobodys:
            part.unlink(missing_ok=True)
    finally:
        os.close(file)


def _hold(file: int) -> bool | None:
    """Lock an open file; return whether it was nobody's, None where files cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
