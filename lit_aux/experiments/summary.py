"""Means of an experiment, printed in the end."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lit_aux.experiments.means import is_log, kind_of_mean, mean_and_error

if TYPE_CHECKING:
    from rich.table import Table

_AXES = ("setup", "k_main", "overlap", "correlation", "magnitude", "rescale", "solver")


def print_summary(rows: Sequence[Mapping[str, str]], value: str) -> None:
    """Print the mean of a column in every cell of the grid, seeds taken together; n_main runs across.

    Args:
        rows: Rows of the results table.
        value: The column, ``loss_best`` or ``accuracy``.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 200
    if rows:
        console.print(summary_table(rows, value))


def summary_table(rows: Sequence[Mapping[str, str]], value: str) -> "Table":
    """Return the table that :func:`print_summary` prints, with the means of ``lit-aux table``."""
    from rich import box
    from rich.table import Table

    axes = [name for name in _AXES if len({row[name] for row in rows}) > 1 or name == "setup"]
    sizes = sorted({int(row["n_main"]) for row in rows})
    log = is_log(rows, value)
    table = Table(title=f"{value}: {kind_of_mean(log)}", box=box.SIMPLE_HEAD)
    for name in axes:
        table.add_column(name, overflow="fold")
    for n in sizes:
        table.add_column(f"n {n}", justify="right")
    table.add_column("converged", justify="right")
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in axes), []).append(row)
    for group, members in groups.items():
        means = [mean_and_error((r[value] for r in members if int(r["n_main"]) == n), log) for n in sizes]
        converged = sum(row["converged"] == "true" for row in members)
        table.add_row(*group, *means, f"{converged}/{len(members)}")
    return table
