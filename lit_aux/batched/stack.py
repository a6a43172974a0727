"""Networks of one architecture as one: weights and buffers stacked, passes through all of them at once."""

from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lit_aux.trees import mapped

State = dict[str, Tensor]


class _Tasks(nn.Module):
    """A network whose forward pass is that of several tasks, as ``functional_call`` needs it."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return each task's outputs on its own inputs."""
        return self.net.forward_tasks(inputs)  # type: ignore[no-any-return]


class NetworkStack:
    """Networks of one architecture, trained in one batch.

    Each network goes on to hold its own parameters and buffers: they become views of their row of a stacked
    tensor, so that what an optimizer or an evaluation does to a network is done to the stack, and the other
    way round. ``release`` gives them memory of their own again.

    Args:
        nets: Networks with ``forward_tasks``, on one device, that have the same layers, modes,
            shapes, dtypes and parameters that train.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        self.nets = list(nets)
        self._wrapped = [_Tasks(net) for net in nets]
        parameters = [dict(net.named_parameters()) for net in self._wrapped]
        buffers = [dict(net.named_buffers()) for net in self._wrapped]
        self._parameters: dict[str, nn.Parameter] = {}
        self._buffers: State = {}
        for name, first in parameters[0].items():
            rows = _stacked_views([own[name] for own in parameters])
            self._parameters[name] = nn.Parameter(rows, requires_grad=first.requires_grad)
        for name in buffers[0]:
            self._buffers[name] = _stacked_views([own[name] for own in buffers])
        self._own = parameters

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run every network on its own inputs, in the mode of the first; buffers are updated.

        Args:
            inputs: Of each task, inputs (R, B, ...) of R networks, a tensor or a collection of tensors.

        Returns:
            Of each task, outputs (R, B, ...), which ``gradients`` can differentiate.

        Raises:
            RuntimeError: Of ``torch.func.vmap``, for networks that draw at random or that it cannot batch.
        """
        outputs, buffers = self._run(inputs)
        with torch.no_grad():
            for name, value in buffers.items():
                self._buffers[name].copy_(value)
        return outputs

    def tried(self, inputs: Mapping[str, Any]) -> float:
        """Run every network in the batch and alone, leaving no trace.

        Args:
            inputs: As for ``forward``.

        Returns:
            The largest difference of outputs, over the largest output; infinite where they are not alike.

        Raises:
            RuntimeError: As for ``forward``.
        """
        with torch.no_grad():
            together, _ = self._run(inputs)
            worst = 0.0
            for row, net in enumerate(self._wrapped):
                own: State = {**dict(net.named_parameters()), **_copies(dict(net.named_buffers()))}
                alone = functional_call(net, own, (mapped(inputs, itemgetter(row)),))
                for task, outputs in alone.items():
                    scale = float(outputs.abs().max()) or 1.0
                    worst = max(worst, float((outputs - together[task][row]).abs().max()) / scale)
        return worst if worst == worst else float("inf")

    def _run(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], State]:
        """Return outputs, and the buffers as the pass has left them; those of the stack are as before."""
        first = self._wrapped[0]

        def one(parameters: State, buffers: State, x: Any) -> tuple[dict[str, Tensor], State]:
            state = {**parameters, **buffers}
            outputs = functional_call(first, state, (x,))
            return outputs, {name: state[name].detach() for name in buffers}

        given: State = dict(self._parameters)
        found: tuple[dict[str, Tensor], State] = vmap(one)(given, _copies(self._buffers), inputs)
        return found

    def gradients(self, losses: Sequence[Tensor]) -> list[State]:
        """Return the gradients of each network's loss.

        Args:
            losses: Scalars, of outputs of ``forward``, at most one of each network.

        Returns:
            For each network, gradients by the name that its parameter has in it; of parameters that no loss
            depends on there is none.
        """
        trained = {name: p for name, p in self._parameters.items() if p.requires_grad}
        rows = torch.autograd.grad(list(losses), list(trained.values()), allow_unused=True)
        found = {name: row for name, row in zip(trained, rows, strict=True) if row is not None}
        return [{name: row[number] for name, row in found.items()} for number in range(len(self.nets))]

    def give(self, row: int, gradients: State) -> None:
        """Set the gradients of one network's parameters."""
        for name, gradient in gradients.items():
            self._own[row][name].grad = gradient

    def release(self) -> None:
        """Give every network memory of its own."""
        for net in self._wrapped:
            for tensor in (*net.parameters(), *net.buffers()):
                tensor.data = tensor.data.clone()


def _stacked_views(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors and make each of them a view of its row."""
    rows = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, rows, strict=True):
        tensor.data = row
    return rows


def _copies(tensors: State) -> State:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def stacked(values: Sequence[Any]) -> Any:
    """Stack collections of tensors of one form, member by member.

    Args:
        values: Tensors (B, ...), or mappings, lists and tuples of such.
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: stacked([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return tuple(stacked(parts) for parts in zip(*values, strict=True))
    return torch.stack(list(values))


def architecture(net: nn.Module) -> Hashable:
    """Return what networks must share to be stacked: layers, modes, shapes, dtypes, and what trains."""
    layers = [(name, type(layer), layer.training) for name, layer in net.named_modules()]
    parameters = [(name, *_form(p), p.requires_grad) for name, p in net.named_parameters()]
    return tuple(layers), tuple(parameters), tuple((name, *_form(b)) for name, b in net.named_buffers())


def _form(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.shape, tensor.dtype, tensor.device
