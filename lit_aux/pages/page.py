"""The page itself: what is on it, and how it is written."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import lit_aux
from lit_aux.errors import ConfigurationError, printable
from lit_aux.files import atomic_write
from lit_aux.outputs import check_output, written_to
from lit_aux.pages import layers, overview, studies
from lit_aux.pages.grid import Grid
from lit_aux.pages.links import Links
from lit_aux.pages.numbers import grids_of
from lit_aux.pages.pictures import MOST_TOGETHER, Picture, of_file, of_tables
from lit_aux.pages.runs import list_of_runs
from lit_aux.pages.sources import Sources, find_sources
from lit_aux.runs.reading import PathLike

NAME = "report.html"
KIND = "report of lit-aux"
_TEMPLATES = Path(__file__).parent / "templates"
_FEW_RUNS = 12
_OF_A_FIT = ("summary.png", "students.png")


@dataclass
class Section:
    """A part of the page under a heading.

    Attributes:
        name: Its anchor.
        title: The heading.
        texts: Paragraphs.
        grids: Tables.
        pictures: Pictures.
        folded: Tables that are opened by a click.
        notes: Lines below all.
    """

    name: str
    title: str
    texts: list[str] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    folded: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (
            self.texts
            or any(grid.rows for grid in [*self.grids, *self.folded])
            or self.pictures
            or self.notes
        )


def default_place(paths: Sequence[PathLike]) -> Path:
    """Return where a page goes that nobody names: beside what it is about, or here for several things."""
    if len(paths) != 1:
        return Path(NAME)
    only = Path(paths[0])
    return (only if only.is_dir() else only.parent) / NAME


def write_report(
    paths: PathLike | Iterable[PathLike],
    out: PathLike | None = None,
    *,
    duplicates: str | None = None,
    refresh: int | None = None,
) -> Path:
    """Write one HTML page of what runs left: it needs no network and no other file.

    Args:
        paths: Results tables, or folders that hold some: of ``lit-aux fit``, ``sweep``, ``reproduce`` and
            ``regime``, and of trajectories.
        out: The page; by default ``report.html`` in the only folder that is given, else in the working
            folder.
        duplicates: What counts where rows of one run differ by more than one hundredth: ``first``, ``last``
            or ``mean``.
        refresh: Seconds after which a browser reads the page again; by default it does not.

    Returns:
        The page.

    Raises:
        ConfigurationError: If something is not there or cannot be read, or the page cannot be written.
    """
    given = [paths] if not isinstance(paths, Iterable) or isinstance(paths, str) else list(paths)
    page = Path(default_place(given) if out is None else out)
    check_output("--out", page, kind=KIND)
    sources = find_sources(given, duplicates)
    check_output("--out", page, inputs=sources.files, kind=KIND)
    text = render(sources, page, duplicates=duplicates, refresh=refresh)
    with written_to(page, page.parent):
        atomic_write(page, text.encode(errors="replace"))  # names of files may be no text
    return page


def render(sources: Sources, page: Path, *, duplicates: str | None = None, refresh: int | None = None) -> str:
    """Return the page as text.

    Args:
        sources: What it is made from.
        page: Where it will be, from where links lead.
        duplicates: As for :func:`write_report`.
        refresh: As there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    parts = [part for part in _sections(sources, Links(sources, page), duplicates) if not part.empty]
    return environment.get_template("page.html").render(
        title=printable(sources.title),
        version=lit_aux.__version__,
        made=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        changed=overview.last_change(sources),
        refresh=refresh,
        facts=overview.facts(sources),
        sections=parts,
        command="made by: lit-aux report " + " ".join(printable(str(path)) for path in sources.paths),
        style=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(digest).decode()),
    )


def _sections(sources: Sources, links: Links, duplicates: str | None) -> Iterator[Section]:
    """Yield the parts of the page in order; some may be empty."""
    setting = overview.setting(sources)
    ran = Section("ran", "What ran")
    if sources.tables and not sources.rows:
        ran.texts.append("The tables have no rows yet.")
    ran.grids += [overview.experiments(sources.rows), setting.differ]
    ran.folded.append(setting.same)
    ran.notes += setting.notes
    if setting.versions:
        ran.notes.append(f"versions: {', '.join(setting.versions)}")
    yield ran
    yield Section("failures", "Failures", grids=[overview.failures(sources, links)])
    yield _results(sources)
    yield _pictures(sources, duplicates)
    yield Section("phases", "Phases", grids=[layers.phases(sources, links)], pictures=_of_fits(sources))
    yield Section("layers", "Layers", grids=[layers.layers(sources, links)])
    yield _study("trajectories", "Trajectories", studies.trajectories(sources.trajectories))
    yield _study("regime", "Regime", studies.regimes(sources.regimes))
    yield Section("runs", "Runs", grids=[list_of_runs(sources, links)])
    folders = [*sources.folders.values(), *(path.parent for path in sources.summaries)]
    yield Section("warnings", "Warnings", notes=overview.warnings(folders))


def _results(sources: Sources) -> Section:
    grids, notes = grids_of(sources.rows)
    return Section("results", "Results", grids=grids, notes=notes)


def _pictures(sources: Sources, duplicates: str | None) -> Section:
    """Return every picture that the rows cover, as far as a page can hold them."""
    from lit_aux.figures.tables import load, of_rows

    section = Section("pictures", "Pictures")
    if not any(row.get("error") is None for row in sources.rows):
        return section
    try:
        ours = all(row.get("run") and row.get("experiment") for row in sources.rows)
        tables = of_rows(sources.rows, sources.measures) if ours else load(sources.tables, "RUN", duplicates)
    except ConfigurationError as error:
        section.notes.append(f"not drawn: {error}")
        return section
    together = 0
    for found in of_tables(tables):
        if isinstance(found, str):
            section.notes.append(found)
        elif together + found.size > MOST_TOGETHER:
            section.notes.append(f"left out, since the page would be too large for a mail: {found.title}")
        else:
            together += found.size
            section.pictures.append(found)
    section.notes = list(dict.fromkeys(section.notes))
    return section


def _of_fits(sources: Sources) -> list[Picture]:
    """Return the pictures that fits left, where they are few."""
    if len(sources.summaries) > _FEW_RUNS:
        return []
    found = []
    for path in sources.summaries:
        folder = path.parent
        names = [*_OF_A_FIT, *sorted(file.name for file in folder.glob("*_dimensionality.png"))]
        for name in names[: 1 + len(names) * (len(sources.summaries) == 1)]:
            title = f"{folder.resolve().name}: {Path(name).stem.replace('_', ' ')}"
            picture = of_file(folder / name, title, f"{title}; its numbers are in the tables of this page")
            found += [] if picture is None else [picture]
    return found


def _study(name: str, title: str, found: studies.Found) -> Section:
    grids, pictures, notes = found
    return Section(name, title, grids=grids, pictures=pictures, notes=[printable(note) for note in notes])
