"""What runs that were killed have left in the folders of a Trainer."""

from pathlib import Path

from lit_aux.files import remove_parts
from lit_aux.locks import remove_dead


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
