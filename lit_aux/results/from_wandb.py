"""Runs that were logged to W&B, fetched into a results table."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from types import MappingProxyType
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.results.statistics import SETUPS
from lit_aux.runs.duplicates import settled
from lit_aux.runs.table import OPTION_COLUMNS, ResultsTable
from lit_aux.runs.typed import Row
from lit_aux.runs.wandb_summary import rows_of

_FAILED = ("failed", "crashed", "killed", "preempted")
_TIMEOUT = 60


@dataclass
class Fetched:
    """What a run of W&B's is in a results table.

    Attributes:
        kind: ``finished``, ``failed``, ``running``, or ``other`` where no ``lit-aux fit`` wrote it.
        rows: Its rows.
        measures: Their measures.
        name: What its row is called where it failed before there was any.
    """

    kind: str
    rows: list[Row] = field(default_factory=list)
    measures: list[Row] = field(default_factory=list)
    name: str = ""


def fetch(place: str, out: str, duplicates: str | None = None) -> str:
    """Fetch the runs of a project or a sweep into a results table.

    Runs that the table has already are passed over, and so are those that still run. One that failed gets a
    row that says so; it gives way when the run has been resumed and has ended well.

    Args:
        place: ``ENTITY/PROJECT`` or ``ENTITY/PROJECT/sweeps/ID``, or the address of its page.
        out: The table; made where there is none.
        duplicates: What becomes of runs that the table has with other values: ``first`` keeps those, ``last``
            takes the new ones. By default they are refused.

    Returns:
        What was found, in words.

    Raises:
        ConfigurationError: Without an account or a connection, if there is no such project or no run in it,
            if a run has other values than the table, or if that cannot be written.
    """
    project, sweep = parsed(place)
    if duplicates == "mean":
        raise ConfigurationError(
            "--duplicates mean: would change with every --from-wandb; take first or last"
        )
    found = [converted(run) for run in _runs(place, project, sweep)]
    if not found:
        raise ConfigurationError(f"--from-wandb {place}: there are no runs")
    counts: Counter[str] = Counter()
    with ResultsTable(out) as table:
        there = {row["run"]: row for row in table.rows()}
        _settle(found, there, str(table.path), duplicates)  # before anything is written
        for one in found:
            counts[add(table, one, there)] += 1
    words = [f"{counts[kind]} {text}" for kind, text in _WORDS.items() if counts[kind]]
    return f"{len(found)} runs of {place}: {', '.join(words)}\nresults: {out}"


def _settle(found: Iterable[Fetched], there: Mapping[str, Row], path: str, duplicates: str | None) -> None:
    """Let rows be what counts of them and of those of the same runs, in the table and among each other.

    Raises:
        ConfigurationError: If they differ and nothing is said of it.
    """
    groups: dict[str, list[tuple[Row, str]]] = {}
    for run, row in there.items():
        groups[run] = [(row, path)]
    for one in found:
        for row in one.rows:
            groups.setdefault(row["run"], []).append((row, f"W&B run {one.name.removeprefix('wandb-')}"))
    several = {run: group for run, group in groups.items() if len(group) > 1}
    rows = dict(zip(several, settled([*several.values()], duplicates, "--from-wandb"), strict=True))
    for one in found:
        one.rows = [rows.get(row["run"], row) for row in one.rows]


_WORDS = {
    "added": "added",
    "failed": "added as failed",
    "there": "were there already",
    "running": "still running (left out)",
    "other": "without results of lit-aux fit (left out)",
}


def add(table: ResultsTable, one: Fetched, there: Mapping[str, Row] = MappingProxyType({})) -> str:
    """Add what a table lacks of a run; return which of the counted kinds it is.

    Args:
        table: The table.
        one: The run.
        there: Rows that were in the table before; another one of the same run takes the place of such a row.
    """
    if one.kind in ("running", "other"):
        return one.kind
    if one.kind == "finished":
        table.remove([one.name])  # it failed before and was resumed
        changed = {row["run"] for row in one.rows if there.get(row["run"], row) != row}
        table.remove(changed & table.done())
    new = [row for row in one.rows if row["run"] not in table.done()]
    if not new:
        return "there"
    runs = {row["run"] for row in new}
    table.append(new, [measure for measure in one.measures if measure["run"] in runs])
    return "added" if one.kind == "finished" else "failed"


def parsed(place: str) -> tuple[str, str | None]:
    """Return ``ENTITY/PROJECT`` and the sweep's id, if one is named.

    Raises:
        ConfigurationError: For another form.
    """
    path = re.sub(r"^https?://[^/]+/", "", place.strip()).strip("/")
    match = re.fullmatch(r"([^/\s]+/[^/\s]+?)(?:/(?:sweeps/([^/\s]+)|workspace|table))?", path)
    if match is None:
        raise ConfigurationError(
            f"--from-wandb {place!r}: write ENTITY/PROJECT, or ENTITY/PROJECT/sweeps/ID for one sweep"
        )
    return match[1], match[2]


def converted(run: Any) -> Fetched:
    """Return what a run is in a results table.

    Args:
        run: Of ``wandb.Api``: its ``id``, ``name``, ``state``, ``config``, ``summary``, ``tags`` and
            ``group`` are looked at.
    """
    name = f"wandb-{run.id}"
    config = dict(run.config)
    try:
        rows, measures = rows_of(dict(run.summary))
    except ValueError:
        rows, measures = [], []
    if rows:  # also of a run that failed afterwards: its training is done
        options = [row for each in rows for row in _options(config, each["run"])]
        return Fetched("finished", rows, [*measures, *options], name)
    if run.state in _FAILED:
        row = _place(run, config) | {"run": name, "converged": False}
        row["error"] = f"W&B: run {' '.join(str(run.name or run.id).split())} {run.state}"
        return Fetched("failed", [row], list(_options(config, name)), name)
    return Fetched("other" if run.state == "finished" else "running")


def _place(run: Any, config: Row) -> Row:
    """Return where in the grid a run is that wrote no row, as far as its options and tags tell."""
    row: Row = {}
    for option, column in OPTION_COLUMNS.items():
        if column not in row and isinstance(config.get(option), int | float | str):
            row[column] = config[option]
    for column in ("experiment", "setup"):
        if isinstance(config.get(column), str):
            row[column] = config[column]
    tagged = [tag for tag in (*(run.tags or ()), run.group) if tag in SETUPS]
    return {"setup": tagged[0], **row} if tagged else row


def _options(config: Row, name: str) -> Iterable[Row]:
    """Yield a sweep's parameters that are no columns, as measures."""
    for option, value in config.items():
        if "." in option and option not in OPTION_COLUMNS and isinstance(value, int | float | str | list):
            plain = json.dumps(value) if isinstance(value, bool | list) else value
            yield {"run": name, "measure": option, "value": plain}


def _runs(place: str, project: str, sweep: str | None) -> list[Any]:
    """Ask W&B for runs, oldest first."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--from-wandb {place}: the package wandb is not installed") from error
    try:
        api = wandb.Api(timeout=_TIMEOUT)
        # config and summary at once, not run by run; versions that cannot do otherwise have no such option
        whole = {"lazy": False} if "lazy" in signature(api.runs).parameters else {}
        filters = {} if sweep is None else {"sweep": sweep}
        return list(api.runs(project, filters=filters, order="+created_at", **whole))
    except (wandb.errors.Error, ValueError, OSError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ConfigurationError(f"--from-wandb {place}: {_reason(text, project)}") from None


def _reason(text: str, project: str) -> str:
    """Say in one line what W&B's error means."""
    if "No API key" in text or "No authentication" in text:
        return "W&B knows no account here; run wandb login, or set WANDB_API_KEY"
    if "Could not find project" in text or "404" in text:
        return f"W&B has no project {project}, or your account cannot see it"
    if any(word in text for word in ("401", "403", "nvalid API key", "relogin", "permission")):
        return f"W&B refuses this account ({text}); run wandb login"
    return f"W&B cannot be reached ({text}); is there a connection?"
