"""The folders of a Trainer: nothing of others is written over, and what killed runs have left goes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lit_aux.files import remove_parts
from lit_aux.locks import remove_dead
from lit_aux.outputs import check_output
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased

_REPORTED = (
    ("summary.json", "summary of a run"),
    ("summary.png", "picture"),
    ("results.csv", "table of results"),
    ("measures.csv", "table of measures"),
)


def check_places(
    root: str | Path, *, logger: bool, model: Any, phases: Iterable[Phase], callbacks: Iterable[Callback]
) -> None:
    """Refuse, before anything trains, to write over what is not a fit's own, or what this one reads.

    A fit with a logger has a new folder; only checkpoints may go elsewhere.

    Args:
        root: The Trainer's ``default_root_dir``.
        logger: Whether there is one.
        model: The module, whose ``pretrained`` names a file that is read.
        phases: Its phases.
        callbacks: Those of the Trainer and of the phases; ``output_files`` of one are those that it writes,
            and their kinds.

    Raises:
        ConfigurationError: If there is such a file; the message names it.
    """
    root, callbacks = Path(root), list(callbacks)
    file = phased(model).pretrained
    read = [file] if isinstance(file, str | Path) else []
    for callback in callbacks:
        if isinstance(callback, PhaseCheckpoint) and (callback.dirpath is not None or not logger):
            folder = root / "checkpoints" if callback.dirpath is None else Path(callback.dirpath)
            option = "default_root_dir" if callback.dirpath is None else "dirpath"
            for phase in phases:
                check_output(option, folder / f"{phase.name}.ckpt", inputs=read, kind="checkpoint")
    if logger:
        return
    own = (written for callback in callbacks for written in getattr(callback, "output_files", ()))
    for name, kind in (*_REPORTED, *own):
        check_output("default_root_dir", root / name, kind=kind)


def remove_leftovers(root: str | Path) -> None:
    """Remove halves of files, and locks of tables, that nobody writes any more, in the folders of runs.

    Args:
        root: The Trainer's ``default_root_dir``; its runs are folders in it, or it is one itself.
    """
    runs = [Path(root), *(folder for folder in _folders(Path(root)) if not folder.is_symlink())]
    for run in runs:
        remove_parts(run)
        remove_dead(run, ".results.csv.lock")
        if (checkpoints := run / "checkpoints").is_dir():
            for folder in (checkpoints, *_folders(checkpoints)):
                remove_parts(folder)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []
