"""Anything that a run is built of, written as names and values that are the same in every process."""

import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from copyreg import dispatch_table
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.optim import Optimizer

from lit_aux.errors import first_line
from lit_aux.identity import source
from lit_aux.identity.modules import library_of, version_of
from lit_aux.identity.objects import (
    bytes_of,
    has_plain_state,
    is_descriptor,
    is_of_command_line,
    is_own_method,
    saved_script,
    state_of,
)

Tree = dict[str, str]
UNKNOWN = "?"
_LONGEST = 80
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range, slice)
_NAMED = (torch.dtype, torch.layout, torch.memory_format, torch.Size)
_LOCKS = re.compile(r"^(_thread|threading|multiprocessing)\.")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
DOES = " does"
"""Ends the name under which stands what a function of somebody's own does."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_TORCH = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_full_backward_hook"}
_OF_OPTIMIZER = re.compile(r"hooks?$|^state$|^_(warned_|zero_grad_|cuda_graph|opt_called|step_count)")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class UnidentifiedError(Exception):
    """Something cannot be told from others reliably; the message says where it is and why."""


class Encoder:
    """Writes objects as a flat mapping from names to values, or to digests of what is long.

    Two objects get the same entries where whatever is done with them comes out the same: plain values,
    containers, tensors (dtype, shape and values), modules with buffers and private attributes, functions with
    what they do, their defaults and closures, any other object with its class and attributes. What stands in
    several places is one thing: the second is written as the first's name. Beside that, the code of
    everything that is nobody's library, and the versions of the libraries.

    Args:
        omit: Says by name and value which attributes are to be left out.
        stand_in: Says which objects are written as one word, as they are described elsewhere.
        strict: Whether what cannot be identified is an error; else it is written as ``?``.

    Attributes:
        tree: Values and digests by name.
        code: Digests of syntax trees by module.
        versions: Versions by package.
    """

    def __init__(
        self,
        omit: Callable[[Any, str, Any], bool] = lambda owner, name, value: False,
        stand_in: Callable[[Any], str | None] = lambda value: None,
        *,
        strict: bool = True,
    ) -> None:
        self.tree: Tree = {}
        self.code: Tree = {}
        self.versions: Tree = {}
        self._omit, self._stand_in, self._strict = omit, stand_in, strict
        self._seen: dict[int, tuple[str, Any]] = {}
        self._known: set[Any] = set()
        self._written: dict[tuple[str, int], Any] = {}

    def add(self, name: str, value: Any) -> "Encoder":
        """Write a value under a name.

        Raises:
            UnidentifiedError: If a part of it has no source, or nothing to be known by.
        """
        try:
            if not self._simple(name, value) and not self._again(name, value):
                self._object(name, value)
        except Exception as error:  # attributes of strangers may do anything when they are looked at
            if self._strict:
                raise UnidentifiedError(_reason(name, value, error)) from None
            self.tree[name] = UNKNOWN
        return self

    def key(self) -> str:
        """Return a digest of all that was added, the code and the versions."""
        return source.digest(*(repr(sorted(part.items())) for part in (self.tree, self.code, self.versions)))

    def flat(self) -> Tree:
        """Return all that :meth:`key` is a digest of, by name."""
        code = {f"code of {name}": value for name, value in self.code.items()}
        return {**self.tree, **code, **{f"version of {name}": value for name, value in self.versions.items()}}

    # One kind after the other

    def _simple(self, name: str, value: Any) -> bool:
        """Write what needs no look inside; return whether it was that."""
        word = self._stand_in(value)
        if word is not None:
            self._put(name, f"<{word}>")
        elif isinstance(value, Enum):
            self._put(name, f"{type(value).__qualname__}.{value.name}")
        elif type(value) in _PLAIN or isinstance(value, _NAMED):
            self._put(name, repr(value))
        elif isinstance(value, PurePath):
            self._put(name, repr(str(value)))
        elif isinstance(value, np.generic):
            self._put(name, f"{value.dtype} {value!r}")
        elif isinstance(value, ReferenceType):
            self._put(name, "<reference>")
        elif isinstance(value, torch.device):  # where something is computed decides no number
            self._put(name, "<device>")
        elif is_of_command_line(value):  # it builds what options say, and carries them all
            self._put(name, "<command line>")
        elif isinstance(value, type):
            self._put(name, self.add_class(value))
        elif isinstance(value, OpOverload | OpOverloadPacket | HigherOrderOperator):
            self._version(type(value).__module__)
            self._put(name, f"operator {value}")
        else:
            return False
        return True

    def _again(self, name: str, value: Any) -> bool:
        """Write the first name of what has one already; return whether it has."""
        if type(value) in (tuple, frozenset):  # which of these are one object is up to the interpreter
            return False
        if id(value) in self._seen:
            self._put(name, f"= {self._seen[id(value)][0]}")
            return True
        self._seen[id(value)] = (name, value)  # kept, so that no other object gets its number
        return False

    def _object(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensor(name, value)
        elif type(value) in (np.ndarray, np.memmap):
            self._array(name, value)
        elif isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            self._put(name, f"script {source.digest(saved_script(value))}")
        elif isinstance(value, nn.Module):
            self._module(name, value)
        elif isinstance(value, Optimizer):
            self._attributes(name, value, vars(value), without=_OF_OPTIMIZER)
        elif isinstance(value, ModuleType):
            self._put(name, f"module {value.__name__}")
            self._module_code(value.__name__)
        elif callable(value) and isinstance(value, FunctionType | MethodType | BuiltinFunctionType | partial):
            self._function(name, value)
        elif isinstance(value, torch.Generator):
            self._put(name, f"generator {source.digest(bytes_of(value.get_state()))}")
        elif isinstance(value, re.Pattern):
            self._put(name, repr(value))
        elif type(value) in (dict, MappingProxyType) or type(value).__name__ in (
            "OrderedDict",
            "defaultdict",
        ):
            self._mapping(name, value)
        elif type(value) in (list, tuple, set, frozenset) or type(value).__name__ == "deque":
            self._sequence(name, value)
        else:
            self._other(name, value)

    def _tensor(self, name: str, value: Tensor) -> None:
        if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
            return self._put(name, f"uninitialized {value.dtype}")
        if value.is_nested:
            return self._sequence(name, value.unbind())
        for kind in TENSOR_HOOKS:
            for number, hook in enumerate((getattr(value, kind, None) or {}).values()):
                if not self._omit(value, kind, hook):
                    self.add(f"{name}.{kind}.{number}", hook)
        if value.layout != torch.strided:
            value = value.coalesce() if value.layout == torch.sparse_coo else value
            self._put(name, f"{value.layout} {tuple(value.shape)}")
            parts = ("indices", "values") if value.layout == torch.sparse_coo else ("values",)
            for part in parts:
                self._put(f"{name}.{part}", source.digest(bytes_of(getattr(value, part)())))
            return None
        if value.is_quantized:
            whole = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            each = ("q_per_channel_scales", "q_per_channel_zero_points", "q_per_channel_axis")
            kinds = ("q_scale", "q_zero_point") if whole else each
            self.add(f"{name}.scale", tuple(getattr(value, kind)() for kind in kinds))
            value = value.int_repr()
        frozen = " frozen" if isinstance(value, nn.Parameter) and not value.requires_grad else ""
        return self._put(name, f"{value.dtype} {tuple(value.shape)} {source.digest(bytes_of(value))}{frozen}")

    def _array(self, name: str, value: Any) -> None:
        if value.dtype.hasobject:
            self._sequence(name, value.tolist())
        else:
            content = source.digest(np.ascontiguousarray(value).tobytes())
            self._put(name, f"{value.dtype} {value.shape} {content}")

    def _module(self, name: str, module: nn.Module) -> None:
        if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:  # by torch.compile
            self._put(f"{name}.compiled", "True")
            self.add(name, module._orig_mod)
            return
        own = {
            key: value
            for key, value in vars(module).items()
            if key not in _OF_TORCH and not is_own_method(value, module)
        }
        self._attributes(name, module, own)
        for kind in ("_parameters", "_buffers", "_modules"):
            for key, value in getattr(module, kind).items():
                if not self._omit(module, key, value):
                    self.add(f"{name}.{key}", value)
        for kind in HOOKS:
            for number, hook in enumerate(getattr(module, kind, {}).values()):
                if not self._omit(module, kind, hook):
                    self.add(f"{name}.{kind}.{number}", hook)
        if getattr(module, "_compiled_call_impl", None) is not None:
            self._put(f"{name}.compiled", "True")
        if not module.training and not self._omit(module, "training", False):  # as Lightning leaves it
            self._put(f"{name}.training", "False")
        if module._modules:  # a Sequential runs them in this order
            self._put(f"{name}.modules", ", ".join(module._modules))
        if unsaved := module._non_persistent_buffers_set:
            self._put(f"{name}.buffers that are not saved", ", ".join(sorted(unsaved)))

    def _function(self, name: str, value: Any) -> None:
        if isinstance(value, partial):
            self._put(name, "partial")
            self.add(f"{name}.function", value.func)
            self._sequence(f"{name}.arguments", value.args)
            self._mapping(f"{name}.options", value.keywords)
        elif isinstance(value, MethodType):
            self._put(name, f"method {source.former(value.__module__, value.__func__.__qualname__)[1]}")
            self.add(f"{name}.function", value.__func__)
            self.add(f"{name}.owner", value.__self__)
        elif (compiled := getattr(value, "_torchdynamo_orig_callable", None)) is not None:
            self._put(f"{name}.compiled", "True")
            self.add(name, compiled)
        elif isinstance(value, FunctionType):
            own = source.add_code(self.code, value)
            self._put(name, source.name_of(value) if own else self._of_library(value))
            if own:
                self._put(f"{name}{DOES}", source.bytecode(value.__code__))
            self._inner(name, value, own)
        else:
            owner = getattr(value, "__self__", None)
            self._put(name, f"built-in {getattr(value, '__module__', '')}.{value.__qualname__}")
            if owner is not None and not isinstance(owner, ModuleType | type):
                self.add(f"{name}.owner", owner)

    def _inner(self, name: str, function: FunctionType, own: bool) -> None:
        """Write what a function carries with it: defaults, closure, and globals that are plain values."""
        for part in ("__defaults__", "__kwdefaults__"):
            if value := getattr(function, part):
                self.add(f"{name}.{part.strip('_')}", value)
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if variable != "__class__":
                self.add(f"{name}.{variable}", content)
        for key, content in vars(function).items():  # f.scale = 2
            if own and key != "__wrapped__" and not key.startswith("_torch"):
                self.add(f"{name}.{key}", content)
        if own:
            self._globals(function)

    def _globals(self, function: FunctionType) -> None:
        """Write the globals that a function reads, and what it reads of modules of its writer's.

        The code tells how they begin, not what they are by now: files, options and the environment decide.
        """
        read = sorted({*source.globals_in(function.__code__)})
        here, typed = source.module_of(function), source.interactive(function)
        for variable in (name for name in read if name in function.__globals__):
            value = function.__globals__[variable]
            module = isinstance(value, ModuleType)
            if module and typed:
                self._module_code(value.__name__)
            if module and library_of(value.__name__) is not None:
                continue
            parts = source.attributes_read(function.__code__, variable)
            if module or (type(value) in (Namespace, SimpleNamespace) and parts is not None):
                where = value.__name__ if module else f"{here}.{variable}"
                for part in sorted(vars(value).keys() & (vars(value) if parts is None else parts)):
                    self._global(where, part, vars(value)[part])
            else:
                self._global(here, variable, value, typed)

    def _global(self, module: str, variable: str, value: Any, needed: bool = False) -> None:
        """Write a global once, and what it carries (``?`` where that has no identity), but for its code."""
        place = f"global {module}.{variable}"
        if isinstance(value, ModuleType) or (place, id(value)) in self._written:
            return
        self._written[place, id(value)] = value
        if (
            isinstance(value, type | FunctionType)
            and not needed
            and library_of(source.module_of(value)) is not None
        ):
            return
        self._add_leniently(place, value, needed)

    def _add_leniently(self, name: str, value: Any, needed: bool = False) -> None:
        """Add what must be identified only where it is needed."""
        strict, self._strict = self._strict, needed and self._strict
        try:
            self.add(name, value)
        finally:
            self._strict = strict

    def _mapping(self, name: str, value: Mapping[Any, Any]) -> None:
        keys = [key if type(key) is str else f"{type(key).__name__} {self._key(key)}" for key in value]
        self._put(name, f"{type(value).__name__} of {len(value)}: {', '.join(keys)}")
        if (factory := getattr(value, "default_factory", None)) is not None:
            self.add(f"{name}.default", factory)
        for key, inner in zip(keys, value.values(), strict=True):
            self.add(f"{name}.{key}", inner)

    def _sequence(self, name: str, value: Iterable[Any]) -> None:
        members = list(value)
        if isinstance(value, set | frozenset):
            members.sort(key=self._key)
        if all(type(member) in _PLAIN for member in members) and type(value).__name__ != "deque":
            return self._put(name, repr(tuple(members) if isinstance(value, tuple) else members))
        bound = getattr(value, "maxlen", None)
        self._put(name, f"{type(value).__name__} of {len(members)}{'' if bound is None else f' in {bound}'}")
        for number, member in enumerate(members):
            self.add(f"{name}.{number}", member)
        return None

    def _key(self, key: Any) -> str:
        """Return what a key of a mapping, or a member of a set, is in its place."""
        if type(key) in _PLAIN:
            return repr(key)
        if id(key) in self._seen:
            return f"= {self._seen[id(key)][0]}"
        inner = Encoder(self._omit, self._stand_in).add("", key)
        self.code |= inner.code
        self.versions |= inner.versions
        return source.digest(repr(sorted(inner.tree.items())))

    def _other(self, name: str, value: Any) -> None:
        """Write any other object as pickle sees it: its class and its state."""
        kind = type(value)
        if _LOCKS.match(f"{kind.__module__}.") or kind.__name__ in ("lock", "RLock"):
            return self._put(name, "<lock>")
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and kind.__module__ == "functools":
            self.add(name, wrapped)
            return None
        try:
            registered = dispatch_table.get(kind)
            if registered is not None:
                reduced: Any = registered(value)
            else:
                reduced = None if has_plain_state(kind) else value.__reduce_ex__(4)
        except Exception as error:
            raise UnidentifiedError(
                f"{name}: a {kind.__qualname__} cannot be identified ({first_line(error)})"
            ) from None
        if isinstance(reduced, str):
            return self._put(name, f"{kind.__module__}.{reduced}")
        if reduced is None:
            self._attributes(name, value, state_of(value))
            return None
        self._put(name, self.add_class(kind))
        function, arguments, *rest = reduced
        if getattr(function, "__name__", "") not in ("__newobj__", "__newobj_ex__", "_reconstructor"):
            self.add(f"{name}.made by", function)
        self._sequence(f"{name}.from", [a for a in arguments if a is not kind])
        state, members, items = (*rest, None, None, None)[:3]
        if isinstance(state, dict):
            self._attributes(name, value, state)
        elif state is not None:
            self.add(f"{name}.state", state)
        for part, content in (("members", members), ("items", items)):
            if content is not None:
                self._sequence(f"{name}.{part}", list(content))
        return None

    def _attributes(self, name: str, owner: Any, values: Mapping[str, Any], without: Any = None) -> None:
        self._put(name, self.add_class(type(owner)))
        for key in sorted(values, key=str):
            if not (without and without.search(key)) and not self._omit(owner, key, values[key]):
                self.add(f"{name}.{key}", values[key])

    # Classes and code

    def add_class(self, kind: type) -> str:
        """Return a class's name; note its code, or its package's version.

        Raises:
            NoSourceError: If it has no source.
        """
        named = source.name_of(kind)
        if kind in self._known:
            return named
        self._known.add(kind)
        for base in kind.__mro__:
            if base in self._known and base is not kind:
                continue
            self._known.add(base)
            if source.add_code(self.code, base):
                self._body(f"class {source.name_of(base)}", base)
            else:
                self._version(base.__module__)
        return named

    def _body(self, name: str, kind: type) -> None:
        """Write what a class has that its file does not tell: values, closures, functions put there later."""
        for key, value in sorted(vars(kind).items()):
            if not key.startswith(("__", "_abc_")) and not is_descriptor(value):
                self._add_leniently(f"{name}.{key}", value)
        for function in source.own_functions(kind):
            if function.__qualname__.startswith(kind.__qualname__) and function.__module__ == kind.__module__:
                self._inner(f"{name}.{function.__name__}", function, own=True)
            elif not function.__code__.co_filename.startswith("<"):
                self.add(f"{name}.{function.__name__}", function)

    def _of_library(self, function: FunctionType) -> str:
        self._version(function.__module__)
        module, name = source.former(function.__module__, function.__qualname__)
        return f"{module}.{name} {source.bytecode(function.__code__)}"

    def _module_code(self, module: str) -> None:
        if library_of(module) is None:
            source.add_module(self.code, module)
        else:
            self._version(module)

    def _version(self, module: str | None) -> None:
        package = library_of(module or "builtins")
        if package not in (None, "python") and package not in self.versions:
            self.versions[str(package)] = version_of(str(package))

    def _put(self, name: str, text: str) -> None:
        text = _ADDRESS.sub("", text)
        self.tree[name] = text if len(text) <= _LONGEST else f"{text[:24]}... {source.digest(text)}"


def _reason(name: str, value: Any, error: Exception) -> str:
    if isinstance(error, UnidentifiedError):
        return str(error)
    if isinstance(error, source.NoSourceError):
        return f"{name}: {error}"
    return f"{name}: a {type(value).__qualname__} cannot be identified ({first_line(error)})"
