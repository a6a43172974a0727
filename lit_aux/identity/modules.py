"""Where modules lie: installed, or somebody's own code."""

import os
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_LIBRARIES = ("site-packages", "dist-packages")


def library_of(module: str) -> str | None:
    """Return the package that a module belongs to where it goes by its version: no code of the user's own.

    Args:
        module: Its dotted name.

    Returns:
        ``lit_aux``, the name of an installed package, ``python`` for the standard library; None for code that
        lies elsewhere, editable installs among it, and for modules that nobody knows.
    """
    root = module.partition(".")[0]
    if root == "lit_aux":
        return root
    if root in sys.stdlib_module_names and root not in ("__main__", "__mp_main__"):
        return "python"
    file = file_of(module)
    return None if file is None or not installed(file) else root


@lru_cache(maxsize=4096)
def installed(file: str) -> bool:
    """Whether a file is of an installed package or the standard library.

    Paths are taken as Python found them: where an installer links files into site-packages, they lie there.
    """
    path = os.path.abspath(file)
    if any(part in _LIBRARIES for part in Path(path).parts):
        return True
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return any(path.startswith(folder + os.sep) for folder in folders if folder)


def file_of(module: str) -> str | None:
    """Return a module's file: as imported, else where it would be imported from; nothing is imported."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return _source(getattr(loaded, "__file__", None))
    spec = spec_of(module)
    return None if spec is None else _source(spec.origin)


def _source(file: str | None) -> str | None:
    return file if file is not None and Path(file).is_file() and not file.endswith(".pyc") else None


def spec_of(module: str) -> ModuleSpec | None:
    """Find a module's spec one component after the other: no package on the way is imported.

    Args:
        module: Its dotted name.

    Returns:
        None where there is no such module, or one that was made without a spec.
    """
    path: Any = None
    spec = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        loaded = sys.modules.get(name)
        if loaded is not None:
            path = getattr(loaded, "__path__", None)
            spec = getattr(loaded, "__spec__", None)
        else:
            spec = _asked(name, path)
            path = None if spec is None else spec.submodule_search_locations
        if spec is None or (path is None and end < len(parts)):
            return None
    return spec


def _asked(name: str, path: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find: Callable[..., ModuleSpec | None] | None = getattr(finder, "find_spec", None)
        try:
            spec = None if find is None else find(name, path, None)
        except KeyError:  # a folder without code in another one, which Python takes to be imported
            spec = ModuleSpec(name, None, is_package=True)
            places = [os.path.join(place, name.rpartition(".")[2]) for place in path or ()]
            spec.submodule_search_locations = [place for place in places if os.path.isdir(place)]
        except (ImportError, ValueError, AttributeError):
            spec = None
        if spec is not None:
            return spec
    return None


def imported(path: object) -> Any:
    """Return what a dotted name means, its module imported; None where there is no such thing."""
    module, _, name = str(path).rpartition(".")
    with suppress(ImportError, AttributeError, ValueError):
        return getattr(import_module(module), name)
    return None


def version_of(package: str) -> str:
    """Return the version of a package by the name under which it is imported; empty where it tells none."""
    module = sys.modules.get(package)
    told = getattr(module, "__version__", None)
    if isinstance(told, str):
        return str(told)
    from importlib.metadata import packages_distributions, version

    names = packages_distributions().get(package, [])
    return version(names[0]) if names else ""
