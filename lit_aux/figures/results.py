"""Figures from results tables, as ``lit-aux figures`` draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.experiments.grids import EXPERIMENTS
from lit_aux.figures import images, solutions, students
from lit_aux.figures.drawing import draw, overlay
from lit_aux.figures.layout import Layout, Request
from lit_aux.figures.style import save
from lit_aux.figures.tables import NETWORKS, Tables, load
from lit_aux.runs.typed import Row

Lay = Callable[[Sequence[Row], Sequence[Row], Request], Layout]


@dataclass(frozen=True)
class Figure:
    """A figure of results."""

    about: str
    """One line on what it shows."""
    lay: Lay
    """Makes its layout of rows, measures and a request."""
    example: str
    """The command that makes rows for it."""
    networks: tuple[str, ...] = ("diagonal", "relu")
    kinds: tuple[str, ...] = ()
    """How the names of the experiments end whose rows it is for; any where empty."""
    side_by_side: bool = False
    """Whether several experiments have panels in one figure."""

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


FIGURES: dict[str, Figure] = {
    "overlap": Figure(
        "test loss against n_main, a panel for each overlap of the teachers",
        students.overlap,
        "lit-aux reproduce diagonal-overlap",
        kinds=("overlap", "large"),
    ),
    "sparsity": Figure(
        "test loss against n_main, panels by number of main features, shared and not",
        students.sparsity,
        "lit-aux reproduce diagonal-sparsity",
        kinds=("sparsity",),
    ),
    "rescaling": Figure(
        "as sparsity, a curve for each rescale factor: nested feature selection",
        students.rescaling,
        "lit-aux reproduce diagonal-rescaling",
        kinds=("rescaling",),
    ),
    "correlation": Figure(
        "test loss relative to STL, panels by correlation of the units and size of the main task",
        students.correlation,
        "lit-aux reproduce relu-correlation",
        networks=("relu",),
        kinds=("correlation",),
    ),
    "norms": Figure(
        "norms of the solutions against n_main, with the teacher's",
        solutions.norms,
        "lit-aux reproduce diagonal-overlap",
    ),
    "top-share": Figure(
        "share of |beta|^2 in the top k and in the auxiliary entries",
        solutions.top_share,
        "lit-aux reproduce diagonal-overlap",
        networks=("diagonal",),
    ),
    "features": Figure(
        "k-means inertia of the units, alignment with main and auxiliary teacher",
        solutions.features,
        "lit-aux reproduce relu-sparsity",
        networks=("relu",),
    ),
    "accuracy": Figure(
        "test accuracy of deep networks by setup; of other tasks R2, F1 or IoU",
        images.accuracy,
        "lit-aux reproduce fashion-resnet18",
        networks=("image",),
        side_by_side=True,
    ),
    "accuracy-rescale": Figure(
        "the same by rescale factor, and its difference to factor 1",
        images.accuracy_rescale,
        "lit-aux reproduce fashion-resnet18 --setups PT+FT",
        networks=("image",),
        side_by_side=True,
    ),
    "dimensionality": Figure(
        "PR before and after finetuning and ENSD by layer, a panel for each rescale factor",
        images.dimensionality,
        "lit-aux reproduce fashion-resnet18 --setups PT+FT",
        networks=("image",),
    ),
}


def laid_out(name: str, tables: Tables, part: tuple[str, str] | None, how: Request) -> Layout:
    """Return the layout of a figure.

    Args:
        name: Of the figure.
        tables: The rows.
        part: The experiment and its network; None for all that the figure is for.
        how: What is asked of it.

    Raises:
        ConfigurationError: If the rows do not have what it shows; the message begins with its name.
    """
    figure = FIGURES[name]
    if part is not None:
        rows = tables.only(*part).rows
    else:
        kept = {*figure.parts(tables)}
        rows = tuple(row for kind in sorted(kept) for row in tables.only(*kind).rows)
    try:
        return figure.lay(rows, tables.measures, how)
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if text.startswith("--") else f"{name}: {text}") from None


def nothing_for(name: str, tables: Tables) -> ConfigurationError:
    """Say what tables have, and which command makes rows for a figure."""
    names = [part or f"{network} runs" for part, network in tables.parts()]
    have = f"the tables have rows of {', '.join(names)}" if names else "the tables have no rows"
    example = FIGURES[name].example
    return ConfigurationError(f"{name}: {have}, none for this figure; {example} makes such rows")


Paths = Sequence[str | Path]
Part = tuple[str, str]


def draw_figure(
    name: str,
    path: Path,
    results: Paths,
    reference: str | Path | None = None,
    *,
    experiment: str | None = None,
    network: str | None = None,
    where: Sequence[str] = (),
    duplicates: str | None = None,
    how: Request | None = None,
) -> list[str]:
    """Draw one figure.

    Args:
        name: One of :data:`~lit_aux.figures.results.FIGURES`.
        path: The picture; its ending is the format.
        results: Tables, or folders that hold them.
        reference: A folder of published tables, or one of them, whose curves are laid over.
        experiment: Draw its rows alone.
        network: Draw the rows of ``diagonal``, ``relu`` or ``image`` networks alone.
        where: Conditions on columns, as in ``k_main=5``.
        duplicates: What counts where rows of one run differ: ``first``, ``last`` or ``mean``.
        how: Which loss, which mean.

    Returns:
        Lines that say what was drawn, and what was left out.

    Raises:
        ConfigurationError: If the tables do not have what the figure shows, or have it of several
            experiments.
    """
    tables = _chosen(results, experiment, network, where, duplicates)
    parts = FIGURES[name].parts(tables)
    if not parts:
        raise nothing_for(name, tables)
    part = None if FIGURES[name].side_by_side else parts[0]
    if part is not None and len(parts) > 1:
        names = ", ".join(other or f"{kind} runs" for other, kind in parts)
        option = "--experiment" if len({kind for _, kind in parts}) == 1 else "--experiment or --network"
        raise ConfigurationError(f"{name}: the tables have rows of {names}; choose with {option}")
    published = None if reference is None else load([reference], "--reference", duplicates)
    return _drawn(name, path, tables, part, how or Request(), published) + _notes(tables)


def draw_all(
    folder: Path,
    results: Paths,
    reference: str | Path | None = None,
    *,
    experiment: str | None = None,
    network: str | None = None,
    where: Sequence[str] = (),
    duplicates: str | None = None,
    how: Request | None = None,
) -> list[str]:
    """Draw every figure that tables cover, each as a PNG.

    Args:
        folder: Where the pictures go.
        results: As for :func:`draw_figure`, and so the others.
        reference: Published tables.
        experiment: Draw its rows alone.
        network: Draw the rows of such networks alone.
        where: Conditions on columns.
        duplicates: What counts where rows of one run differ.
        how: Which loss, which mean.

    Returns:
        Lines that say what was drawn, and what was not.

    Raises:
        ConfigurationError: If nothing can be drawn.
    """
    if folder.suffix or folder.is_file():
        raise ConfigurationError(f"--out: {str(folder)!r} is no folder; all figures go into one")
    tables = _chosen(results, experiment, network, where, duplicates)
    published = None if reference is None else load([reference], "--reference", duplicates)
    lines, missing = [], []
    for name, figure in FIGURES.items():
        parts = figure.parts(tables)
        for part in [None] if figure.side_by_side and parts else parts:
            several = part is not None and len(parts) > 1
            path = folder / (f"{name}-{part[0] or part[1]}.png" if part and several else f"{name}.png")
            try:
                lines += _drawn(name, path, tables, part, how or Request(), published)
            except ConfigurationError as error:
                if "cannot be written" in str(error):
                    raise
                missing.append(f"not drawn: {error}")
    if not lines:
        raise ConfigurationError(missing[0].removeprefix("not drawn: ") if missing else str(_nothing(tables)))
    return lines + list(dict.fromkeys(missing)) + _notes(tables)


def _chosen(
    results: Paths, experiment: str | None, network: str | None, where: Sequence[str], duplicates: str | None
) -> Tables:
    """Return the rows that are to be drawn."""
    tables = load(results, duplicates=duplicates)
    if not tables.rows:
        notes = "".join(f" ({note})" for note in tables.notes)
        raise ConfigurationError(f"--results: the tables have no rows{notes}")
    if network is not None and network not in NETWORKS:
        raise unknown_name("--network", network, NETWORKS)
    names = [name for name, _ in tables.parts()]
    if experiment is not None and experiment not in names:
        raise unknown_name("--experiment", experiment, names)
    return tables.only(experiment, network).where(where)


def _drawn(
    name: str, path: Path, tables: Tables, part: Part | None, how: Request, published: Tables | None
) -> list[str]:
    """Draw a figure and say what is on it."""
    layout = laid_out(name, tables, part, how)
    over, note = (None, "") if published is None else _published(name, layout, part, how, published)
    save(draw(layout, over), path, palette=True)
    curves = sum(len(panel.curves) for panel in layout.panels)
    counts = _count(len(layout.panels), "panel"), _count(curves, "curve")
    what = f"{', '.join(counts)} from {_count(layout.rows, 'row')}"
    return [f"picture: {path}", f"  {what}{note}", *(f"  {text}" for text in layout.notes)]


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
    chosen = None if part is None else parts[0]
    try:
        over = laid_out(name, published, chosen, replace(how, baseline=layout.baseline))
    except ConfigurationError:  # the published rows have no such column, or no measures
        return nothing
    count = sum(len(panel.curves) for panel in overlay(layout, over).values())
    return (over, f"; {_count(count, 'published curve')}") if count else nothing


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _notes(tables: Tables) -> list[str]:
    return [f"note: {text}" for text in tables.notes]


def _nothing(tables: Tables) -> ConfigurationError:
    return ConfigurationError(str(nothing_for("overlap", tables)).replace("overlap: ", "all: ", 1))
