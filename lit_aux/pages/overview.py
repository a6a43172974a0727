"""What ran, and how: counts, options, versions, times, what failed and what warned."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from lit_aux._yaml import check_size
from lit_aux.errors import printable, shortened
from lit_aux.pages.grid import Cell, Grid, setup_cell, text_cells
from lit_aux.pages.links import Links
from lit_aux.pages.sources import CONFIG, Sources, newest
from lit_aux.results.selection import options_of, spelled
from lit_aux.results.statistics import order
from lit_aux.runs.folder import OUTPUT
from lit_aux.runs.typed import Row

_MOST_CONFIGS = 300
_MOST_VALUES = 8
_MOST_FAILURES = 200
_ELSEWHERE = ("default_root_dir", "logger", "phase_store", "enable_progress_bar", "enable_model_summary")
"""Options of the Trainer by which numbers do not change; the first differs from run to run."""
_WARNING = re.compile(r"\b(\w*Warning): (.+)")
_VERSION = re.compile(r"^# ([\w.-]+)==(\S+)$", re.MULTILINE)


class Fact(NamedTuple):
    """A number at the top of a page.

    Attributes:
        value: The number.
        name: Of what.
        tone: ``bad`` for what should be looked at.
    """

    value: str
    name: str
    tone: str = ""


def facts(sources: Sources) -> list[Fact]:
    """Return the numbers at the top."""
    rows = sources.rows
    if len(rows) == 1 and rows[0].get("error") is None:
        return _of_one(rows[0])
    failed = sum(row.get("error") is not None for row in rows)
    known = [row for row in rows if row.get("converged") is not None and row.get("error") is None]
    found = [Fact(f"{len(rows):,}", "row" if len(rows) == 1 else "rows")] if rows else []
    if failed:
        found.append(Fact(f"{failed:,}", "failed", "bad"))
    if known:
        found.append(Fact(f"{sum(row['converged'] for row in known):,}", f"of {len(known):,} converged"))
    for name, word in (("setup", "setup"), ("n_main", "training-set size"), ("seed", "seed")):
        count = len({row.get(name) for row in rows} - {None})
        if count:
            found.append(Fact(f"{count:,}", word if count == 1 else f"{word}s"))
    if seconds := [row["seconds"] for row in rows if row.get("seconds") is not None]:
        found.append(Fact(duration(sum(seconds)), "of computing"))
    if sources.trajectories:
        found.append(Fact(f"{len(sources.trajectories):,}", "trajectories"))
    return found


def _of_one(row: Row) -> list[Fact]:
    """Return what a single run is about, and how it was set up."""
    found = [
        Fact(f"{row[name]:.4g}", name.replace("_", " "))
        for name in ("accuracy", "loss_best", "loss_final", "train_loss")
        if row.get(name) is not None
    ]
    words = {"n_main": "n main", "rescale": "rescale", "seed": "seed", "steps": "steps"}
    found += [Fact(spelled(row[name]), word) for name, word in words.items() if row.get(name) is not None]
    return found + ([] if row.get("seconds") is None else [Fact(duration(row["seconds"]), "of computing")])


def duration(seconds: float) -> str:
    """Write a time in the unit that fits it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def experiments(rows: Sequence[Row]) -> Grid:
    """Return a line for each experiment: what varied in it, and how its runs ended."""
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.get("experiment"), row.get("task")), []).append(row)
    axes = ("setup", "n_main", "seed", "rescale", "overlap", "k_main", "correlation", "magnitude", "solver")
    columns = ["experiment", "task", *axes, "rows", "failed", "converged", "computing", "median run"]
    grid = Grid("Experiments", columns, labels=2 + len(axes))
    for (name, task), own in groups.items():
        good = [row for row in own if row.get("error") is None]
        times = [row["seconds"] for row in own if row.get("seconds") is not None]
        ended = [row["converged"] for row in good if row.get("converged") is not None]
        failed = len(own) - len(good)
        labels = text_cells([spelled(name), spelled(task), *(_span(own, axis) for axis in axes)])
        numbers = [
            Cell(f"{len(own):,}"),
            Cell(f"{failed:,}" if failed else "", tone="bad"),
            Cell(f"{sum(ended):,}/{len(ended):,}" if ended else ""),
            *(_time(take(times)) if times else Cell("") for take in (sum, median)),
        ]
        grid.rows.append([*labels, *numbers])
    return grid.without_empty()


def _time(seconds: float) -> Cell:
    return Cell(duration(seconds), key=f"{seconds:g}")


def _span(rows: Sequence[Row], name: str) -> str:
    """Write the values of a column: all of them, or the first and last of many."""
    values = sorted({row.get(name) for row in rows} - {None}, key=lambda value: order(name, value))
    return _few([spelled(value) for value in values])


def _few(texts: Sequence[str]) -> str:
    if len(texts) <= _MOST_VALUES:
        return ", ".join(shortened(text) for text in texts)
    return f"{shortened(texts[0])}, {shortened(texts[1])}, … {shortened(texts[-1])} ({len(texts)} values)"


# Options, as configurations and sweeps have them


class Setting(NamedTuple):
    """How runs were configured.

    Attributes:
        differ: Options in which they differ, and the runs of each value.
        same: Options in which they agree.
        versions: Of packages, where configurations record them.
        notes: What is to be known.
    """

    differ: Grid
    same: Grid
    versions: list[str]
    notes: list[str]


def setting(sources: Sources) -> Setting:
    """Return how runs were configured, as far as their folders and measures tell."""
    folders = list(dict.fromkeys([*sources.folders.values(), *(p.parent for p in sources.summaries)]))
    read = _Configurations()
    configs = [read(path) for folder in folders[:_MOST_CONFIGS] if (path := newest(folder, CONFIG))]
    of_runs = [config for config in configs if config] or list(options_of(sources.measures).values())
    notes = []
    if len(folders) > _MOST_CONFIGS and configs:
        notes.append(f"the configurations of the first {_MOST_CONFIGS} of {len(folders):,} runs were read")
    differ = Grid("Options that differ", ["option", "values (runs)", "runs"], labels=1, texts=frozenset({1}))
    same = Grid("Options that are the same", ["option", "value"], labels=1, texts=frozenset({1}))
    for name in dict.fromkeys(name for options in of_runs for name in options):
        counts = Counter(_value(options.get(name)) for options in of_runs)
        if len(counts) > 1:
            texts = [f"{text} ({count})" for text, count in counts.most_common()]
            given = sum(name in options for options in of_runs)
            differ.rows.append(text_cells([name, _few(texts), f"{given:,}"]))
        elif (text := next(iter(counts))) != "null":
            same.rows.append(text_cells([name, text]))
    return Setting(differ, same, sorted(read.versions), notes)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else spelled(value)
    return shortened(" ".join(text.split()), 120)


class _Configurations:
    """Reads configurations, each text once: many runs have the same."""

    def __init__(self) -> None:
        self.versions: set[str] = set()
        self._known: dict[bytes, dict[str, Any]] = {}

    def __call__(self, path: Path) -> dict[str, Any]:
        """Return the options of a file by dotted name; none of one that cannot be read."""
        try:
            content = path.read_bytes()
            key = blake2b(content).digest()
            if key not in self._known:
                text = content.decode()
                self.versions |= {f"{name} {version}" for name, version in _VERSION.findall(text)}
                loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                loaded = yaml.load(text, loader)
                check_size(loaded)
                self._known[key] = dict(_flat(loaded, ""))
            return self._known[key]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
            return {}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield options by the name that ``lit-aux fit`` has for them; a class stands for itself."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
            if name.removeprefix("trainer.") not in _ELSEWHERE:
                yield from _flat(inner, name)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{number}")
    else:
        yield prefix, value


# Failures and warnings


def failures(sources: Sources, links: Links) -> Grid:
    """Return a line for each run that failed, with the last line that it said."""
    failed = [row for row in sources.rows if row.get("error") is not None]
    columns = ["run", "experiment", "setup", "n_main", "rescale", "seed", "why"]
    grid = Grid(f"{len(failed):,} failed", columns, labels=6, texts=frozenset({6}))
    for row in failed[:_MOST_FAILURES]:
        names = text_cells(spelled(row.get(name)) for name in columns[1:-1])
        names[1] = setup_cell(spelled(row.get("setup")))
        why = Cell(printable(shortened(str(row["error"]), 2000)), tone="bad")
        grid.rows.append([links.run(row.get("run")), *names, why])
    if len(failed) > _MOST_FAILURES:
        grid.notes.append(f"the first {_MOST_FAILURES} of {len(failed):,}")
    return grid.without_empty()


def warnings(folders: Iterable[Path]) -> list[str]:
    """Return the commonest warnings in what runs printed, and how many runs had each."""
    counts: Counter[str] = Counter()
    for folder in list(dict.fromkeys(folders))[:_MOST_CONFIGS]:
        with suppress(OSError), (folder / OUTPUT).open("rb") as file:
            text = file.read(1 << 18).decode(errors="replace")
            said = {f"{kind}: {shortened(what.strip(), 200)}" for kind, what in _WARNING.findall(text)}
            counts.update(said)
    return [f"{printable(text)} ({_runs(count)})" for text, count in counts.most_common(10)]


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


def last_change(sources: Sources) -> str:
    """Return when the newest of the files was written."""
    times = [path.stat().st_mtime for path in sources.files if path.exists()]
    return datetime.fromtimestamp(max(times)).strftime("%Y-%m-%d %H:%M:%S") if times else ""
