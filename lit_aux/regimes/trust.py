"""What a received configuration would import, and whether that is to be trusted.

A configuration names classes and functions, and building it runs what they do. Here they are listed and
looked up; what is not trusted is not imported for that.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import yaml

from lit_aux.errors import ConfigurationError
from lit_aux.identity.configuration import know_working_folder, working_folder
from lit_aux.identity.modules import spec_of

PACKAGES = (
    *("lit_aux", "lightning", "torch.nn", "torch.optim", "torchmetrics", "torchvision"),
    *("timm", "transformers", "peft"),
)
_MOST = 100_000  # values; aliases of YAML make very many of a short file
_DEEPEST = 10_000  # letters of an option; aliases may go round in a circle
_SIGNS = frozenset("-?:,[]{}#&*!|>'\"%@`\n")  # without which text is YAML of nothing but itself


@dataclass(frozen=True)
class Named:
    """A name in a configuration.

    Attributes:
        place: The option, ``model.backbone``.
        name: A dotted path, or text with an interpolation.
        must: Whether it can be nothing but the name of a class; else it may be any text with dots.
    """

    place: str
    name: str
    must: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


def check_trusted(config: Any, folder: Path, option: str, trust: bool) -> None:
    """Refuse a received configuration that would import what is not trusted; afterwards it can be built.

    Trusted are classes, no functions, of ``PACKAGES`` and of files in the working folder: subclasses of
    ``Module``, ``Optimizer``, ``LRScheduler``, ``Callback``, ``Metric``, ``LightningDataModule`` and
    ``Logger``, and lit_aux's integrators and settings. A file is not trusted if it lies in the received
    folder, or in the folder of the working folder through which that is reached: it may have come with it.

    Args:
        config: What ``yaml.safe_load`` read.
        folder: The folder that it lies in.
        option: The option and the value that named it, for the error.
        trust: Whether to import everything nevertheless; what is not trusted is printed.

    Raises:
        ConfigurationError: If something is not trusted, or the file expands to very many values.
    """
    names = list(dict.fromkeys(_names(config, option)))
    received = _received(folder)
    invalidate_caches()
    with working_folder():
        refused = {named: why for named in names if (why := _place(named, received))}
        if not refused or trust:  # else nothing at all is imported
            rest = [named for named in names if named not in refused]
            refused |= {named: why for named in rest if (why := _kind(named, received))}
    if refused and not trust:
        (first, why), *others = refused.items()
        more = f", and {len(others)} more ({', '.join(str(one) for one, _ in others[:3])})" if others else ""
        raise ConfigurationError(
            f"{option}: its config.yaml names {first}, {why}{more}; --trust imports it, which is to "
            "run what its author wrote"
        )
    if refused:
        print(f"--trust: imports {', '.join(map(str, refused))}", flush=True)
    know_working_folder()


def _names(config: Any, option: str) -> Iterator[Named]:
    """Yield all that may be a name of code, also in text that holds YAML or a type."""
    waiting: list[tuple[str, Any]] = [("", config)]
    count = 0
    while waiting:
        place, value = waiting.pop()
        count += 1
        if count > _MOST or len(place) > _DEEPEST:
            raise ConfigurationError(f"{option}: its config.yaml expands to more than {_MOST:,} values")
        last = place.rpartition(".")[2]
        if isinstance(value, Mapping):
            waiting += [(_joined(place, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple | set):
            waiting += [(place, inner) for inner in value]
        elif last == "class_path":
            yield Named(place.removesuffix(".class_path"), str(value), True)
        elif isinstance(value, str):
            if "${" in value:
                yield Named(place, value, True)
            elif _is_dotted(value):
                yield Named(place, value, False)
            elif (inner := _read(value)) != value:
                waiting.append((place, inner))
            else:
                for name in _in_type(value):
                    yield Named(place, name, False)


def _joined(place: str, key: str) -> str:
    if key == "init_args":
        return place
    return f"{place}.{key}" if place else key


def _is_dotted(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _read(text: str) -> Any:
    """Return what text holds as YAML, as parsers read it once more; the text where it holds nothing else."""
    if not _SIGNS & {*text}:
        return text
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return found if isinstance(found, str | list | dict) else text


def _in_type(text: str) -> list[str]:
    """Return the names in text that is a type, ``list[a.B] | c.D``."""
    if not {"[", "|"} & {*text}:
        return []
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = ast.walk(ast.parse(text.strip(), mode="eval"))
        names = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
        return [name for name in names if _is_dotted(name)]
    return []


def _received(folder: Path) -> Path:
    """Return the folder that may have come with a run: the working folder's own one on the way to it."""
    here, there = Path.cwd().resolve(), folder.resolve()
    if here in there.parents:
        return here / there.relative_to(here).parts[0]
    return there


def _place(named: Named, received: Path) -> str:
    """Say why a name is not trusted for where its module lies; empty where it is, or is of no code."""
    if "${" in named.name:
        return "which is filled in when it is read"
    if not _is_dotted(named.name):  # one word is looked up among the classes that are loaded
        return "" if named.name.isidentifier() else "which is no name of a class"
    parts = named.name.split(".")
    specs = _specs(named.name)
    if not specs:
        return "which is no file's" if parts[0] in sys.modules else ""
    if all(spec.origin is None and spec.submodule_search_locations is not None for spec in specs):
        return ""  # folders without code
    if any(part.startswith("__") for part in parts):
        return "which is no class of a package"
    package = next((p for p in PACKAGES if f"{named.name}.".startswith(f"{p}.")), None)
    own = all(_is_own(spec, received) for spec in specs)
    if package is None and not own:
        return _no_package(specs, received)
    if package not in (None, "lit_aux") and any(_came_with(spec, received) for spec in specs):
        return "which lies in the folder that was received"
    rest = parts[len(specs) :]
    if not named.must and package is None and not (rest and _may_have(specs[-1], rest[0])):
        return ""
    if len(rest) > 1:
        return f"which is {'.'.join(rest)} within a module, no class of its own"
    return "which is a module, no class" if not rest and named.must else ""


def _no_package(specs: list[ModuleSpec], received: Path) -> str:
    if any(_came_with(spec, received) for spec in specs):
        return "which lies in the folder that was received"
    return f"which is of none of {', '.join(PACKAGES)}, nor of a file in the working folder"


def _specs(name: str) -> list[ModuleSpec]:
    """Return the specs of the modules on the way to a name, as far as there are some; nothing is imported."""
    parts, found = name.split("."), []
    for end in range(1, len(parts) + 1):
        spec = spec_of(".".join(parts[:end]))
        if spec is None:
            break
        found.append(spec)
    return found


def _files(spec: ModuleSpec) -> list[Path]:
    """Return a module's file, or the folders of a package that has none, with links followed."""
    if spec.has_location and spec.origin is not None:
        return [Path(spec.origin).resolve()]
    return [Path(place).resolve() for place in spec.submodule_search_locations or ()]


def _is_own(spec: ModuleSpec, received: Path) -> bool:
    """Whether a module lies in the working folder, and did not come with what was received."""
    files, here = _files(spec), Path.cwd().resolve()
    return bool(files) and all(
        file.is_relative_to(here) and not _is_installed(file) and not file.is_relative_to(received)
        for file in files
    )


def _came_with(spec: ModuleSpec, received: Path) -> bool:
    return any(file.is_relative_to(received) and not _is_installed(file) for file in _files(spec))


@lru_cache(maxsize=4096)
def _is_installed(file: Path) -> bool:
    """Whether a file is among Python's own, which may be beneath the working folder."""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(file.is_relative_to(Path(place).resolve()) for place in places if place)


def _may_have(spec: ModuleSpec, name: str) -> bool:
    """Whether a file may define a name at its top: where it does not, text with a dot is no name of code."""
    if spec.origin is None or not spec.has_location:
        return False
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return True
    words = {word for node in ast.walk(tree) if isinstance(node, ast.Global) for word in node.names}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        found = [getattr(node, key, None) for key in ("id", "name", "asname")]  # variables, classes, imports
        words |= {str(word).partition(".")[0] for word in found if isinstance(word, str)}
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        waiting += [] if inside else ast.iter_child_nodes(node)
    return bool(words & {name, "*", "__getattr__", "globals", "setattr", "vars", "exec"})


def _kind(named: Named, received: Path) -> str:
    """Say why a name is not trusted for what it is, which is imported for that; empty where it is trusted."""
    if not _is_dotted(named.name) or not (specs := _specs(named.name)):
        return ""
    module, _, attribute = named.name.rpartition(".")
    package = any(f"{named.name}.".startswith(f"{p}.") for p in PACKAGES)
    if len(specs) != named.name.count("."):
        return ""
    if not named.must and not package and not _may_have(specs[-1], attribute):
        return ""
    try:
        found = getattr(import_module(module), attribute)
    except Exception:  # a module that cannot be imported, or has no such name: building it says so
        return ""
    if not isinstance(found, type):
        return f"which is no class but a {type(found).__name__}"
    if not issubclass(found, _bases()):
        return "which is no module, optimizer, schedule, callback, metric, data module or logger"
    defined = f"{found.__module__}.{found.__qualname__}"
    if defined != named.name and (why := _place(Named(named.place, defined, True), received)):
        return f"which is {defined}, {why}"
    return ""


@lru_cache(maxsize=1)
def _bases() -> tuple[type, ...]:
    from lightning import LightningDataModule
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
    from torchmetrics import Metric

    from lit_aux.integrators import Integrator
    from lit_aux.phases import PhaseSettings

    own = (Integrator, PhaseSettings)
    schedules = (LRScheduler, ReduceLROnPlateau)
    return Module, Optimizer, *schedules, Callback, Metric, LightningDataModule, Logger, *own
