"""Squared norms of each example's own gradient, layer by layer, from one backward pass for all examples.

What a layer adds to the gradient of an example follows from the layer's input and from the gradient of its
output, which a backward pass leaves for all examples at once (Goodfellow, "Efficient per-example gradient
computations", arXiv 1510.01799; for convolutions and their smaller of two forms: Bu et al., "Scalable and
efficient training of large convolutional neural networks with differential privacy", NeurIPS 2022).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

Squares: TypeAlias = Iterator[tuple[str, Tensor]]
"""Names of a layer's own parameters with squared norms (n,), float64."""
_CHUNK_BYTES = 1 << 26


class NotByLayer(Exception):
    """A network whose examples' gradients do not follow from its layers; says which layer, and why."""


@dataclass
class _Pass:
    """What one call of a layer leaves: its input, how often that had been written to, and its output's edge.

    Attributes:
        x: The input.
        version: Of the input.
        edge: Where the gradient of the output arrives.
    """

    x: Tensor
    version: int
    edge: GradientEdge


def example_norms(
    module: nn.Module, parameters: Mapping[str, Tensor], losses: Callable[[], Tensor]
) -> Tensor:
    """Return the squared norm of each example's gradient.

    Every parameter must belong to one Linear, Conv1d, Conv2d, BatchNorm, GroupNorm, LayerNorm or Embedding
    that is called once and uses it in no other way; batch normalization must be in eval mode. What can be
    seen of that is checked. That a layer is used otherwise, or that examples are not the first dimension of
    what it is given, cannot be seen: compare an example with its own backward pass.

    Args:
        module: The network that has the parameters.
        parameters: Those with respect to which gradients are taken, by name; parameters of ``module``.
        losses: Computes the loss (n,) of each example, calling ``module`` or parts of it.

    Returns:
        Squared norms, float64 (n,).

    Raises:
        NotByLayer: If that is not so.

    Example:
        >>> import torch
        >>> from lit_aux.functional.example_norms import example_norms
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> example_norms(net, dict(net.named_parameters()), lambda: net(x)[:, 0])
        tensor([5., 9.], dtype=torch.float64)
    """
    layers = _layers(module, parameters)
    passes: dict[str, _Pass] = {}
    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(_recorder(name, passes)))
        found = losses()
    if not passes:
        return torch.zeros(len(found), dtype=torch.float64, device=found.device)
    edges = [one.edge for one in passes.values()]
    slopes: Sequence[Tensor | None] = torch.autograd.grad(found.sum(), edges, allow_unused=True)
    wanted = {id(parameter) for parameter in parameters.values()}
    total = torch.zeros(len(found), dtype=torch.float64, device=found.device)
    for (name, one), slope in zip(passes.items(), slopes, strict=True):
        if slope is None:  # its output has no part in the losses
            continue
        layer = layers[name]
        if len(slope) != len(found) or len(one.x) != len(found):
            _refuse(name, f"gets {len(one.x)} rows for {len(found)} examples")
        if one.x._version != one.version:
            _refuse(name, "has its input overwritten")
        own = {n for n, p in layer.named_parameters(recurse=False) if id(p) in wanted}
        try:
            for parameter, squares in _KINDS[type(layer)](layer, one.x, slope):
                if parameter in own:
                    total += squares
        except NotByLayer as error:
            _refuse(name, str(error))
    return total


def _refuse(name: str, why: str) -> NoReturn:
    raise NotByLayer(f"layer {name!r} {why}")


def _layers(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Return the layers that have parameters, by name.

    Raises:
        NotByLayer: If one is of an unknown kind, or two have a parameter in common.
    """
    wanted = {id(parameter) for parameter in parameters.values()}
    owner: dict[int, str] = {}
    found: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        for parameter in layer._parameters.values():
            if parameter is None or id(parameter) not in wanted:
                continue
            if owner.setdefault(id(parameter), name) != name:
                _refuse(name, f"shares weights with {owner[id(parameter)]!r}")
            if type(layer) not in _KINDS or getattr(layer, "_compiled_call_impl", None) is not None:
                _refuse(name, f"is a {type(layer).__name__}")
            if parameter.is_complex():
                _refuse(name, "has complex weights")
            found[name] = layer
    if len(owner) < len(wanted):
        _refuse("", "of some weights is not in the network")
    return found


def _recorder(name: str, passes: dict[str, _Pass]) -> Callable[..., None]:
    """Return the hook of a layer."""

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if name in passes:
            _refuse(name, "is called more than once")
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            _refuse(name, "is called with something else than one tensor")
        if not output.requires_grad:
            _refuse(name, "has an output without a gradient")
        x = inputs[0]
        # an edge, for what comes next may write into the output, as ReLU(inplace=True) does
        passes[name] = _Pass(x.detach(), x._version, get_gradient_edge(output))

    return record


# What each kind of layer adds


def _squares(gradient: Tensor) -> Tensor:
    """Return squared norms of gradients (n, ...)."""
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
    return norms.square()


def _products(a: Tensor, g: Tensor) -> Tensor:
    """Return the squared norms (n,) of the sums over t of ``g[n, t]`` times ``a[n, t]``, by the cheaper form.

    Args:
        a: (n, groups, t, inputs).
        g: (n, groups, t, outputs).
    """
    n, groups, t, inputs = a.shape
    outputs = g.shape[-1]
    by_pairs = t * t * (inputs + outputs) < t * inputs * outputs
    size = groups * (2 * t * t if by_pairs else inputs * outputs) * a.element_size()
    found = []
    for start in range(0, n, step := max(1, _CHUNK_BYTES // max(1, size))):
        some_a, some_g = a[start : start + step], g[start : start + step]
        if by_pairs:
            pairs = (some_a @ some_a.mT).double() * (some_g @ some_g.mT).double()
            found.append(pairs.sum((1, 2, 3)).clamp_min(0))
        else:
            found.append(_squares(some_g.mT @ some_a))
    return torch.cat(found)


def _of_linear(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    x, g = (part.reshape(len(part), 1, -1, part.shape[-1]) for part in (x, g))
    yield "weight", _products(x, g)
    yield "bias", _squares(g.sum((1, 2)))


def _of_convolution(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    yield "bias", _squares(g.flatten(2).sum(2))
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    options = {"kernel_size": layer.kernel_size, "dilation": layer.dilation, "stride": layer.stride}
    if isinstance(layer, nn.Conv1d):
        x, options = x[:, :, None], {name: (1, *size) for name, size in options.items()}
    groups, squares = layer.groups, []
    width = x[0].numel() * layer.weight[0, 0].numel() * x.element_size()
    for start in range(0, len(x), step := max(1, _CHUNK_BYTES // max(1, width))):
        patches = F.unfold(x[start : start + step], **options)
        rows = slice(start, start + step)
        grouped = (
            part.reshape(len(part), groups, -1, part.shape[-1]).mT for part in (patches, g[rows].flatten(2))
        )
        squares.append(_products(*grouped))
    yield "weight", torch.cat(squares)


def _of_batch_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise NotByLayer("mixes examples, since it is not in eval mode or keeps no statistics")
    x = F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
    yield from _of_scales(x, g)


def _of_group_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.GroupNorm)
    yield from _of_scales(F.group_norm(x, layer.num_groups, eps=layer.eps), g)


def _of_layer_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.LayerNorm)
    shape = torch.Size(layer.normalized_shape)
    x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    x, g = (part.reshape(len(part), -1, shape.numel()).mT for part in (x, g))
    yield from _of_scales(x, g)


def _of_scales(x: Tensor, g: Tensor) -> Squares:
    """Yield the squares of a factor and an offset of each channel, given as (n, channels, ...)."""
    x, g = (part.reshape(*part.shape[:2], -1) for part in (x, g))
    yield "weight", _squares((x * g).sum(2))
    yield "bias", _squares(g.sum(2))


def _of_embedding(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.Embedding)
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise NotByLayer("has sparse gradients, or such as depend on other examples")
    x, g = x.flatten(1), g.reshape(len(g), -1, g.shape[-1])
    if layer.padding_idx is not None:
        g = g * (x != layer.padding_idx)[..., None]
    squares = []
    for indices, slopes in zip(x, g, strict=True):
        _, places = torch.unique(indices, return_inverse=True)
        sums = slopes.new_zeros(int(places.max()) + 1 if len(places) else 0, slopes.shape[-1])
        squares.append(_squares(sums.index_add(0, places, slopes)[None]))
    yield "weight", torch.cat(squares)


_KINDS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Squares]] = {
    nn.Linear: _of_linear,
    nn.Conv1d: _of_convolution,
    nn.Conv2d: _of_convolution,
    nn.BatchNorm1d: _of_batch_norm,
    nn.BatchNorm2d: _of_batch_norm,
    nn.BatchNorm3d: _of_batch_norm,
    nn.GroupNorm: _of_group_norm,
    nn.LayerNorm: _of_layer_norm,
    nn.Embedding: _of_embedding,
}
"""Of these very types: a subclass may compute something else."""
