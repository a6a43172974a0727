"""What an object is made of: its attributes and bytes, and what of it is code or a command line's."""

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partialmethod
from io import BytesIO
from types import FunctionType, MethodType
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from lit_aux.identity import source

_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)


def saved_script(script: Any) -> str:
    """Return a digest of a script as torch saves it, but for where its lines stood in its source."""
    buffer = BytesIO()
    torch.jit.save(script, buffer)
    with ZipFile(buffer) as archive:
        names = [n for n in archive.namelist() if not n.endswith((".debug_pkl", "/serialization_id"))]
        found = [(name.partition("/")[2], archive.read(name)) for name in sorted(names)]
    # constants are written in the order of a set
    return source.digest(
        *(source.digest(name, _CONSTANTS.sub(_sorted_lines, content)) for name, content in found)
    )


def _sorted_lines(match: re.Match[bytes]) -> bytes:
    return b"".join(sorted(match[0].splitlines(keepends=True)))


def bytes_of(value: Tensor) -> bytes:
    """Return the bytes of a tensor's values."""
    plain = value.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    plain = plain.clone(memory_format=torch.contiguous_format)  # of one value, whatever its stride
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def is_of_command_line(value: Any) -> bool:
    """Whether an object reads a command line or builds from one: a parser, an instantiator, a LightningCLI.

    The factories of optimizers that a command line hands to modules hold all of it, with folders and
    ``ckpt_path``. What it was given, a ``Namespace``, is plain options.
    """
    if isinstance(value, type) or type(value).__name__ == "Namespace":
        return False
    return any(
        base.__module__.partition(".")[0] in ("argparse", "jsonargparse") or base.__name__ == "LightningCLI"
        for base in type(value).__mro__
    )


def is_own_method(value: Any, owner: Any) -> bool:
    """Whether a value is a method that its own owner's class has, kept as a short cut."""
    if not isinstance(value, MethodType) or value.__self__ is not owner:
        return False
    return any(value.__func__ is own for base in type(owner).__mro__ for own in vars(base).values())


def is_descriptor(value: Any) -> bool:
    """Whether a class's attribute is its code: functions and what wraps them, slots."""
    wrappers = (FunctionType, classmethod, staticmethod, property, cached_property, partialmethod)
    return isinstance(value, wrappers) or type(value).__name__ in ("member_descriptor", "getset_descriptor")


def has_plain_state(kind: type) -> bool:
    """Whether objects of a class are what their attributes say: pickle has not been told otherwise."""
    own = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    return (
        kind.__flags__ & (1 << 9) != 0
        and not any(
            name in vars(base)
            for base in kind.__mro__
            if base is not object and not base.__module__.startswith("lit_aux.")
            for name in own
        )
        and not issubclass(kind, Sequence | Mapping | set | frozenset | int | float | str | bytes)
    )


def state_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those in slots among them."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                found.setdefault(slot, getattr(value, slot))
    return found


def parameters_of(kind: type) -> list[str]:
    """Return the arguments of a class, those of its bases included where it passes them on."""
    names: list[str] = []
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name != "self"]
