"""One run of a sweep: its command line, its name and its folder."""

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lit_aux import _yaml
from lit_aux.errors import ConfigurationError
from lit_aux.identity.configuration import named_code, option_in
from lit_aux.runs.table import run_hash
from lit_aux.sweeps.file import EXAMPLE, SweepFile
from lit_aux.sweeps.points import Point

_WITHOUT_EFFECT = (
    "trainer.default_root_dir",
    "trainer.phase_store",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)


@dataclass(frozen=True)
class SweepRun:
    """One run.

    Attributes:
        number: Its place in the sweep, from 0; SLURM's array index.
        point: Its value of each parameter.
        name: Twelve hexadecimal digits: a hash of its command line and of what its configuration files hold.
        folder: Its own folder.
        arguments: What follows ``lit-aux fit`` here.
        environment: What its command sets in the environment.
        configs: What its configuration files hold.
        varied: The parameters that differ from run to run.
        files: The text of its configuration files, by the name that the command line has for them.
    """

    number: int
    point: Point
    name: str
    folder: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    configs: tuple[Any, ...] = ()
    varied: Collection[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The run as people tell it from others: the last words of options that vary, and their values."""
        return ", ".join(
            f"{name.rpartition('.')[2]} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in self.point.items()
            if name in self.varied or not self.varied
        )

    def option(self, name: str) -> Any:
        """Return the run's value of an option of ``lit-aux fit``; None where nobody gives one."""
        return configured(self.arguments, self.configs, name)


def sweep_runs(
    sweep: SweepFile, points: Sequence[Point], out: Path, extra: Sequence[str] = (), logger: str | None = None
) -> list[SweepRun]:
    """Return the runs of a sweep; points that lead to the same command line are one run.

    Args:
        sweep: The file.
        points: Its points.
        out: Folder of the sweep; runs get folders in it and share first phases.
        extra: More options of ``lit-aux fit``, behind those of the points.
        logger: In place of the command's own; where that is W&B, None stands for csv.

    Raises:
        ConfigurationError: If the command is no ``lit-aux fit``, or a file that it names is not there.
    """
    runs: dict[str, SweepRun] = {}
    varied = [name for name, spec in sweep.parameters.items() if len(spec.get("values", "12")) > 1]
    varied = [name for name in varied if "value" not in sweep.parameters[name]]
    cached = lru_cache(maxsize=None)(read_config)
    text_of = lru_cache(maxsize=None)(lambda name: Path(name).read_text(encoding="utf-8"))
    for point in points:
        environment, words = fit_words(sweep, point)
        words += extra
        if odd := next((word for name, _, own in pairs(words) for word in own[:1] if word[:1] != "-"), None):
            raise ConfigurationError(f"{sweep.path}: command: {odd!r} belongs to no option of lit-aux fit")
        named = config_files(sweep, words)
        configs = tuple(cached(file) for file in named)
        name = _name(environment, words, configs)
        if name in runs:
            continue
        folder = out / "runs" / name
        arguments = tuple(_arguments(words, configs, folder, out / "phases", logger))
        files = {file: text_of(file) for file in map(str, named)}
        runs[name] = SweepRun(len(runs), point, name, folder, arguments, environment, configs, varied, files)
    return list(runs.values())


def _name(environment: Mapping[str, str], words: Sequence[str], configs: Sequence[Any]) -> str:
    """Hash what decides a run's numbers."""
    kept = without(words, *_WITHOUT_EFFECT, "config", "c")
    content = [config if isinstance(config, str) else _plain(config) for config in configs]
    code = named_code([list(words), list(configs)])
    named = {"words": kept, "configs": content, "environment": environment}
    return run_hash({**named, "code": code} if code else named)


def _plain(value: Any) -> Any:
    """Return what YAML holds with dates and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _arguments(
    words: Sequence[str], configs: Sequence[Any], folder: Path, store: Path, logger: str | None
) -> list[str]:
    """Return the options of a run on this machine: those of its command line, and its own places."""
    given = configured(words, configs, "trainer.logger")
    arguments = without(words, "trainer.default_root_dir", *(["trainer.logger"] if logger else []))
    if logger is None and "wandb" in str(given).lower():
        arguments, logger = without(arguments, "trainer.logger"), "csv"
    if logger is not None:
        arguments.append(f"--trainer.logger={logger}")
    if configured(words, configs, "trainer.phase_store") in (None, True):
        arguments = [*without(arguments, "trainer.phase_store"), f"--trainer.phase_store={store}"]
    if configured(words, configs, "trainer.enable_progress_bar") is None:
        arguments.append("--trainer.enable_progress_bar=false")
    return [*arguments, f"--trainer.default_root_dir={folder}"]


_MACRO = re.compile(r"\$\{(.+)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def expand(sweep: SweepFile, point: Point) -> list[str]:
    """Return the whole command line of a point, as a W&B agent runs it.

    Raises:
        ConfigurationError: For a macro that is unknown here.
    """
    filled: dict[str, list[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "args": [f"--{name}={value}" for name, value in point.items()],
        "args_no_equals": [word for name, value in point.items() for word in (f"--{name}", str(value))],
    }
    words: list[str] = []
    for word in sweep.command:
        word = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), word)
        macro = _MACRO.fullmatch(word)
        if macro is None:
            words.append(word)
        elif macro[1] in filled:
            words += filled[macro[1]]
        else:
            raise ConfigurationError(
                f"{sweep.path}: command: {word} is filled in by W&B alone; use ${{args}}"
            )
    return words


def fit_words(sweep: SweepFile, point: Point) -> tuple[dict[str, str], list[str]]:
    """Return what a point's command line sets in the environment, and what follows ``lit-aux fit`` in it.

    Raises:
        ConfigurationError: If the command is no ``lit-aux fit``.
    """
    words = expand(sweep, point)
    wrong = ConfigurationError(
        f"{sweep.path}: command: {shlex.join(sweep.command)!r} is no lit-aux fit; write {EXAMPLE}"
    )
    at = next((i for i, word in enumerate(words) if Path(word).name == "lit-aux"), None)
    if at is None:
        at = next(
            (i + 1 for i, word in enumerate(words[:-1]) if words[i : i + 2] == ["-m", "lit_aux.cli"]), None
        )
    if at is None or words[at + 1 : at + 2] != ["fit"]:
        raise wrong
    environment = {}
    for word in words[:at]:
        if assignment := _ASSIGNMENT.fullmatch(word):
            environment[assignment[1]] = assignment[2]
        elif Path(word).name not in ("env", "uv", "run", "python", "python3", "-m") and word[0] != "-":
            raise wrong
    return environment, words[at + 2 :]


def pairs(words: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the options of a command line: name without hyphens, value, and the words that they are."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.partition("=")
        if name.startswith("-") and not sign and rest:
            value = rest.pop(0)
            yield name.lstrip("-"), value, [word, value]
        else:
            yield name.lstrip("-"), value, [word]


def without(words: Iterable[str], *names: str) -> list[str]:
    """Return a command line without some options, and without those of what they name."""
    return [
        word
        for name, _, own in pairs(words)
        if name not in names and not name.startswith(tuple(f"{option}." for option in names))
        for word in own
    ]


def config_files(sweep: SweepFile, words: Sequence[str]) -> list[Path]:
    """Return the configuration files that a command line names, in its order.

    Raises:
        ConfigurationError: If one is not there.
    """
    files = []
    for name, value, _ in pairs(words):
        named = name in ("config", "c")
        if named and not Path(value).is_file():
            raise ConfigurationError(
                f"{sweep.path}: command: --config {value}: there is no such file in {Path.cwd()}; start the "
                "sweep in the folder that has it"
            )
        if named or (value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()):
            files.append(Path(value))
    return files


def read_config(path: Path) -> Any:
    """Return what a configuration file holds."""
    return _yaml.read(path, "--config")


def configured(words: Sequence[str], configs: Sequence[Any], option: str) -> Any:
    """Return the value that a run has of an option: that of the command line, else of its configurations.

    Args:
        words: The command line.
        configs: What its configuration files hold.
        option: Its dotted name, ``trainer.devices``; ``init_args`` need not be named.

    Returns:
        The value, None where nobody gives one.
    """
    given = [value for name, value, _ in pairs(words) if name.replace(".init_args", "") == option]
    if given:
        try:
            return yaml.safe_load(given[-1])
        except yaml.YAMLError:
            return given[-1]
    held = (option_in(config, option) for config in reversed(configs))
    found = next((value for value in held if value is not None), None)
    return found.get("class_path", found) if isinstance(found, Mapping) else found
