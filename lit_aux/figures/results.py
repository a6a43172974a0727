"""Figures from results tables, as ``lit-aux figures`` draws them."""

from collections.abc import Sequence
from pathlib import Path

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.figures.catalogue import FIGURES, laid_out, nothing_for
from lit_aux.figures.drawing import draw, overlay
from lit_aux.figures.layout import Layout
from lit_aux.figures.request import Request
from lit_aux.figures.tables import NETWORKS, Tables, load

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
        name: One of :data:`~lit_aux.figures.catalogue.FIGURES`.
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
    results: Paths,
    experiment: str | None,
    network: str | None,
    where: Sequence[str],
    duplicates: str | None,
) -> Tables:
    """Return the rows that are to be drawn."""
    tables = load(results, duplicates=duplicates)
    if not tables.rows:
        raise ConfigurationError(
            f"--results: the tables have no rows{''.join(f' ({n})' for n in tables.notes)}"
        )
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
    draw(layout, path, over)
    curves = sum(len(panel.curves) for panel in layout.panels)
    what = (
        f"{_count(len(layout.panels), 'panel')}, {_count(curves, 'curve')} from {_count(layout.rows, 'row')}"
    )
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
        over = laid_out(name, published, chosen, how.as_drawn(layout.baseline))
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
