"""A device that no machine has: its numbers lie on the CPU, but whoever mixes them with the CPU's fails.

What a GPU refuses is refused: operations between devices, a generator of another device, numpy, numbers as
tensors that stay behind. What it computes is what the CPU computes, bit for bit, so that all measurements and
fits can be compared with the CPU's. ``syncs`` counts how often the host had to wait for a value.

The backend registers once for the process, under torch's name for backends of third parties, and says that it
is available only inside `fake_device`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "fakegpu"
aten = torch.ops.aten


class MixedDevicesError(RuntimeError):
    """What a GPU says where devices mix."""


@dataclass
class Ledger:
    """What the device noted since `fake_device` was entered."""

    inside: bool = False
    operations: int = 0
    syncs: int = 0


ledger = Ledger()


@cache
def _register() -> None:
    """Tell torch of the backend, or skip the test where torch cannot be told from Python."""
    try:
        from torch.utils import backend_registration

        setup = backend_registration._setup_privateuseone_for_python_backend
        hooks = torch._C._acc.PrivateUse1Hooks
    except (ImportError, AttributeError):
        pytest.skip("this version of torch has no interface for a backend that is written in Python")

    class Hook(hooks):  # type: ignore[misc, valid-type]
        def is_available(self) -> bool:
            return ledger.inside

        def has_primary_context(self, index: int) -> bool:
            return ledger.inside

        def is_built(self) -> bool:
            return True

    try:
        setup(NAME, _Backend(), Hook())
    except TypeError:
        pytest.skip("this version of torch registers backends of Python in another way")


class _Backend:
    """What ``torch.fakegpu`` has to answer."""

    def is_available(self) -> bool:
        return ledger.inside

    def is_initialized(self) -> bool:
        return ledger.inside

    def device_count(self) -> int:
        return int(ledger.inside)

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Numbers are drawn by the CPU's generator."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        """There is none."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def synchronize(self, device: Any = None) -> None:
        ledger.syncs += 1


class DeviceTensor(Tensor):
    """A tensor that says it is on the device; ``numbers`` are on the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # results stay what operations return

    @staticmethod
    def __new__(cls, numbers: Tensor, requires_grad: bool = False) -> "DeviceTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}({self.numbers!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made: Tensor = DeviceTensor(self.numbers.detach().clone(), self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the numbers: a file is read on machines without the device."""
        return self.numbers.detach().clone().__reduce_ex__(protocol)


_TRANSFERS = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_TAKES_NUMBERS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.where.self}


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the numbers, after all that a GPU would refuse."""
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    to = kwargs.get("device")
    wanted = there if to is None else torch.device(to).type == NAME
    if there:
        ledger.operations += 1
        _check_places(func, args, tensors)
    generator = kwargs.get("generator")
    if wanted and generator is not None and generator.device.type != NAME:
        raise MixedDevicesError(f"{func}: Expected a '{NAME}' device type for generator, found 'cpu'")
    if there and (func is aten._local_scalar_dense.default or _leaves(func, args, wanted)):
        ledger.syncs += 1
    plain = {**kwargs}
    if to is not None and wanted:
        plain["device"] = torch.device("cpu")
    if plain.get("pin_memory"):
        plain["pin_memory"] = False
    found = func(*tree_map(_numbers, args), **tree_map(_numbers, plain))
    written = _written(func, args, kwargs)
    if torch.Tag.inplace_view in func.tags and isinstance(args[0], DeviceTensor):
        with no_dispatch():  # the shape that the tensor tells of has to change too
            func(*args, **kwargs)
    if written is not None:
        return written
    return tree_map(lambda x: DeviceTensor(x) if wanted and type(x) is Tensor else x, found)


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, DeviceTensor) else value


def _leaves(func: Any, args: tuple[Any, ...], wanted: bool) -> bool:
    """Whether a copy takes numbers from the device to the CPU."""
    if func is aten.copy_.default:
        return isinstance(args[1], DeviceTensor) and not isinstance(args[0], DeviceTensor)
    return func is aten._to_copy.default and not wanted and isinstance(args[0], DeviceTensor)


def _check_places(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Raise where tensors of both places meet, but for what CUDA allows.

    That is: a copy, an index on the CPU into a tensor on the device, and one number in an elementwise
    operation that does not write into it.
    """
    here = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if func in _TRANSFERS or not here:
        return
    if func in _INDEXED and isinstance(args[0], DeviceTensor):
        here = [x for x in args[2:3] if isinstance(x, Tensor) and not isinstance(x, DeviceTensor) and x.ndim]
    elif func not in _INDEXED and (torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS):
        in_place = func._schema.arguments[0].alias_info is not None
        if not (in_place and not isinstance(args[0], DeviceTensor)):
            here = [tensor for tensor in here if tensor.ndim]
    if here:
        shapes = [tuple(tensor.shape) for tensor in here]
        raise MixedDevicesError(
            f"Expected all tensors to be on the same device: {func} of {NAME}:0 and, on the cpu, {shapes}"
        )


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operation that writes into its arguments returns: those arguments."""
    found = []
    for returned in func._schema.returns:
        if returned.alias_info is None or not returned.alias_info.is_write:
            return None
        for place, argument in enumerate(func._schema.arguments):
            same = argument.alias_info is not None and argument.alias_info.is_write
            if same and argument.alias_info.before_set == returned.alias_info.before_set:
                found.append(args[place] if place < len(args) else kwargs[argument.name])
                break
    return None if not found else found[0] if len(found) == 1 else tuple(found)


class _Operations(TorchDispatchMode):
    """Catches the operations without a tensor of the device among their arguments: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Catches what becomes no operation: tensors from numbers, numpy, lists, and ``data``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("data")
        there = isinstance(first, DeviceTensor)
        if func in (torch.tensor, torch.as_tensor):
            place, dtype = kwargs.pop("device", None), kwargs.get("dtype")
            if func is torch.as_tensor and there:
                return first.to(device=place or first.device, dtype=dtype or first.dtype)
            made = func(*args, **kwargs)
            return made if place is None else made.to(place)
        if func is Tensor.new_tensor and there:
            place = kwargs.pop("device", None) or first.device
            kwargs["dtype"] = kwargs.get("dtype") or first.dtype
            return torch.tensor(args[1], **kwargs).to(place)
        if func in (Tensor.numpy, Tensor.__array__) and there:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func is Tensor.tolist and there:
            ledger.syncs += 1
            return first.numbers.tolist()
        if func is Tensor.data.__set__ and there:  # type: ignore[attr-defined]
            first.numbers = _numbers(args[1])
            return None
        if func in (Tensor.backward, torch.autograd.backward, torch.autograd.grad):
            # in this thread: those that the engine has for devices know none that came after its first run
            with torch.autograd.set_multithreading_enabled(False):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def fake_device() -> Iterator[Ledger]:
    """Let the device be there; skips the test where torch cannot have one that is written in Python."""
    _register()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters keep their identity in moves
    ledger.inside, ledger.operations, ledger.syncs = True, 0, 0
    try:
        with _Operations(), _Functions():
            yield ledger
    finally:
        ledger.inside = False
        torch.__future__.set_swap_module_params_on_conversion(before)


def there(value: Any) -> Any:
    """Move the tensors in a structure to the device, as new leaves."""
    return tree_map(lambda x: _moved(x) if isinstance(x, Tensor) else x, value)


def _moved(tensor: Tensor) -> Tensor:
    return tensor.detach().to(f"{NAME}:0").requires_grad_(tensor.requires_grad)


def back(value: Any) -> Any:
    """Move the tensors in a structure to the CPU."""
    return tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, value)


def same_on_both(
    compute: Callable[..., Any], *inputs: Any, stays: bool = True, tolerance: float = 0.0, **options: Any
) -> Any:
    """Compute something on the CPU and on the device; return the CPU's, which the device's has to equal.

    Args:
        compute: Takes ``inputs``, structures of tensors, and ``options``, which stay on the CPU.
        inputs: What is moved.
        stays: Whether every tensor of the answer has to be on the device.
        tolerance: Of what torch computes otherwise for devices (fused attention), relative and absolute.
        options: Other arguments.
    """
    expected = compute(*inputs, **options)
    with fake_device() as noted:
        found = compute(*there(inputs), **options)
        places = {leaf.device.type for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
        found = back(found)
        assert noted.operations
    if stays:
        assert places <= {NAME}, places
    torch.testing.assert_close(found, back(expected), rtol=tolerance, atol=tolerance, equal_nan=True)
    return expected
