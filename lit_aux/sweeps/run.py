"""One run of a sweep: its command line, its name and its folder."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.identity.configuration import named_code
from lit_aux.runs.table import run_hash
from lit_aux.sweeps.command_line import config_files, configured, fit_words, pairs, read_config, without
from lit_aux.sweeps.file import SweepFile
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
