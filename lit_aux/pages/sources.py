"""What a page is made from: the files in which runs left what came out."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from lit_aux.errors import ConfigurationError
from lit_aux.runs.reading import PathLike, files_beneath, read_measures, read_rows, tables_of
from lit_aux.runs.table import measures_path
from lit_aux.runs.typed import Row, csv_rows
from lit_aux.storage import check_given
from lit_aux.trajectories.reading import FILE as TRAJECTORY

RESULTS, SUMMARY, REGIME, CONFIG = "results.csv", "summary.json", "regime.json", "config.yaml"
T = TypeVar("T")
_HASH = re.compile(r"[\w-]+")
_DEEP = 4
"""Folders between that of a run and its files: ``lightning_logs/version_0``, say."""


@dataclass(frozen=True)
class Sources:
    """The files of a page, and what its tables hold.

    Attributes:
        paths: What was given.
        tables: Results tables.
        rows: Their rows, failed ones among them.
        measures: The measures of these.
        trajectories: Every ``trajectory.csv``.
        regimes: Every ``regime.json``.
        summaries: Every ``summary.json``, as a fit writes it into its folder.
    """

    paths: Sequence[Path]
    tables: Sequence[Path]
    rows: Sequence[Row]
    measures: Sequence[Row]
    trajectories: Sequence[Path] = ()
    regimes: Sequence[Path] = ()
    summaries: Sequence[Path] = ()

    @property
    def files(self) -> list[Path]:
        """Everything that is read, which a page must not be written over."""
        return [
            *self.tables,
            *map(measures_path, self.tables),
            *self.trajectories,
            *self.regimes,
            *self.summaries,
        ]

    @property
    def title(self) -> str:
        """What the page is about, in a few words: the names of what was given."""
        names = [path.parent if path.is_file() and path.name == RESULTS else path for path in self.paths]
        shown = [called(path) for path in names[:3]]
        return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The folder of each run that has one, by the run's name."""
        found: dict[str, Path] = {}
        for table in self.tables:
            with suppress(OSError, ConfigurationError):
                parent = table.parent
                known = {folder.name: folder for folder in (parent / "runs").glob("*") if folder.is_dir()}
                for name in _names(table) if known or (parent / SUMMARY).is_file() else ():
                    # rows of a fit with several bear a number behind the name of their run
                    own = known.get(name) or known.get(name.partition("-")[0])
                    if own is not None or (parent / SUMMARY).is_file():
                        found.setdefault(name, own or parent)
        return found


def _names(table: Path) -> list[str]:
    """Return the names of a table's runs that can be names of folders."""
    header, rows = csv_rows("RUN", table)
    if "run" not in header:
        return []
    place = header.index("run")
    return [fields[place] for fields, _ in rows if _HASH.fullmatch(fields[place])]


class Files(NamedTuple):
    """The files that a page is made from, each kind in the order in which they were given."""

    tables: list[Path]
    trajectories: list[Path]
    regimes: list[Path]
    summaries: list[Path]


def find_sources(paths: Iterable[PathLike], duplicates: str | None = None) -> Sources:
    """Look for everything that can be told of in files and folders, and read the tables.

    Args:
        paths: Results tables, ``trajectory.csv``, ``regime.json``, or folders with some anywhere beneath.
        duplicates: What counts where rows of one run differ, as for
            :func:`~lit_aux.runs.reading.read_rows`.

    Raises:
        ConfigurationError: If something is not there or has nothing to tell of; for tables that cannot be
            read.
    """
    given = list(paths)
    tables, *others = _find(given)
    rows = _named("RUN", lambda: read_rows(tables, duplicates)) if tables else []
    some = any(measures_path(table).is_file() for table in tables)
    measures = _named("RUN", lambda: read_measures(tables, duplicates)) if some else []
    return Sources([Path(path) for path in given], tables, rows, measures, *others)


def files_of_page(paths: Iterable[PathLike]) -> list[Path]:
    """Return the files of whose changes a page must tell.

    Args:
        paths: As for :func:`find_sources`.

    Raises:
        ConfigurationError: If something is not there or has nothing to tell of.
    """
    return [file for files in _find(list(paths)) for file in files]


def _find(paths: Sequence[PathLike]) -> Files:
    if not paths:
        raise ConfigurationError("RUN: nothing is given; name a run's folder or a results.csv")
    found: dict[str, dict[Path, Path]] = {TRAJECTORY: {}, REGIME: {}, SUMMARY: {}}
    tables: list[Path] = []
    for given in paths:
        check_given("RUN", given)
        path = Path(given)
        if not path.exists():
            raise ConfigurationError(f"RUN {path}: there is no such file or folder")
        own = _tables(path)
        others = {name: _files(path, name) for name in found}
        if not own and not any(others.values()):
            raise ConfigurationError(
                f"RUN {path}: there is nothing to report on; it has none of {RESULTS}, {SUMMARY}, "
                f"{TRAJECTORY} and {REGIME}"
            )
        tables += own
        for name, files in others.items():
            found[name] |= {file.resolve(): file for file in files}
    each = tables_of(tables) if tables else []
    return Files(each, *(list(found[name].values()) for name in (TRAJECTORY, REGIME, SUMMARY)))


def _named(option: str, read: Callable[[], T]) -> T:
    """Call a reader of files; its errors name what this command calls them."""
    try:
        return read()
    except ConfigurationError as error:
        raise ConfigurationError(re.sub(r"^FILE\b", option, str(error))) from None


def _files(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path] if path.name == name else []
    return files_beneath(path, name)


def _tables(path: Path) -> list[Path]:
    """Return the results tables that a path stands for; none where a folder has none."""
    if path.is_file():
        return [] if path.name in (TRAJECTORY, REGIME, SUMMARY) else [path]
    return tables_of([path]) if files_beneath(path, RESULTS) else []


def called(folder: Path) -> str:
    """Return what people call a run's folder: its name, after that of its own where it is a number only."""
    found = folder.resolve()
    counted = re.fullmatch(r"version_\d+", found.name)
    return f"{found.parent.name}/{found.name}" if counted else found.name or str(folder)


def newest(folder: Path, name: str) -> Path | None:
    """Return the newest file of a name in a run's folder, in it or not far beneath.

    Args:
        folder: The run's.
        name: The file's.
    """
    found = [path for deep in range(_DEEP) for path in folder.glob("*/" * deep + name) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
