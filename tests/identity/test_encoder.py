"""Objects written as names and values: what differs is told apart, in whatever process it was built."""

import functools
import importlib
import linecache
import logging
import random
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser, OptimizerCallable
from torch import nn
from torch.nn.utils import parametrizations

from lit_aux.identity.encoder import Encoder, UnidentifiedError
from lit_aux.identity.source import FORMER


def key(thing: Any) -> str:
    if isinstance(thing, Encoder):
        return thing.key()
    return Encoder().add("thing", thing).key()


@dataclass
class Options:
    """A plain dataclass."""

    width: int = 3
    name: str = "a"

    def doubled(self) -> int:
        return 2 * self.width


class Private(nn.Module):
    """Keeps its options where nobody looks."""

    def __init__(self, scale: float = 1.0, sizes: list[int] | None = None, act: Any = torch.relu) -> None:
        super().__init__()
        self._scale, self._sizes, self.act = scale, sizes or [1], act
        self.register_buffer("mask", torch.ones(2) * scale, persistent=False)


class Slotted:
    """Has no dictionary."""

    __slots__ = ("a", "b")

    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b


class Decorated(nn.Module):
    """All of its functions are wrapped."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def closing(value: Any) -> Callable[[float], float]:
    return lambda x: x * value


def defaulting(value: Any) -> Callable[..., float]:
    def f(x: float, y: float = value, *, z: float = 2 * value) -> float:
        return x + y + z

    return f


def kind_closing(value: float) -> type[nn.Module]:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * value

    return Net


def kind_with(**attributes: Any) -> type:
    kind = type("Made", (Private,), {})
    for name, value in attributes.items():
        setattr(kind, name, value)
    return kind


def tied(together: bool) -> nn.Module:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.load_state_dict(first.state_dict())
    return nn.Sequential(first, first if together else second)


def stepped(generator: torch.Generator) -> torch.Generator:
    torch.rand(1, generator=generator)
    return generator


def with_hook(hook: Any) -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(hook)
    return layer


def with_forward(function: Any) -> nn.Module:
    layer = Private()
    layer.forward = MethodType(function, layer)  # type: ignore[method-assign]
    return layer


def with_wrapped_forward(factor: float) -> nn.Module:
    layer = Decorated()
    inner = layer.forward

    @functools.wraps(inner)
    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x) * factor

    layer.forward = outer  # type: ignore[method-assign]
    return layer


def with_weight_hook(factor: float) -> nn.Module:
    layer = nn.Linear(1, 1)
    layer.weight.register_hook(lambda gradient: gradient * factor)
    return layer


def with_attribute(factor: float) -> Any:
    def f(x: float) -> float:
        return x

    f.factor = factor  # type: ignore[attr-defined]
    return f


TABLE: Any = None
SPACE: Any = SimpleNamespace(a=0, b=0)


def reads() -> Any:
    return TABLE, SPACE.a


def reads_through_another() -> Any:
    return reads()


def globally(**values: Any) -> Encoder:
    """Return the description of a function that calls one that reads these globals."""
    before = {name: globals()[name] for name in values}
    globals().update(values)
    try:
        return Encoder().add("f", reads_through_another)
    finally:
        globals().update(before)


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "a tuple of a layer": (lambda: nn.MaxPool2d(2, (1, 1)), lambda: nn.MaxPool2d(2, (2, 2))),
    "a private attribute": (lambda: Private(1.0), lambda: Private(2.0)),
    "a list": (lambda: Private(sizes=[1, 2]), lambda: Private(sizes=[2, 1])),
    "a function": (lambda: Private(act=torch.relu), lambda: Private(act=torch.tanh)),
    "a python function": (lambda: Private(act=nn.functional.relu), lambda: Private(act=nn.functional.gelu)),
    "a lambda": (lambda: Private(act=lambda x: x + 1), lambda: Private(act=lambda x: x + 2)),
    "a closure": (lambda: closing(1.0), lambda: closing(2.0)),
    "a closure over a list": (lambda: closing([1.0]), lambda: closing([2.0])),
    "defaults": (lambda: defaulting(1), lambda: defaulting(2)),
    "a partial": (lambda: functools.partial(pow, 2), lambda: functools.partial(pow, 3)),
    "a partial's option": (lambda: functools.partial(int, base=2), lambda: functools.partial(int, base=3)),
    "a bound method": (lambda: Private(1.0).forward, lambda: Private(2.0).forward),
    "a class's closure": (lambda: kind_closing(1.0)(), lambda: kind_closing(2.0)()),
    "a class's value": (lambda: kind_with(a=1)(), lambda: kind_with(a=2)()),
    "a class's function put there later": (
        lambda: kind_with(forward=lambda self, x: x)(),
        lambda: kind_with(forward=lambda self, x: -x)(),
    ),
    "weights of a loss": (
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([2.0, 1.0])),
    ),
    "a buffer that is not saved": (lambda: nn.BatchNorm1d(2), lambda: nn.BatchNorm1d(2).eval().double()),
    "an order of layers": (
        lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
        lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    ),
    "tied weights": (lambda: tied(True), lambda: tied(False)),
    "a hook": (lambda: with_hook(lambda *a: None), lambda: with_hook(lambda *a: a[2] * 2)),
    "a compiled network": (nn.ReLU, lambda: torch.compile(nn.ReLU(), backend="eager")),
    "what is compiled": (
        lambda: torch.compile(nn.ELU(1.0), backend="eager"),
        lambda: torch.compile(nn.ELU(2.0), backend="eager"),
    ),
    "a compiled function": (
        lambda: torch.compile(closing(1.0), backend="eager"),
        lambda: torch.compile(closing(2.0), backend="eager"),
    ),
    "a scripted module": (lambda: torch.jit.script(nn.ELU(1.0)), lambda: torch.jit.script(nn.ELU(2.0))),
    "a traced function": (
        lambda: torch.jit.trace(closing(1.0), torch.ones(1)),
        lambda: torch.jit.trace(closing(2.0), torch.ones(1)),
    ),
    "an operator": (lambda: torch.ops.aten.relu, lambda: torch.ops.aten.tanh),
    "what trains": (lambda: nn.Linear(1, 1), lambda: nn.Linear(1, 1).requires_grad_(False)),
    "a mode": (nn.Dropout, lambda: nn.Dropout().eval()),
    "another order of the same names": (
        lambda: nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh())),
        lambda: nn.Sequential(OrderedDict(b=nn.Tanh(), a=nn.ReLU())),
    ),
    "a forward put there later": (
        lambda: with_forward(lambda self, x: x),
        lambda: with_forward(lambda self, x: -x),
    ),
    "a forward wrapped later": (lambda: with_wrapped_forward(1.0), lambda: with_wrapped_forward(2.0)),
    "a hook of a weight": (lambda: with_weight_hook(1.0), lambda: with_weight_hook(2.0)),
    "a function's attribute": (lambda: with_attribute(1.0), lambda: with_attribute(2.0)),
    "a class's list": (lambda: kind_with(a=[1])(), lambda: kind_with(a=[2])()),
    "a class's class": (lambda: kind_with(a=nn.ReLU)(), lambda: kind_with(a=nn.Tanh)()),
    "a class's tensor": (lambda: kind_with(a=torch.ones(1))(), lambda: kind_with(a=torch.zeros(1))()),
    "a class's partial": (
        lambda: kind_with(a=functools.partial(pow, 2))(),
        lambda: kind_with(a=functools.partial(pow, 3))(),
    ),
    "a global that was read from a file": (
        lambda: globally(TABLE={"a": 1}),
        lambda: globally(TABLE={"a": 2}),
    ),
    "a global tensor": (lambda: globally(TABLE=torch.ones(1)), lambda: globally(TABLE=torch.zeros(1))),
    "a global function's closure": (lambda: globally(TABLE=closing(1)), lambda: globally(TABLE=closing(2))),
    "a global's attribute that is read": (
        lambda: globally(SPACE=SimpleNamespace(a=1)),
        lambda: globally(SPACE=SimpleNamespace(a=2)),
    ),
    "a deque's bound": (lambda: deque([1], 3), lambda: deque([1], 4)),
    "a masked array": (
        lambda: np.ma.array([1, 2], mask=[0, 1]),
        lambda: np.ma.array([1, 2], mask=[1, 0]),
    ),
    "a key that is a class": (lambda: {nn.ReLU: 1}, lambda: {nn.Tanh: 1}),
    "a key that is a function": (lambda: {torch.relu: 1}, lambda: {torch.tanh: 1}),
    "a dtype": (lambda: torch.ones(2), lambda: torch.ones(2).double()),
    "a shape": (lambda: torch.ones(2, 1), lambda: torch.ones(1, 2)),
    "a sparse tensor": (lambda: torch.eye(2).to_sparse(), lambda: torch.ones(2, 2).to_sparse()),
    "a csr tensor": (lambda: torch.eye(2).to_sparse_csr(), lambda: (torch.eye(2) * 2).to_sparse_csr()),
    "an array": (lambda: np.array([1.0, 2.0]), lambda: np.array([1.0, 3.0])),
    "an array of objects": (lambda: np.array([1, "a"], object), lambda: np.array([1, "b"], object)),
    "a numpy number": (lambda: np.float32(1), lambda: np.float64(1)),
    "a generator": (lambda: torch.Generator(), lambda: stepped(torch.Generator())),
    "a python generator": (lambda: random.Random(1), lambda: random.Random(2)),
    "a numpy generator": (lambda: np.random.default_rng(1), lambda: np.random.default_rng(2)),
    "a dataclass": (lambda: Options(3), lambda: Options(4)),
    "slots": (lambda: Slotted(1, 2), lambda: Slotted(2, 1)),
    "a counter": (lambda: Counter("aab"), lambda: Counter("abb")),
    "an order of keys": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "an ordered dict": (lambda: OrderedDict(a=1), lambda: OrderedDict(a=2)),
    "a set": (lambda: {1, 2}, lambda: {1, 3}),
    "one and true": (lambda: 1, lambda: True),
    "one batch and all": (lambda: 1, lambda: 1.0),
    "a path": (lambda: Path("a"), lambda: Path("b")),
    "an optimizer's options": (
        lambda: torch.optim.Adam([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.99)),
        lambda: torch.optim.Adam([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.999)),
    ),
    "spectral normalization": (
        lambda: parametrizations.spectral_norm(nn.Linear(2, 2, bias=False), n_power_iterations=1),
        lambda: parametrizations.spectral_norm(nn.Linear(2, 2, bias=False), n_power_iterations=5),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_is_told_apart_and_what_is_alike_is_not(name: str) -> None:
    one, other = PAIRS[name]

    def seeded(build: Callable[[], Any]) -> str:
        torch.manual_seed(0)
        return key(build())

    assert seeded(one) == seeded(one)
    assert seeded(one) != seeded(other)


def test_what_is_no_difference() -> None:
    assert key(torch.nn.Linear(2, 2).load_state_dict) is not None
    used = nn.Linear(2, 2)
    fresh = deepcopy(used)
    used(torch.ones(1, 2)).sum().backward()
    assert key(used) == key(fresh)
    assert key(globally(SPACE=SimpleNamespace(a=0, b=1))) == key(globally())  # b is read by nobody
    assert key(threading.Lock()) == key(threading.Lock())
    assert key({frozenset({"x", "y"}), "z"}) == key({"z", frozenset({"y", "x"})})
    assert key(logging.getLogger("a")) == key(logging.getLogger("a"))


def test_a_notebooks_function_is_what_other_cells_define(monkeypatch: pytest.MonkeyPatch) -> None:
    def key_of(scale: float, helper: str) -> str:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        cells = [
            f"SCALE = {scale}",
            f"def helper(x):\n    return {helper}",
            "def f(x):\n    return helper(x) * SCALE",
        ]
        for number, source in enumerate(cells):
            name = f"<ipython-input-{number}-77>"
            monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(True), name))
            exec(compile(source, name, "exec"), namespace)
        return key(namespace["f"])

    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert key_of(1.0, "x") == key_of(1.0, "x")
    assert len({key_of(1.0, "x"), key_of(2.0, "x"), key_of(1.0, "-x")}) == 3


def test_cycles_and_repetitions_end() -> None:
    a: list[Any] = [1]
    a.append(a)
    tree = Encoder().add("a", a).tree
    assert tree["a.1"] == "= a"


def test_what_has_no_identity_is_said_with_its_place() -> None:
    steps = (x for x in [1])
    with pytest.raises(UnidentifiedError, match=r"^model\.steps: a generator cannot be identified"):
        Encoder().add("model.steps", steps)
    assert Encoder(strict=False).add("a", [steps, 2]).tree == {"a": "list of 2", "a.0": "?", "a.1": "2"}


def test_a_decorated_class_is_its_writers() -> None:
    """The function that a library puts around another lies in the library's file."""
    encoder = Encoder().add("a", Decorated())
    assert __name__ in encoder.code


def test_what_has_moved_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMER, f"{Options.__module__}.Options", "first.place.Choices")
    monkeypatch.setitem(FORMER, f"{key.__module__}.key", "first.place.key_of")
    things = {"object": Options(), "class": Options, "function": key, "method": Options(2).doubled}
    tree = Encoder().add("things", things).tree
    assert tree["things.object"] == "first.place.Choices"
    assert tree["things.class"] == tree["things.object"]
    assert tree["things.function"] == "first.place.key_of"
    assert tree["things.method"] == "method Choices.doubled"


@pytest.mark.parametrize("name", sorted(FORMER))
def test_what_is_said_to_have_moved_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_left_out_and_stood_in() -> None:
    encoder = Encoder(
        lambda owner, name, value: name == "name", lambda v: "net" if isinstance(v, nn.Module) else None
    )
    encoder.add("o", Options(name="x")).add("n", nn.ReLU())
    assert encoder.tree == {"o": f"{__name__}.Options", "o.width": "3", "n": "<net>"} | {
        f"class {__name__}.Options.width": "3", f"class {__name__}.Options.name": "'a'"
    } | {name: value for name, value in encoder.tree.items() if ".__" in name}  # fmt: skip


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, test_encoder as t
torch.manual_seed(0)
print({name: t.key(build()) for name, (build, _) in t.PAIRS.items()})
"""


def test_other_processes_agree() -> None:
    """Under another seed of Python's hashes, which order sets and spell addresses."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    assert eval(done.stdout) == {name: key(build()) for name, (build, _) in PAIRS.items()}


def test_a_factory_of_a_command_line_is_its_options_and_not_the_command_line() -> None:
    def built(*words: str) -> str:
        parser = LightningArgumentParser()
        parser.add_argument("--optimizer", type=OptimizerCallable)
        parser.add_argument("--ckpt_path", type=str)
        options = parser.parse_args(["--optimizer=torch.optim.SGD", *words])
        return key(parser.instantiate_classes(options).optimizer)

    slow = "--optimizer.lr=0.1"
    assert built(slow) == built(slow, "--ckpt_path=last")
    assert built(slow) != built("--optimizer.lr=0.2")
