"""The code behind a class or a function: the syntax trees of its file and of all that the file imports."""

import ast
import dis
import linecache
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lit_aux.identity.modules import file_of, installed, library_of

_HAS_DOCSTRING = 0x4000000  # CO_HAS_DOCSTRING, from Python 3.13 on
_OF_DATACLASSES = (
    *("__init__", "__repr__", "__eq__", "__hash__", "__replace__", "__setattr__", "__delattr__"),
    *("__lt__", "__le__", "__gt__", "__ge__", "__getstate__", "__setstate__"),
)
_DEEPEST = 32  # decorators around a function; what makes up attributes as it is asked for them has no end
_READ = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

_METHODS, _MEASURES = "lit_aux.modules.methods", "lit_aux.callbacks._measurements"
_STUDENTS, _METRICS = "lit_aux.modules.student_training", "lit_aux.metrics.dimensionality"
FORMER: dict[str, str] = {
    "lit_aux.integrators.descent.GradientDescent": "lit_aux.integrators.gradient_descent.GradientDescent",
    "lit_aux.integrators.descent.TorchOptimizer": "lit_aux.integrators.torch_optimizer.TorchOptimizer",
    f"{_STUDENTS}.IntegratorOptimizer": "lit_aux.modules.integrator_optimizer.IntegratorOptimizer",
    f"{_METHODS}.weightings.RandomWeighting": f"{_METHODS}.random_weighting.RandomWeighting",
    f"{_METHODS}.weightings.Scalarization": f"{_METHODS}.scalarization.Scalarization",
    f"{_METHODS}.weightings.UncertaintyWeighting": f"{_METHODS}.uncertainty.UncertaintyWeighting",
    f"{_MEASURES}.LayerDimensionality": "lit_aux.callbacks.layer_dimensionality.LayerDimensionality",
    f"{_MEASURES}.MixingMeasurement": "lit_aux.callbacks.mixing_measurement.MixingMeasurement",
    f"{_MEASURES}.TaskMeasurement": "lit_aux.callbacks.task_measurement.TaskMeasurement",
    f"{_MEASURES}.FailedMeasurement": "lit_aux.callbacks.task_measurement.FailedMeasurement",
    f"{_MEASURES}.WeightMeasurement": "lit_aux.callbacks.weight_measurement.WeightMeasurement",
    "lit_aux.data.relu_teacher.ReLUTeacher": "lit_aux.data.relu_teacher_net.ReLUTeacher",
    f"{_METRICS}.merge_moments": "lit_aux.metrics._moments.merge_moments",
    f"{_METRICS}.DimensionalityMetric": "lit_aux.metrics._base.DimensionalityMetric",
    f"{_METRICS}.ParticipationRatio": "lit_aux.metrics.participation_ratio.ParticipationRatio",
    f"{_METRICS}.EffectiveSharedDimensions": (
        "lit_aux.metrics.effective_shared_dimensions.EffectiveSharedDimensions"
    ),
}
"""The first dotted names of classes and functions of lit_aux that have moved or have another name since, by
those that they have now. Keys of stored phases hold the first ones."""


class NoSourceError(Exception):
    """Code whose text cannot be seen; the message is half a sentence that says whose and why."""


def digest(*parts: str | bytes) -> str:
    """Return 32 hexadecimal digits that stand for some texts."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(f"{len(data)}:".encode() + data)
    return hashed.hexdigest()


def code_of_file(path: str | Path) -> str:
    """Return the digest of a file's syntax tree, without comments, docstrings and positions.

    Args:
        path: A source file, or a compiled extension, which goes by its bytes.

    Raises:
        NoSourceError: If there is no such file, or it is no Python.
    """
    try:
        state = os.stat(path)
        return _digest_of_file(str(path), state.st_mtime_ns, state.st_size)
    except (OSError, SyntaxError, ValueError) as error:
        raise NoSourceError(f"{path} cannot be read as Python ({error})") from None


def add_module(found: dict[str, str], module: str, file: str | None = None) -> None:
    """Add the digests of a module's code and of all that it imports, however far off, by module name.

    What is installed, the standard library and lit_aux are left out: they go by their versions. Nothing is
    imported for it.

    Args:
        found: Where they are added; modules that are there already are taken to be complete.
        module: Its dotted name.
        file: Its file, where that is known.

    Raises:
        NoSourceError: If there is no source.
    """
    waiting = [(module, file or file_of(module))]
    while waiting:
        name, path = waiting.pop()
        if name in found or (path is not None and installed(path)):
            continue
        if path is None:
            raise NoSourceError(f"the module {name} has no source file")
        found[name] = code_of_file(path)
        _check_loaded(name, path)
        for needed in _imports(path, name):
            if needed not in found and library_of(needed) is None:
                where = file_of(needed)
                if where is not None:  # else it is an attribute, or not there and imported by nobody
                    waiting.append((needed, where))


def add_code(found: dict[str, str], thing: Any) -> bool:
    """Add the digests of all code that a class or function depends on, by module or notebook cell.

    Args:
        found: Where they are added.
        thing: A class or a Python function.

    Returns:
        Whether it is somebody's own: False for what is installed, built in or lit_aux's.

    Raises:
        NoSourceError: If it has no source: typed into a prompt, made by ``exec``.
    """
    name = module_of(thing)
    file, cell = _place(thing)
    if cell is not None:
        found[f"{name}.{thing.__qualname__}"] = digest(_canonical(cell, file or "cell"))
        return True
    if file is None:
        if name != "__main__" and library_of(name) is not None:
            return False
        raise NoSourceError(f"{name}.{thing.__qualname__} has no source file")
    if _by_version(name, file):
        return False
    add_module(found, name, file)
    return True


def module_of(thing: Any) -> str:
    """Return the module that a class or function is from; spawned processes have their own word for main."""
    name: str = getattr(thing, "__module__", None) or "builtins"
    return "__main__" if name == "__mp_main__" else name


def former(module: str | None, name: str) -> tuple[str | None, str]:
    """Return the module and the qualified name that a class or function of lit_aux had at first.

    Args:
        module: Its module now.
        name: Its qualified name now.
    """
    outer, dot, inner = name.partition(".")
    first = FORMER.get(f"{module}.{outer}")
    if first is None:
        return module, name
    module, _, outer = first.rpartition(".")
    return module, f"{outer}{dot}{inner}"


def name_of(thing: Any) -> str:
    """Return the dotted name by which keys know a class or function."""
    return ".".join(map(str, former(module_of(thing), thing.__qualname__)))


def _place(thing: Any) -> tuple[str | None, str | None]:
    """Return the file that a class or function is from, and the text of the cell if it is a notebook's."""
    own = [*_unwrapped(thing)] if isinstance(thing, FunctionType) else _written(thing)
    for function in own:
        file = function.__code__.co_filename
        if not Path(file).is_file():
            if cell := "".join(linecache.getlines(file)):
                return file, cell
        elif not installed(file):  # else a library has wrapped it, or made it
            return file, None
    lost = [f.__code__.co_filename for f in own if not Path(f.__code__.co_filename).is_file()]
    name = getattr(thing, "__module__", None) or "builtins"
    known = file_of(name)
    # scripts started by a relative path know themselves by it, wherever they have gone since
    here = known is not None and (not lost or Path(known).name == Path(lost[0]).name)
    if known is not None and here and not (name == "__main__" and installed(known)):
        return known, None
    return (None, None) if own else (None, _cell_of_class(thing))


def interactive(function: FunctionType) -> bool:
    """Whether a function was written in a notebook: what it refers to lies in other cells."""
    return not Path(function.__code__.co_filename).is_file()


def bytecode(code: CodeType) -> str:
    """Return a digest of what a function does, alike wherever it stands and whatever its docstring."""
    constants = list(code.co_consts)
    flagged = sys.version_info < (3, 13) or bool(code.co_flags & _HAS_DOCSTRING)
    if constants and isinstance(constants[0], str) and flagged and not code.co_name.startswith("<"):
        constants[0] = None
    written = [
        bytecode(c) if isinstance(c, CodeType) else f"{type(c).__name__} {_spelled(c)}" for c in constants
    ]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount)
    return digest(code.co_code, repr(written), repr(names))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of all functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def globals_in(code: CodeType) -> Iterator[str]:
    """Yield the globals that a function, and those within it, read."""
    steps = (step for inner in _codes(code) for step in dis.get_instructions(inner))
    return (step.argval for step in steps if step.opname in _READ)


def attributes_read(code: CodeType, variable: str) -> set[str] | None:
    """Return which attributes of a global a function reads; None where it takes the whole of it."""
    found: set[str] = set()
    for inner in _codes(code):
        steps = [step for step in dis.get_instructions(inner) if step.opname != "PUSH_NULL"]
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if step.opname in _READ and step.argval == variable:
                if following is None or following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    return None
                found.add(following.argval)
    return found


@lru_cache(maxsize=1024)
def attributes_set(kind: type) -> frozenset[str]:
    """Return the names of the attributes that the functions in a class's body assign."""
    codes = (code for function in own_functions(kind) for code in _codes(function.__code__))
    steps = (step for code in codes for step in dis.get_instructions(code))
    return frozenset(step.argval for step in steps if step.opname == "STORE_ATTR")


def own_functions(kind: type) -> Iterator[FunctionType]:
    """Yield the functions written in a class's body, also those behind properties and decorators."""
    made = vars(kind).get("__dataclass_fields__") is not None
    for name, value in vars(kind).items():
        if made and name in _OF_DATACLASSES:
            continue
        parts: tuple[Any, ...] = (getattr(value, "__func__", value),)
        if isinstance(value, property):
            parts = (value.fget, value.fset)
        for part in parts:
            inner = getattr(part, "func", part)  # behind a cached property
            yield from _unwrapped(inner if isinstance(inner, FunctionType) else part)


def _unwrapped(function: Any) -> Iterator[FunctionType]:
    """Yield a function and those that it is wrapped around."""
    for _ in range(_DEEPEST):
        if isinstance(function, FunctionType):
            yield function
        function = getattr(function, "__wrapped__", None)


def _written(kind: Any) -> list[FunctionType]:
    """Return the functions in a class's body that were written there, none that were put there later."""
    own = own_functions(kind) if isinstance(kind, type) else ()
    here = [function for function in own if function.__module__ == kind.__module__]
    return [function for function in here if function.__qualname__.startswith(kind.__qualname__)]


def _cell_of_class(kind: Any) -> str | None:
    """Return the newest notebook cell that defines a class without functions; None where there is none."""
    for file in reversed(list(linecache.cache)):
        text = "" if Path(file).is_file() else "".join(linecache.getlines(file))
        if f"class {getattr(kind, '__name__', '')}" in text:
            return text
    return None


def _by_version(name: str, file: str) -> bool:
    return name.partition(".")[0] == "lit_aux" or installed(file)


@lru_cache(maxsize=4096)
def _digest_of_file(path: str, changed: int, size: int) -> str:
    if not path.endswith((".py", ".pyw", ".pyi")):
        return digest(Path(path).read_bytes())
    return digest(_canonical(_text(path), path))


def _text(path: str) -> str:
    import tokenize

    with tokenize.open(path) as file:  # in the encoding that the file declares
        return file.read()


def _canonical(source: str, file: str) -> str:
    """Return a syntax tree as text, without docstrings and positions."""
    tree = ast.parse(source, file)
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS) and node.body and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _imports(path: str, module: str) -> frozenset[str]:
    """Return the names of all modules that a file may import, and of the packages that hold them."""
    if not path.endswith((".py", ".pyw")):
        return frozenset()
    state = os.stat(path)
    package = module if Path(path).stem == "__init__" else module.rpartition(".")[0]
    return _imports_in(path, package, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _imports_in(path: str, package: str, changed: int, size: int) -> frozenset[str]:
    found: set[str] = {package} - {""}
    for node in ast.walk(ast.parse(_text(path), path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            kept = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*kept, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and _imports_by_name(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.add(name.value)
    parents = {name.rsplit(".", cut)[0] for name in found for cut in range(1, name.count(".") + 1)}
    return frozenset((found | parents) - {""})


def _imports_by_name(called: ast.expr) -> bool:
    return getattr(called, "attr", getattr(called, "id", "")) in ("import_module", "__import__")


def _check_loaded(name: str, path: str) -> None:
    """Refuse a file that was edited after this process imported it: what runs is not what it says.

    Raises:
        NoSourceError: If a function of the module is not in the file any more, or does something else there.
    """
    module = sys.modules.get(name)
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if module is None or type(loader) is not SourceFileLoader:  # others rewrite what they load, as pytest
        return
    state = os.stat(path)
    written = _functions_in(path, state.st_mtime_ns, state.st_size)
    for function in _loaded(module, path):
        if bytecode(function.__code__) not in written:
            raise NoSourceError(
                f"{path} was changed after it was imported; start again to have it identified"
            )


def _loaded(module: ModuleType, path: str) -> Iterator[FunctionType]:
    """Yield the functions of a loaded module, and those in its classes, that come from its file."""
    for value in list(vars(module).values()):
        if not isinstance(value, type | FunctionType) or value.__module__ != module.__name__:
            continue
        functions = own_functions(value) if isinstance(value, type) else [value]
        for function in functions:
            if isinstance(function, FunctionType) and function.__code__.co_filename == path:
                yield function


@lru_cache(maxsize=1024)
def _functions_in(path: str, changed: int, size: int) -> frozenset[str]:
    """Return the bytecode of every function in a file."""
    return frozenset(map(bytecode, _codes(compile(_text(path), path, "exec", dont_inherit=True))))


def _spelled(value: Any) -> str:
    """Write a constant; sets among them have no order of their own, nor do objects within them."""
    if isinstance(value, frozenset):
        return repr(sorted(map(_spelled, value)))
    if isinstance(value, tuple):
        return repr([f"{type(v).__name__} {_spelled(v)}" for v in value])
    return repr(value)
