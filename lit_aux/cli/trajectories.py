"""``lit-aux trajectories``: why multi-task training helped or hurt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_write
from lit_aux.outputs import check_csv, written_to
from lit_aux.results.sheet import show
from lit_aux.storage import check_place
from lit_aux.trajectories.analysis import Analysis, analyse
from lit_aux.trajectories.reading import read_trajectories
from lit_aux.trajectories.sheets import sheets, tables
from lit_aux.trajectories.study import study_of

_DESCRIPTION = (
    "Compare single-task and multi-task runs of the same tasks: transfer, the generalization gap at equal "
    "training loss, the change of each factor, and whether that would explain the transfer. RUN is a "
    "trajectory.csv, as the callback TrajectoryLog writes, or a folder with some anywhere below. "
    "Which runs are single-task follows from the files; each multi-task method is compared with the same "
    "single-task runs."
)
_OPTIONS: Options = {
    "metric": Option("what is measured on test examples; loss, or a metric's name", str, "accuracy"),
    "select": Option(
        "the validation measure that chooses checkpoints, val_accuracy or val_loss say, or last; by default "
        "the metric on validation examples, the last checkpoints where no run has it"
    ),
    "tasks": Option("compare these tasks only; give them after the runs", list[str]),
    "phase": Option("of runs of several phases; the last one by default"),
    "out": Option("folder of the tables and pictures", str, "trajectories"),
    "format": Option("of the pictures", Literal["png", "svg", "pdf"], "png"),
}


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux trajectories``."""
    made = command_parser("trajectories", _DESCRIPTION, _OPTIONS)
    made.add_argument("runs", type=str, nargs="*", metavar="RUN", help="files, or folders with runs")
    return made


def run(arguments: Sequence[str]) -> int:
    """Carry out ``lit-aux trajectories``.

    Args:
        arguments: What follows ``trajectories``.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: For what is unknown or impossible, or a file that cannot be read or written.
    """
    given = parse(parser(), arguments, missing={"--tasks": "name tasks"})
    if not given.runs:
        where = " before --tasks" if given.tasks else ""
        raise ConfigurationError(
            f"RUN: nothing is given; name folders of single-task and multi-task runs{where}"
        )
    out = check_place("--out", given.out)
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"--out {out}: is a file; name a folder")
    runs, notes = read_trajectories(given.runs, given.phase)
    found = analyse(study_of(runs, given.tasks), given.metric, given.select)
    show(sheets(found))
    for note in (*notes, *found.notes):
        print(f"note: {note}")
    _write(found, out, given.format)
    return 0


def _write(found: Analysis, out: Path, kind: str) -> None:
    """Write tables and pictures, and say where they are."""
    from lit_aux.drawing.style import save
    from lit_aux.figures.trajectories import figures_of_study

    made = tables(found)
    for name, sheet in made.items():
        check_csv("--out", out / name, sheet.columns)
    with written_to(out):
        for name, sheet in made.items():
            atomic_write(out / name, sheet.render("csv"))
    print(f"tables: {', '.join(str(out / name) for name in made)}")
    for drawn in figures_of_study(found):
        print(f"picture: {save(drawn.figure, out / f'{drawn.name}.{kind}')}")
