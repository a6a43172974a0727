"""Whether networks give in a batch what each gives alone, tried on their first batches."""

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lit_aux.batched.stack import NetworkStack, State, Tasks, stacked
from lit_aux.errors import first_line
from lit_aux.identity.encoder import UNKNOWN, Encoder, Tree
from lit_aux.phases.state import random_state
from lit_aux.trees import mapped

_ALIKE = {torch.float32: 1e-2, torch.complex64: 1e-2, torch.float64: 1e-8, torch.complex128: 1e-8}
"""How far outputs, statistics and gradients in a batch may be from those alone, relative to the largest."""


def architecture(net: nn.Module) -> Hashable:
    """Return what networks must share to be stacked.

    That is layers with their options and modes, shapes and dtypes of parameters and buffers, what trains, and
    whatever else a layer holds: only the first network's code is run.
    """
    layers = [(name, type(layer), layer.training) for name, layer in net.named_modules()]
    parameters = [(name, *_form(p), p.requires_grad) for name, p in net.named_parameters()]
    buffers = [(name, *_form(b)) for name, b in net.named_buffers()]
    return tuple(layers), tuple(parameters), tuple(buffers), tuple(sorted(held_by(net).items()))


def _form(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def held_by(net: nn.Module) -> Tree:
    """Return what a network holds beside its parameters and buffers, as names and values."""

    def stacked_anyway(owner: Any, name: str, value: Any) -> bool:
        own = isinstance(owner, nn.Module) and name in {*owner._parameters, *owner._buffers}
        return own and isinstance(value, Tensor)

    return Encoder(stacked_anyway, strict=False).add("net", net).tree


def why_not_together(nets: Sequence[nn.Module], inputs: Sequence[Mapping[str, Any]]) -> str:
    """Run copies of networks in a batch and alone, forward and backward; say what is amiss with that.

    Args:
        nets: Networks of one architecture.
        inputs: Of each, the inputs of its first step, by task.

    Returns:
        Why they are not trained in a batch; empty where nothing is amiss.

    Raises:
        OutOfMemoryError: If the copies do not fit into memory.
    """
    held = held_by(nets[0])
    if unknown := sorted(name for name, value in held.items() if value == UNKNOWN and name.startswith("net")):
        return f"what the network holds cannot be compared with that of others: {unknown[0]}"
    try:
        before = random_state()
        stack = NetworkStack([deepcopy(net) for net in nets])
        outputs = stack.forward(stacked(inputs))
        losses = [_probe({task: rows[row] for task, rows in outputs.items()}) for row in range(len(nets))]
        gradients = stack.gradients(losses)
        for row, net in enumerate(nets):
            found = {f"output {task}": rows[row] for task, rows in outputs.items()}
            found |= {f"gradient {name}": gradient for name, gradient in gradients[row].items()}
            found |= {f"buffer {name}": value for name, value in Tasks(stack.nets[row]).named_buffers()}
            if reason := _differs_alone(net, mapped(inputs[row], torch.clone), held, found):
                return reason
        if not _same_state(before, random_state()):
            return "the network draws at random as it runs"
    except torch.OutOfMemoryError:  # which is no fault of the networks
        raise
    except Exception as error:  # of torch.func, of a stranger's network, of a copy
        return f"the network cannot be batched: {first_line(error)}"
    return ""


def _probe(outputs: Mapping[str, Tensor]) -> Tensor:
    """Return a number on which every output has an influence of its own."""
    total: Any = 0
    for value in outputs.values():
        weights = torch.arange(value.numel(), device=value.device).reshape(value.shape).cos()
        total = total + (value * weights.to(value.dtype)).sum()
    return total.abs() if total.is_complex() else total  # type: ignore[no-any-return]


def _differs_alone(net: nn.Module, inputs: Mapping[str, Any], held: Tree, together: State) -> str:
    """Run a copy of a network alone, and compare with what it held, and what the batch has given for it."""
    alone = Tasks(deepcopy(net))
    named = dict(alone.named_parameters())
    outputs = alone(inputs)
    now = dict(alone.named_parameters())
    trained = {name: p for name, p in named.items() if p.requires_grad}
    found = torch.autograd.grad(_probe(outputs), list(trained.values()), allow_unused=True)
    for name, kept in Tasks(net).named_parameters():
        if now.get(name) is not named[name] or not torch.equal(named[name], kept):
            return f"the network changes its parameter {name.removeprefix('net.')!r} as it runs"
    after = held_by(alone.net)
    if changed := sorted(name for name in {*held, *after} if held.get(name) != after.get(name)):
        return f"the network changes what it holds as it runs: {changed[0].removeprefix('net.')}"
    expected = {f"output {task}": value for task, value in outputs.items()}
    expected |= {
        f"gradient {name}": gradient
        for name, gradient in zip(trained, found, strict=True)
        if gradient is not None
    }
    expected |= {f"buffer {name}": value for name, value in alone.named_buffers()}
    return _differ(together, expected)


def _differ(together: State, alone: State) -> str:
    """Say what is not alike: gradients are compared with the largest of them, all else each by itself."""
    if odd := sorted(together.keys() ^ alone.keys()):
        return f"the network has another {odd[0]} in a batch than alone"
    gradients = [_size(value) for name, value in alone.items() if name.startswith("gradient ")]
    for name, expected in alone.items():
        found = together[name]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return f"the network gives another form of {name} in a batch than alone"
        scale = max(gradients) if name.startswith("gradient ") else _size(expected)
        off = _size(found.detach().to(_wide(found)) - expected.detach().to(_wide(found)))
        if not (off == 0 or off <= _ALIKE.get(expected.dtype, 0.0) * scale):  # NaN is not alike
            return f"the network gives another {name} in a batch than alone"
    return ""


def _wide(tensor: Tensor) -> torch.dtype:
    """Return a dtype in which differences can be taken: of yes and no there are none."""
    return tensor.dtype if tensor.is_floating_point() or tensor.is_complex() else torch.float64


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().to(_wide(tensor)).abs().max()) if tensor.numel() else 0.0


def _same_state(one: Any, other: Any) -> bool:
    """Whether two random states are the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_same_state(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same_state, one, other))
    return bool(one == other)
