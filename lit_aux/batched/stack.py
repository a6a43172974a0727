"""Networks of one architecture as one: weights and buffers stacked, passes through all of them at once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lit_aux.trees import form_of

State = dict[str, Tensor]


class Tasks(nn.Module):
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
        self._wrapped = [Tasks(net) for net in nets]
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
        self._places = [_places(net) for net in self._wrapped]

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run every network on its own inputs, in the mode of the first; buffers are updated.

        What a network has put in the place of its tensors since (``self.seen = 0.9 * self.seen``) is taken.

        Args:
            inputs: Of each task, inputs (R, B, ...) of R networks, a tensor or a collection of tensors.

        Returns:
            Of each task, outputs (R, B, ...), which ``gradients`` can differentiate.

        Raises:
            RuntimeError: Of ``torch.func.vmap``, for networks that draw at random or that it cannot batch;
                for a buffer that becomes one of another shape or dtype.
        """
        self._gather()
        outputs, buffers = self._run(inputs)
        with torch.no_grad():
            for name, value in buffers.items():
                _check_form(name, value, self._buffers[name])
                self._buffers[name].copy_(value)
        return outputs

    @torch.no_grad()
    def _gather(self) -> None:
        """Take what stands where a network's tensors were, and put these back."""
        for places in self._places:
            for place in places:
                now = place.tensors.get(place.key)
                if now is not place.own:
                    _check_form(place.key, now, place.own)
                    place.own.copy_(now)
                    place.tensors[place.key] = place.own
                if place.own is not None and place.own.data_ptr() != place.row.data_ptr():
                    place.row.copy_(place.own)
                    place.own.data = place.row

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
        """Set the gradients of one network's parameters, laid out as these are: fused steps ask for that."""
        for name, gradient in gradients.items():
            own = self._own[row][name]
            same = gradient.stride() == own.stride()
            own.grad = gradient if same else torch.empty_like(own).copy_(gradient)

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


class _Place(NamedTuple):
    """Where a network holds one of its tensors."""

    tensors: dict[str, Any]
    key: str
    own: Any
    row: Any


def _places(net: nn.Module) -> list[_Place]:
    held = [
        (tensors, key, own)
        for layer in net.modules()
        for tensors in (layer._parameters, layer._buffers)
        for key, own in tensors.items()
    ]
    return [_Place(tensors, key, own, None if own is None else own.data) for tensors, key, own in held]


def _check_form(name: str, found: Any, expected: Any) -> None:
    """Refuse what does not fit into the stack.

    Raises:
        RuntimeError: Naming it.
    """
    alike = type(found) is type(expected) and not isinstance(found, nn.Parameter)  # an optimizer knows one
    if not (alike and found.shape == expected.shape and found.dtype == expected.dtype):
        raise RuntimeError(f"{name.removeprefix('net.')} becomes another tensor as the network runs")


def _copies(tensors: State) -> State:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def stacked(values: Sequence[Any]) -> Any:
    """Stack collections of tensors of one form, member by member.

    Args:
        values: Tensors (B, ...), or mappings, lists and tuples of such.
    """
    first = values[0]
    if any(form_of(value) != form_of(first) for value in values):
        raise ValueError("inputs of several kinds")
    if isinstance(first, Mapping):
        return {key: stacked([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return tuple(stacked(parts) for parts in zip(*values, strict=True))
    return torch.stack(list(values))
