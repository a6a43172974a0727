"""Files that leave a mark where they are run: pickles of every kind, and modules."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Marks:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        """Touch the mark by the shell, as the files that go round do."""
        return os.system, (f"touch '{self.mark}'",)


def raw(content: Any, path: Path) -> None:
    """Write a bare pickle, under whatever name."""
    path.write_bytes(pickle.dumps(content))


def in_zip(content: Any, path: Path) -> None:
    """Write torch's archive."""
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    """Write torch's older sequence of pickles."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


KINDS: dict[str, Callable[[Any, Path], None]] = {"raw": raw, "zip": in_zip, "legacy": legacy}


def poison(path: Path, kind: str, mark: Path) -> Path:
    """Write a checkpoint that looks like one of Lightning's, and runs code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind]({"state_dict": {"x": Marks(mark)}, "pytorch-lightning_version": "2.6.0"}, path)
    return path


def is_armed(path: Path, mark: Path) -> bool:
    """Whether a file would leave the mark, if it were loaded by who trusts it."""
    try:
        torch.load(path, weights_only=False)
    except Exception:  # the mark counts, not what came of it
        pickle.loads(path.read_bytes())
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


def source_that_marks(mark: Path, base: str = "torch.nn.Module") -> str:
    """Return the source of a module that leaves the mark when it is imported."""
    return (
        f"import pathlib, torch, lightning\npathlib.Path({str(mark)!r}).touch()\nimport os\n\n\n"
        f"class Net({base}):\n    pass\n\n\ndef function(*args, **kwargs):\n    return None\n"
    )
