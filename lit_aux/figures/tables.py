"""The rows that a figure is drawn from: read, without failed ones, narrowed down, by experiment."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_aux.drawing.style import TIMES
from lit_aux.errors import ConfigurationError
from lit_aux.experiments.grids import EXPERIMENTS
from lit_aux.results import selection
from lit_aux.runs.reading import read_measures, read_rows
from lit_aux.runs.typed import Row
from lit_aux.storage import check_given

NETWORKS = ("diagonal", "relu", "image")
_FILES = {"cifar100_resnet": "cifar100-resnet18", "cifar100_vit": "cifar100-vit"}


@dataclass(frozen=True)
class Tables:
    """Rows of results tables and the measures of their runs."""

    rows: tuple[Row, ...]
    measures: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What was left out."""

    def only(self, experiment: str | None = None, network: str | None = None) -> "Tables":
        """Return the rows of an experiment, and those of a network."""
        own = [row for row in self.rows if experiment in (None, row.get("experiment"))]
        return replace(self, rows=tuple(row for row in own if network in (None, network_of(row))))

    def parts(self) -> list[tuple[str, str]]:
        """Return each experiment that there are rows of, and its network."""
        found = {(row.get("experiment") or "", network_of(row)): None for row in self.rows}
        return sorted(found)

    def where(self, conditions: Iterable[str]) -> "Tables":
        """Return the rows that meet conditions; rows to which a column does not apply stay.

        Args:
            conditions: As in ``k_main=5`` or ``n_main=16,64``; ``correlation=1`` means all units.

        Raises:
            ConfigurationError: For a condition of another form, or a column that no row has.
        """
        rows = [dict(row) for row in self.rows]
        for condition in conditions:
            rows = selection.where(rows, condition)
        return replace(self, rows=tuple(rows))


def load(paths: Sequence[str | Path], option: str = "--results", duplicates: str | None = None) -> Tables:
    """Read results tables, or published ones.

    Parameters of sweeps that are no column become columns of the rows.

    Args:
        paths: Files; folders with tables of ours, or with published ones.
        option: What the user calls them.
        duplicates: What counts where rows of one run differ, as for
            :func:`~lit_aux.runs.reading.read_rows`.

    Raises:
        ConfigurationError: If a file is missing, or no table, or rows of one run differ.
    """
    rows: list[dict[str, Any]] = []
    measures: list[Row] = []
    paths = list(paths)
    for path in paths:
        check_given(option, path)
    try:
        files = [file for path in paths for file in _files(Path(path))]
        for named in _by_name(files):
            read = read_rows(named, duplicates)
            rows += [{**row, "experiment": row.get("experiment") or _experiment(named[0])} for row in read]
            measures += read_measures(named, duplicates)
    except ConfigurationError as error:
        raise ConfigurationError(re.sub(r"^FILE\b", option, str(error))) from None
    return of_rows(rows, measures)


def of_rows(rows: Iterable[Row], measures: Sequence[Row]) -> Tables:
    """Return rows that are read already, without failed ones and with the parameters of sweeps as columns.

    Args:
        rows: Of results tables.
        measures: Of their runs.
    """
    rows = list(rows)
    options = selection.options_of(measures)
    kept = [{**row, **options.get(row.get("run") or "", {}), **row} for row in rows if not row.get("error")]
    failed = len(rows) - len(kept)
    notes = (f"{failed} failed run{'s are' if failed > 1 else ' is'} left out",) if failed else ()
    return Tables(tuple(kept), tuple(measures), notes)


def _files(path: Path) -> list[Path]:
    """Return the tables of a folder of published ones; other paths as they are."""
    if not path.is_dir() or any(path.rglob("results.csv")):
        return [path]
    found = [file for file in sorted(path.glob("*.csv")) if not file.name.endswith("measures.csv")]
    return found or [path]


def _by_name(files: Sequence[Path]) -> list[list[Path]]:
    """Return files to be read together: those that name each row's experiment, and single others."""
    ours = [file for file in files if file.is_dir() or not _is_published(file)]
    return ([ours] if ours else []) + [[file] for file in files if file not in ours]


def _is_published(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return "experiment" not in opened.readline().strip().split(",")
    except (OSError, UnicodeDecodeError):
        return False  # the reader says what is wrong


def _experiment(file: Path) -> str:
    """Return the experiment that a published file is of, after its name."""
    stem = file.stem
    found = next((name for start, name in _FILES.items() if stem.startswith(start)), stem.replace("_", "-"))
    return found if found in EXPERIMENTS else stem


# What rows say of their teachers, and how that is written over panels


def network_of(row: Row) -> str:
    """Return whose row it is: ``diagonal`` or ``relu`` students, or ``image`` classifiers."""
    known = EXPERIMENTS.get(row.get("experiment") or "")
    if known is not None:
        return known.network
    if row.get("correlation") is not None:
        return "relu"
    return "diagonal" if row.get("overlap") is not None else "image"


def by_task(row: Row) -> tuple[Any, ...]:
    """Return the key that orders rows by how much their main task shares with the auxiliary one."""
    shares = row.get("correlation")
    if shares is None:
        return 0.0 if row.get("k_main") is None else row["overlap"] / row["k_main"], row["overlap"]
    return sum(shares) / len(shares), len(shares)


def pattern_title(row: Row) -> str:
    """Write which main features are auxiliary ones too."""
    shares = row.get("correlation")
    if shares is None:
        whole = "" if row.get("k_main") is None else f" of {row['k_main']}"
        return f"{row['overlap']}{whole} shared"
    counts: Counter[float] = Counter(shares)
    if len(counts) == 1:
        return rf"all $\rho$ = {shares[0]:g}"
    ordered = sorted(counts.items(), reverse=True)
    return r"$\rho$ = " + ", ".join(f"{value:g} ({TIMES}{count})" for value, count in ordered)


def shared_title(row: Row) -> str:
    """Write whether the main features are auxiliary ones too, whatever their number is."""
    shares = row.get("correlation")
    if shares is not None:
        names = {(1.0,): "all shared", (0.0,): "none shared"}
        return names.get(tuple({*shares}), pattern_title(row))
    if row["overlap"] == row.get("k_main"):
        return "all shared"
    return "none shared" if row["overlap"] == 0 else f"{row['overlap']} shared"


def entries(row: Row, count: int) -> str:
    """Return what the features of a row's network are called."""
    name = ("entry", "entries") if network_of(row) == "diagonal" else ("unit", "units")
    return name[count != 1]
