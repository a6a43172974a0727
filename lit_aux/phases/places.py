"""Where a fit without a logger writes: into one folder, beside what is there already."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lit_aux.outputs import check_csv, check_output
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import Phase

_WRITTEN = {
    "TrajectoryLog": ("trajectory.csv", "table of a trajectory"),
    "WiSEFT": ("wise_ft.csv", "table of mixtures"),
}
"""By the name of a callback's class, the file that it writes, and what it is."""


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
        callbacks: Those of the Trainer and of the phases.

    Raises:
        ConfigurationError: If there is such a file; the message names it.
    """
    from lit_aux.experiments.results import ADDED, COLUMNS, MEASURE_COLUMNS

    root, callbacks = Path(root), list(callbacks)
    file = getattr(model, "pretrained", None)
    read = [file] if isinstance(file, str | Path) else []
    for callback in callbacks:
        if isinstance(callback, PhaseCheckpoint) and (callback.dirpath is not None or not logger):
            folder = root / "checkpoints" if callback.dirpath is None else Path(callback.dirpath)
            option = "default_root_dir" if callback.dirpath is None else "dirpath"
            for phase in phases:
                check_output(option, folder / f"{phase.name}.ckpt", inputs=read, kind="checkpoint")
    if logger:
        return
    check_output("default_root_dir", root / "summary.json", kind="summary of a run")
    check_output("default_root_dir", root / "summary.png", kind="picture")
    check_csv("default_root_dir", root / "results.csv", COLUMNS, ADDED)
    check_csv("default_root_dir", root / "measures.csv", MEASURE_COLUMNS)
    for callback in callbacks:
        if found := _WRITTEN.get(type(callback).__name__):
            check_output("default_root_dir", root / found[0], kind=found[1])
