"""A sweep file as ``wandb sweep`` takes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_aux import _yaml
from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_given
from lit_aux.sweeps.distributions import Spec, check

EXAMPLE = '["${env}", lit-aux, fit, --config, FILE, "${args}"]'
"""A command, in YAML; without the quotes, braces would be mappings."""
_ELSEWHERE = ("name", "description", "project", "entity", "metric", "program")
"""What only W&B makes use of."""


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        path: The file.
        method: ``grid``, ``random`` or ``bayes``.
        parameters: By dotted name, in the order of the file, what is said of each.
        command: The command line of a run, with W&B's macros.
        run_cap: Most runs; None for no limit.
        notes: What only W&B can do, a line each.
    """

    path: Path
    method: str
    parameters: Mapping[str, Spec]
    command: tuple[str, ...]
    run_cap: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The file's name, which its table's folder bears."""
        return self.path.stem


def read_sweep(path: str | Path) -> SweepFile:
    """Read and check a sweep file.

    Args:
        path: A YAML file.

    Raises:
        ConfigurationError: If it is none, or what it says is wrong; the message names file and key.
    """
    check_given("FILE", path)
    path = Path(path)
    content = _content(path)
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise ConfigurationError(f"{path}: method: {method!r} must be grid, random or bayes")
    parameters = dict(_flat(str(path), content["parameters"], ""))
    if not parameters:
        raise ConfigurationError(f"{path}: parameters: none is given")
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ConfigurationError(f"{path}: run_cap: {cap!r} must be a whole number of at least 1")
    return SweepFile(path, method, parameters, _command(path, content), cap, tuple(_notes(content)))


def _content(path: Path) -> dict[str, Any]:
    content = _yaml.read(path, "FILE")
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        hint = "; a configuration of one run starts with lit-aux fit --config" if _is_config(content) else ""
        raise ConfigurationError(f"FILE {path}: is no sweep file: it has no parameters{hint}")
    return content


def _is_config(content: Any) -> bool:
    return isinstance(content, dict) and bool({"model", "data", "trainer"} & {*content})


def _flat(path: str, parameters: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Spec]]:
    """Yield every parameter by its dotted name; groups of them have ``parameters`` of their own."""
    for key, spec in parameters.items():
        name = f"{prefix}{key}"
        place = f"{path}: parameters.{name}"
        if not name.isprintable() or not name.strip():
            raise ConfigurationError(f"{path}: parameters: {name!r} is no name of an option")
        if not isinstance(spec, Mapping):
            raise ConfigurationError(f"{place}: {spec!r} must be written as {{value: {spec}}}")
        if "parameters" in spec:
            if not isinstance(spec["parameters"], Mapping):
                raise ConfigurationError(f"{place}.parameters: {spec['parameters']!r} must hold parameters")
            yield from _flat(path, spec["parameters"], f"{name}.")
            continue
        check(place, spec)
        yield name, spec


def _command(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    command = content.get("command")
    if not isinstance(command, list) or not command:
        raise ConfigurationError(f"{path}: command: {command!r} must be a list such as {EXAMPLE}")
    return tuple(str(word) for word in command)


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    known = (*_ELSEWHERE, "method", "parameters", "command", "run_cap")
    for key in content:
        if key not in known:
            yield f"{key} is for W&B agents: every run ends as its configuration says"
