"""The figures that are drawn from results tables: by name, with what each needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.grids import EXPERIMENTS
from lit_aux.figures import images, solutions, students
from lit_aux.figures.curves import Row
from lit_aux.figures.layout import Layout
from lit_aux.figures.request import Request
from lit_aux.figures.tables import Tables

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
        "test accuracy of image classifiers by setup",
        images.accuracy,
        "lit-aux reproduce fashion-resnet18",
        networks=("image",),
        side_by_side=True,
    ),
    "accuracy-rescale": Figure(
        "test accuracy by rescale factor, and its difference to factor 1",
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
    return ConfigurationError(
        f"{name}: {have}, none for this figure; {FIGURES[name].example} makes such rows"
    )
