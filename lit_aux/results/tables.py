"""From rows to the tables that are read: the look that is taken at them, means, differences, winners."""

from collections.abc import Iterable, Sequence

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.results import selection
from lit_aux.results.means import is_log
from lit_aux.results.sheet import Sheet
from lit_aux.results.sheets import Query, means, pairs, who_wins
from lit_aux.results.statistics import SETUPS
from lit_aux.runs.typed import Row


class Sheets(list[Sheet]):
    """Tables, one after the other, which a notebook shows and ``print`` writes."""

    def __str__(self) -> str:
        return "\n".join(sheet.render("text") for sheet in self)

    def _repr_html_(self) -> str:
        return "\n".join(sheet.to_html() for sheet in self)


def table(
    rows: Sequence[Row],
    measures: Sequence[Row] = (),
    *,
    value: str | None = None,
    by: Iterable[str] = (),
    where: str | None = None,
    mean: str | None = None,
    baseline: str = "STL",
    paired: bool | None = None,
) -> Sheets:
    """Return what ``lit-aux table`` prints of rows: means, differences paired by seed, and who wins.

    Args:
        rows: Of :func:`~lit_aux.runs.read_rows`.
        measures: Of :func:`~lit_aux.runs.read_measures`, for a ``value`` or ``by`` that is no column.
        value: The column or measure, as for :func:`query`.
        by: As there.
        where: As there.
        mean: As there.
        baseline: The setup that all others are compared with.
        paired: Whether there are differences; by default where setups share seeds.

    Raises:
        ConfigurationError: For what is unknown or impossible.
    """
    look = query(rows, measures, value=value, by=by, where=where, mean=mean)
    check_baseline(baseline, look.rows)
    found = Sheets([means(look)])
    differences = pairs(look, baseline)
    if paired or (paired is None and differences.rows):
        found.append(differences)
    if look.higher is not None and (won := who_wins(look)).rows:
        found.append(won)
    return found


def query(
    rows: Sequence[Row],
    measures: Sequence[Row] = (),
    *,
    value: str | None = None,
    by: Iterable[str] = (),
    where: str | None = None,
    mean: str | None = None,
) -> Query:
    """Say how rows are looked at.

    Args:
        rows: Of :func:`~lit_aux.runs.read_rows`.
        measures: Of :func:`~lit_aux.runs.read_measures`, for a ``value`` or ``by`` that is no column.
        value: A column, or a measure, ``MEASURE@LAYER`` where it is of several layers; by default what the
            table is about.
        by: Options of a sweep that tell cells apart as well.
        where: Only rows with these values, ``"setup=PT+FT,rescale=1,n_main=16,64"``.
        mean: ``geometric`` or ``arithmetic``; geometric for losses of students by default.

    Raises:
        ConfigurationError: For what is unknown or impossible.
    """
    by = tuple(by)
    known = is_known(rows, value)
    rows = selection.with_options(rows, measures, by)
    if where is not None:
        rows = selection.where(rows, where)
    if value is None:
        value = selection.default_value(rows)
    elif not known:
        rows, value = selection.with_measure(rows, measures, value)
    if not _has(rows, value):
        present = ", ".join(name for name in selection.COLUMNS if _has(rows, name))
        raise ConfigurationError(f"--value {value}: no row has it; this table has {present}")
    if mean not in (None, "geometric", "arithmetic"):
        raise unknown_name("--mean", mean, ("geometric", "arithmetic"))
    log = is_log(rows, value) if mean is None else mean == "geometric"
    if log and any(isinstance(row.get(value), float) and row[value] < 0 for row in rows):
        raise ConfigurationError(
            f"--mean geometric: some values of {value} are below 0; take the arithmetic mean"
        )
    return Query(rows, value, log, selection.is_higher_better(value), by)


def is_known(rows: Sequence[Row], value: str | None) -> bool:
    """Return whether a value is a column, so that measures need not be read for it."""
    return value is None or value in selection.COLUMNS or _has(rows, value)


def check_baseline(name: str, rows: Sequence[Row]) -> None:
    """Raise for a baseline that is no setup.

    Raises:
        ConfigurationError: Naming those that there are.
    """
    known = {row["setup"] for row in rows if row["setup"] is not None}
    if name not in known and name not in SETUPS:
        raise unknown_name("--baseline", name, sorted(known))


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)
