"""Files of ``torch.save``: written whole, and read so that nothing that they hold is run."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from lit_aux.errors import first_line
from lit_aux.files import atomic_path

_PLAIN = re.compile(
    r"(collections\.(OrderedDict|Counter|defaultdict)|_codecs\.encode|torch\.(\w*Storage|Size|device|dtype"
    r"|Tensor|(b?float|complex|q?u?int)[\w]*|bool|half|double|long|short)|torch\.storage\.\w*Storage"
    r"|torch\._utils\._rebuild\w*|torch\._tensor\._rebuild\w*|torch\.nn\.parameter\.\w+"
    r"|torch\.serialization\._get_layout)"
)
"""Names in files of weights. They tell what to name first; what is loaded is decided by torch alone."""
_CALLS = ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "STOP")
_MOST = 1 << 28  # bytes of a file, or of an entry in an archive, that are looked through


_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of ``torch.save`` begin that was older than 1.6: a number, pickled."""


def write_weights(path: Path, content: Any) -> None:
    """Write a file of ``torch.save`` whole or not at all.

    Args:
        path: The file, in a folder that is there.
        content: What it shall hold.
    """
    # not by the name of the part, which the records in the file would bear
    with atomic_path(path, sync=True) as part, part.open("wb") as file:
        torch.save(content, file)


def read_weights(path: str | Path, *, mmap: bool = False) -> Any:
    """Load a file of ``torch.save`` on the CPU; nothing that it holds is run.

    Args:
        path: The file.
        mmap: Map it into memory instead of reading it.

    Raises:
        Exception: Whatever torch raises; :func:`unreadable` makes words of it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # what came of it is said below
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)


def unreadable(path: str | Path, error: Exception) -> str:
    """Say in words why a file was not loaded.

    Args:
        path: The file.
        error: What :func:`read_weights` raised of it.

    Returns:
        What the file is, to stand behind its name. That of a file which would run code names the function.
        Never torch's advice to load it nevertheless.
    """
    called = code_in(path)
    if called is not None:
        return f"cannot be read: it wants to run code ({called}) when it is loaded"
    if is_old(path):
        return (
            "is in the format of torch before 1.6, which has no checksums; load it with torch and save it "
            "again"
        )
    line = first_line(error)
    if any(word in line for word in ("weights_only", "mmap", "enforce fail", "PytorchStreamReader")):
        line = "it is damaged, or torch.save has not written it"
    return f"is not a readable checkpoint ({line})"


def is_old(path: str | Path) -> bool:
    """Return whether a file is in the format of ``torch.save`` before 1.6.

    Args:
        path: The file.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(_OLD)) == _OLD
    except OSError:
        return False


def code_in(path: str | Path) -> str | None:
    """Return the function that unpickling a file would call, the first that is none of tensors.

    Args:
        path: A file of pickles, one behind the other, or a zip archive that holds some.

    Returns:
        Its dotted name; None where there is none, or no pickle.
    """
    found: str | None = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".pkl") and entry.file_size <= _MOST and found is None:
                        with archive.open(entry) as file:
                            found = _first(file)
        if found is None:  # such a file may be a zip archive and a pickle at the same time
            with open(path, "rb") as file:
                found = _first(file)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return found
    return found


def _first(file: IO[bytes]) -> str | None:
    return next((name for name in _names(file) if not _PLAIN.fullmatch(name)), None)


def _names(file: IO[bytes]) -> Iterator[str]:
    """Yield the names that pickles look up to call them, as far as they can be read; none are looked up."""
    while True:
        looked_up: list[str] = []  # text of other files may look like it, and not like a call
        strings: list[str] = []
        memo: dict[Any, str] = {}
        try:
            for opcode, argument, place in pickletools.genops(file):
                if place is not None and place > _MOST:
                    return
                if opcode.name in ("GLOBAL", "INST"):
                    looked_up.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    looked_up.append(".".join(strings[-2:]) if len(strings) > 1 else "unknown")
                elif opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                    memo[len(memo) if argument is None else argument] = strings[-1] if strings else ""
                elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                    strings.append(memo.get(argument, ""))
                elif isinstance(argument, str):
                    strings.append(argument)
                if opcode.name in _CALLS:
                    yield from looked_up
                    looked_up.clear()
        except Exception:  # the end, or no pickle: anything may be raised of what is none
            return
