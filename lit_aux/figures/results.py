"""Figures from results tables: rows in, figures out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lit_aux.drawing.engine import draw, overlay
from lit_aux.drawing.layout import Layout
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.experiments.grids import EXPERIMENTS
from lit_aux.figures import images, solutions, students
from lit_aux.figures.request import Request
from lit_aux.figures.tables import NETWORKS, Tables, load
from lit_aux.runs.typed import Row

if TYPE_CHECKING:
    from lit_aux.drawing.picture import Picture

Lay = Callable[[Sequence[Row], Sequence[Row], Request], Layout]


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    lay: Lay
    """Makes its layout of rows, measures and a request; its first line says what it shows."""
    example: str
    """The command that makes rows for it."""
    networks: tuple[str, ...] = ("diagonal", "relu")
    kinds: tuple[str, ...] = ()
    """How the names of the experiments end whose rows it is for; any where empty."""
    side_by_side: bool = False
    """Whether several experiments have panels in one figure."""

    @property
    def about(self) -> str:
        """One line on what it shows."""
        return (self.lay.__doc__ or "").partition("\n")[0].removeprefix("Lay out ").rstrip(".")

    def parts(self, tables: Tables) -> list[tuple[str, str]]:
        """Return the experiments of tables that it can be drawn of, and their networks.

        Those that are no grid of the paper's, single fits say, or sweeps, can be all that their network can.
        """
        return [
            (name, network)
            for name, network in tables.parts()
            if network in self.networks
            and (not self.kinds or name not in EXPERIMENTS or name.rpartition("-")[2] in self.kinds)
        ]


_OVERLAP, _FASHION = "lit-aux reproduce diagonal-overlap", "lit-aux reproduce fashion-resnet18"
_IMAGE, _RELU = ("image",), ("relu",)
FIGURES: dict[str, Kind] = {
    "overlap": Kind(students.overlap, _OVERLAP, kinds=("overlap", "large")),
    "sparsity": Kind(students.sparsity, "lit-aux reproduce diagonal-sparsity", kinds=("sparsity",)),
    "rescaling": Kind(students.rescaling, "lit-aux reproduce diagonal-rescaling", kinds=("rescaling",)),
    "correlation": Kind(students.correlation, "lit-aux reproduce relu-correlation", _RELU, ("correlation",)),
    "norms": Kind(solutions.norms, _OVERLAP),
    "top-share": Kind(solutions.top_share, _OVERLAP, ("diagonal",)),
    "features": Kind(solutions.features, "lit-aux reproduce relu-sparsity", _RELU),
    "accuracy": Kind(images.accuracy, _FASHION, _IMAGE, side_by_side=True),
    "accuracy-rescale": Kind(
        images.accuracy_rescale, f"{_FASHION} --setups PT+FT", _IMAGE, side_by_side=True
    ),
    "dimensionality": Kind(images.dimensionality, f"{_FASHION} --setups PT+FT", _IMAGE),
}


Part: TypeAlias = tuple[str, str]
"""An experiment and its network."""
Source: TypeAlias = Tables | str | Path | Sequence[str | Path]
"""Tables that were loaded, or the paths of files and folders with some."""
MOST_PANELS = 60


class Drawn(NamedTuple):
    """A figure, and what is to be said of it."""

    name: str
    """For its file: the kind of figure, and the experiment where there are several."""
    title: str
    """What it shows, and of which experiment."""
    figure: "Picture"
    notes: tuple[str, ...]
    """How much is drawn, and what a reader must know."""


def draw_figure(
    name: str,
    results: Source,
    *,
    reference: Source | None = None,
    experiment: str | None = None,
    network: str | None = None,
    where: Sequence[str] = (),
    how: Request = Request(),  # noqa: B008 - frozen
) -> "Picture":
    """Draw one figure.

    Args:
        name: One of :data:`~lit_aux.figures.results.FIGURES`.
        results: Tables, or files and folders that hold them.
        reference: Published tables, whose curves are laid over.
        experiment: Draw its rows alone.
        network: Draw the rows of ``diagonal``, ``relu`` or ``image`` networks alone.
        where: Conditions on columns, as in ``k_main=5``.
        how: Which loss, which mean.

    Raises:
        ConfigurationError: If the tables do not have what the figure shows, or have it of several
            experiments.
    """
    if name not in FIGURES:
        raise unknown_name("name", name, FIGURES)
    tables = chosen(_loaded(results, "--results"), experiment, network, where)
    published = None if reference is None else _loaded(reference, "--reference")
    return drawn(name, tables, how, published).figure


def figures_of(
    tables: Tables,
    how: Request = Request(),  # noqa: B008 - frozen
    published: Tables | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Drawn]:
    """Yield every figure that tables cover: of each kind, one for each experiment that it is for.

    Args:
        tables: The rows.
        how: Which loss, which mean.
        published: Rows of published tables, whose curves are laid over.
        say: Is told why a figure is not drawn that the rows might have been for.
    """
    for name, kind in FIGURES.items():
        parts = kind.parts(tables)
        for part in [None] if kind.side_by_side and parts else parts:
            try:
                yield _drawn(name, tables, part, how, published, several=len(parts) > 1)
            except ConfigurationError as error:
                say(str(error))


def drawn(name: str, tables: Tables, how: Request, published: Tables | None) -> Drawn:
    """Draw the one figure of a name.

    Raises:
        ConfigurationError: If the tables do not have what it shows, or have it of several experiments.
    """
    kind = FIGURES[name]
    parts = kind.parts(tables)
    if not parts:
        raise nothing_for(name, tables)
    if len(parts) > 1 and not kind.side_by_side:
        names = ", ".join(other or f"{network} runs" for other, network in parts)
        option = (
            "--experiment" if len({network for _, network in parts}) == 1 else "--experiment or --network"
        )
        raise ConfigurationError(f"{name}: the tables have rows of {names}; choose with {option}")
    return _drawn(name, tables, None if kind.side_by_side else parts[0], how, published, several=False)


def chosen(
    tables: Tables, experiment: str | None = None, network: str | None = None, where: Sequence[str] = ()
) -> Tables:
    """Return the rows that are to be drawn.

    Args:
        tables: All rows.
        experiment: Its rows alone.
        network: The rows of such networks alone.
        where: Conditions on columns.

    Raises:
        ConfigurationError: If there are no rows, or none such.
    """
    if not tables.rows:
        notes = "".join(f" ({note})" for note in tables.notes)
        raise ConfigurationError(f"--results: the tables have no rows{notes}")
    if network is not None and network not in NETWORKS:
        raise unknown_name("--network", network, NETWORKS)
    names = [name for name, _ in tables.parts()]
    if experiment is not None and experiment not in names:
        raise unknown_name("--experiment", experiment, names)
    return tables.only(experiment, network).where(where)


def laid_out(name: str, tables: Tables, part: Part | None, how: Request) -> Layout:
    """Return the layout of a figure.

    Args:
        name: Of the figure.
        tables: The rows.
        part: The experiment and its network; None for all that the figure is for.
        how: What is asked of it.

    Raises:
        ConfigurationError: If the rows do not have what it shows; the message begins with its name.
    """
    kind = FIGURES[name]
    parts = [part] if part is not None else sorted({*kind.parts(tables)})
    rows = tuple(row for one in parts for row in tables.only(*one).rows)
    try:
        layout = kind.lay(rows, tables.measures, how)
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if text.startswith("--") else f"{name}: {text}") from None
    if len(layout.panels) > MOST_PANELS:
        raise ConfigurationError(
            f"{name}: {len(layout.panels)} panels are too many to be read ({MOST_PANELS} at most); narrow "
            'the rows down, as with --where "k_main=5"'
        )
    return layout


def nothing_for(name: str, tables: Tables) -> ConfigurationError:
    """Say what tables have, and which command makes rows for a figure; ``all`` stands for any."""
    names = [part or f"{network} runs" for part, network in tables.parts()]
    have = f"the tables have rows of {', '.join(names)}" if names else "the tables have no rows"
    example = FIGURES.get(name, FIGURES["overlap"]).example
    return ConfigurationError(f"{name}: {have}, none for this figure; {example} makes such rows")


def _loaded(source: Source, option: str) -> Tables:
    if isinstance(source, Tables):
        return source
    return load([source] if isinstance(source, str | Path) else source, option)


def _drawn(
    name: str, tables: Tables, part: Part | None, how: Request, published: Tables | None, *, several: bool
) -> Drawn:
    """Draw a figure and say what is on it."""
    layout = laid_out(name, tables, part, how)
    over, note = (None, "") if published is None else _published(name, layout, part, how, published)
    curves = sum(len(panel.curves) for panel in layout.panels)
    counts = _count(len(layout.panels), "panel"), _count(curves, "curve")
    what = f"{', '.join(counts)} from {_count(layout.rows, 'row')}{note}"
    own = (part[0] or part[1]) if part else ""
    about = FIGURES[name].about
    title = f"{about[0].upper()}{about[1:]}{f' ({own})' if own else ''}"
    file = f"{name}-{own}" if own and several else name
    return Drawn(file, title, draw(layout, over), (what, *layout.notes))


def _published(
    name: str, layout: Layout, part: Part | None, how: Request, published: Tables
) -> tuple[Layout | None, str]:
    """Return the layout of the published rows of the same kind, and how much of it is drawn."""
    nothing = None, "; nothing published for it"
    parts = FIGURES[name].parts(published)
    if part is not None:
        same = [other for other in parts if other == part]
        parts = same or [other for other in parts if other[1] == part[1] != "image"]
    if not parts:
        return nothing
    try:
        other = None if part is None else parts[0]
        over = laid_out(name, published, other, replace(how, baseline=layout.baseline))
    except ConfigurationError:  # the published rows have no such column, or no measures
        return nothing
    count = sum(len(panel.curves) for panel in overlay(layout, over).values())
    return (over, f"; {_count(count, 'published curve')}") if count else nothing


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
