"""What a command may write over: its own earlier output, and nothing else."""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_place

PathLike = str | os.PathLike[str]
_LOOKED_AT = 4096
_RULE = re.compile(r"^ +─[─ ]*$", re.MULTILINE)
_CSV_ENDS = ("seeds,runs,converged,failed", "seeds,lower", "allowed,agrees")
"""How the first line of each CSV file ends that ``lit-aux table`` writes."""


def check_output(
    option: str, path: PathLike, *, inputs: Iterable[PathLike] = (), kind: str | None = None
) -> Path:
    """Refuse to write over what a command reads, or over a file of another kind than it writes.

    To be called before anything is computed or written.

    Args:
        option: The option that named the output, for the error.
        path: The output.
        inputs: Files that the command reads.
        kind: What it writes, of ``KINDS``; a file that is there must be empty or of it. None for any.

    Returns:
        The path.

    Raises:
        ConfigurationError: If it is an input, another kind of file, nothing that can be replaced, or no place
            for a file.
    """
    found = check_place(option, path)
    for one in inputs:
        if _same(found, Path(one)):
            raise ConfigurationError(f"{option} {found}: is what the command reads; name another file")
    if not found.exists():
        return found
    if not found.is_file():
        what = "a folder" if found.is_dir() else "a device or pipe"
        raise ConfigurationError(f"{option} {found}: is {what}; name a file")
    if kind is not None and not _is(found, kind):
        raise ConfigurationError(
            f"{option} {found}: is there already, and is no {kind}; name another file, this one is left "
            "as it is"
        )
    return found


def check_folder(option: str, path: PathLike) -> Path:
    """Refuse a folder to write into that is, or lies in, a file.

    Args:
        option: The option that named the folder, for the error.
        path: The folder; it need not be there yet.

    Returns:
        The path.

    Raises:
        ConfigurationError: If there can be no such folder.
    """
    found = check_place(option, path)
    nearest = found
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        where = "is a file" if nearest == found else f"lies in {nearest}, which is a file"
        raise ConfigurationError(f"{option} {found}: {where}; name a folder")
    return found


@contextmanager
def written_to(out: Path, folder: Path | None = None) -> Iterator[None]:
    """Make the folder of ``--out``, and tell in one line where what is written there cannot be.

    Args:
        out: What the option names.
        folder: The folder, where that is not what it names.

    Raises:
        ConfigurationError: Naming it and the reason.
    """
    try:
        (folder or out).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigurationError(f"--out {out}: cannot be written ({error.strerror})") from None


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        if one.exists() and other.exists():
            return one.samefile(other)
    return os.path.abspath(one) == os.path.abspath(other)


def _is(path: Path, kind: str) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
        return not start or KINDS[kind](path, start)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None


def _is_table(path: Path, start: bytes) -> bool:
    text = start.decode(errors="replace")
    first = text.partition("\n")[0].rstrip("\r")
    return text.startswith("**") or first.endswith(_CSV_ENDS) or _RULE.search(text) is not None


def _is_script(path: Path, start: bytes) -> bool:
    return (
        start.startswith(b"#!/bin/bash\n#SBATCH --job-name=")
        and b"# Task I of the array is run I of" in start
    )


def _is_picture(path: Path, start: bytes) -> bool:
    return start.startswith((b"\x89PNG", b"%PDF")) or b"<svg" in start


def _is_weights(path: Path, start: bytes) -> bool:
    """Whether a file holds tensors by name alone, and is no checkpoint of training."""
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return True  # safetensors: the length of a JSON header, then the header
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        content = b"state_dict" if pickled is None else archive.read(pickled)
        return b"state_dict" not in content and b"pytorch-lightning" not in content
    return False


def _is_archive(path: Path, start: bytes) -> bool:
    """Whether a file holds arrays of predictions."""
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/predictions.npy") for name in archive.namelist())
    return False


def _begins(*beginnings: bytes) -> Callable[[Path, bytes], bool]:
    return lambda path, start: start.startswith(beginnings)


KINDS: dict[str, Callable[[Path, bytes], bool]] = {
    "printed table": _is_table,
    "batch script of a sweep": _is_script,
    "picture": _is_picture,
    "report of lit-aux": _begins(b"<!DOCTYPE html>\n<!-- report of lit_aux -->"),
    "file of exported weights": _is_weights,
    "checkpoint": _begins(b"PK\x03\x04"),  # a damaged one too: it is replaced when a run goes on
    "summary of a run": _begins(b'{\n  "phases":'),
    "table of results": _begins(b"run,experiment,setup,seed,"),
    "table of measures": _begins(b"run,phase,step,layer,measure,"),
    "table of a trajectory": _begins(b"method,seed,trained,"),
    "table of mixtures": _begins(b"phase,mixing,task,"),
    "table of predictions": _begins(b"task,input,"),
    "archive of predictions": _is_archive,
    "table of regimes": _begins(b"factor,seed,layer,"),
    "file of regimes": _begins(b'{\n  "penalty":', b'{\n  "options":'),
}
"""How to tell what commands write, from the file and how it begins."""


def check_csv(option: str, path: PathLike, columns: Iterable[str]) -> Path:
    """Refuse to write a CSV file over one that has other columns, or over another kind of file.

    Args:
        option: The option that named the output, for the error.
        path: The output.
        columns: What it will begin with.

    Raises:
        ConfigurationError: If there is such a file.
    """
    found = check_output(option, path)
    if found.exists():
        first = found.read_bytes()[:_LOOKED_AT].partition(b"\n")[0].rstrip(b"\r").decode(errors="replace")
        if first and first != ",".join(columns):
            raise ConfigurationError(
                f"{option} {found}: is there already and begins with {first[:40]!r}; name another folder, "
                "this file is left as it is"
            )
    return found
