"""Squared norms of each example's own gradient, layer by layer, from one backward pass for all examples.

What a layer adds to the gradient of an example follows from the layer's input and from the gradient of its
output, which a backward pass leaves for all examples at once (Goodfellow, "Efficient per-example gradient
computations", arXiv 1510.01799; for convolutions and their smaller of two forms: Bu et al., "Scalable and
efficient training of large convolutional neural networks with differential privacy", NeurIPS 2022).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from lit_aux.errors import first_line

Squares: TypeAlias = Iterator[tuple[str, Tensor]]
"""Names of a layer's own parameters with squared norms (n,), float64."""
_CHUNK_BYTES = 1 << 26
_NAMES = ("weight", "bias")
_VIEWS = {
    f"{name}Backward0"
    for name in (
        "T",
        "Transpose",
        "Permute",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Alias",
        "Expand",
        "ToCopy",
    )
}
"""What a layer's own call does with its weight first, and a derivative of the call need not do again."""


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
    that is called once and be used in no other way, which the graph of the losses tells; batch normalization
    must be in eval mode. What can be seen of that is checked. That examples mix, or are not the first
    dimension of what a layer is given, cannot be seen: compare an example with its own backward pass.

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
            # before a hook of the user's, which may return something else than the layer does
            hook = layer.register_forward_hook(_recorder(name, passes), prepend=True)
            hooks.enter_context(hook)
        found = losses()
    total = torch.zeros(len(found), dtype=torch.float64, device=found.device)
    wanted, times = {id(parameter) for parameter in parameters.values()}, leaf_uses(found)
    edges = [one.edge for one in passes.values()]
    slopes: Sequence[Tensor | None] = [None] * len(edges)
    if edges and found.requires_grad:
        slopes = torch.autograd.grad(found.sum(), edges, allow_unused=True)
    gradients = dict(zip(passes, slopes, strict=True))
    for name, layer in layers.items():
        own = {n: p for n, p in layer.named_parameters(recurse=False) if id(p) in wanted}
        slope = gradients.get(name)
        if any(times[p] != (slope is not None) for p in own.values()):
            _refuse(name, "has weights that are used outside of its call")
        if slope is None:  # its output has no part in the losses
            continue
        try:
            for parameter, squares in _of_layer(layer, passes[name], slope, len(found)):
                if parameter in own:
                    total += squares
        except NotByLayer as error:
            _refuse(name, str(error))
    return total


def leaf_uses(found: Tensor) -> Counter[Tensor]:
    """Count how often each leaf that needs a gradient, or a view of it, is used in computing a tensor."""
    users: dict[Any, list[Any]] = {}
    nodes: list[Any] = [] if found.grad_fn is None else [found.grad_fn]
    for node in nodes:  # which grows meanwhile
        for below, _ in node.next_functions:
            if below is None:
                continue
            if below not in users:
                users[below] = []
                nodes.append(below)
            users[below].append(node)

    def count(node: Any) -> int:
        return sum(count(user) if user in users and user.name() in _VIEWS else 1 for user in users[node])

    leaves = {node: getattr(node, "variable", None) for node in users}
    return Counter({leaf: count(node) for node, leaf in leaves.items() if isinstance(leaf, Tensor)})


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
        for attribute, parameter in layer._parameters.items():
            if parameter is None or id(parameter) not in wanted:
                continue
            if owner.setdefault(id(parameter), name) != name:
                _refuse(name, f"shares weights with {owner[id(parameter)]!r}")
            if type(layer) not in _KINDS:
                _refuse(name, f"is a {type(layer).__name__}")
            compiled = getattr(layer, "_compiled_call_impl", None) is not None
            if compiled or attribute not in _NAMES or "forward" in vars(layer):
                _refuse(name, f"is no plain {type(layer).__name__} any more")
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


def _of_layer(layer: nn.Module, one: _Pass, slope: Tensor, n: int) -> Squares:
    """Yield what a layer adds, from one call and the gradient of its output.

    Raises:
        NotByLayer: If it cannot be told.
    """
    x, g = one.x, slope
    if x.shape[:1] != (n,) or g.shape[:1] != (n,):
        raise NotByLayer(f"gets {len(x) if x.ndim else 'no'} rows for {n} examples")
    if x._version != one.version:
        raise NotByLayer("has its input overwritten")
    kinds = {
        tensor.dtype for tensor in (x, g, *layer.parameters(recurse=False)) if tensor.is_floating_point()
    }
    if len(kinds) > 1:
        raise NotByLayer("computes in another precision than that of its weights")
    if g.element_size() < 4:  # products may leave half precision
        x, g = x.float() if x.is_floating_point() else x, g.float()
    try:
        yield from _KINDS[type(layer)](layer, x, g)
    except RuntimeError as error:
        raise NotByLayer(f"cannot be followed ({first_line(error)})") from error


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
        found.append(_of_pairs(some_a, some_g) if by_pairs else _squares(some_g.mT @ some_a))
    return torch.cat(found)


def _of_pairs(a: Tensor, g: Tensor) -> Tensor:
    """Return the same from the products of pairs of positions."""
    pairs = (a @ a.mT).double() * (g @ g.mT).double()
    squares, sizes = pairs.sum((1, 2, 3)), torch.linalg.vector_norm(pairs, 1, dim=(1, 2, 3))
    # where positions cancel, little is left but rounding: the sum itself has the square root of it
    lost = (squares < sizes * torch.finfo(a.dtype).eps ** 0.4).nonzero()[:, 0].tolist()
    for row in lost:
        squares[row] = _squares((g[row].mT @ a[row])[None])[0]
    return squares


def _check_batch(x: Tensor, dims: int) -> None:
    """Refuse an input of a layer that takes ``dims`` dimensions, and one more for examples, without these."""
    if x.ndim <= dims:
        raise NotByLayer(f"is given {x.ndim} dimensions, of which none is for examples")


def _of_linear(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    _check_batch(x, 1)
    x, g = (part.reshape(len(part), 1, -1, part.shape[-1]) for part in (x, g))
    yield "weight", _products(x, g)
    yield "bias", _squares(g.sum((1, 2)))


def _of_convolution(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    _check_batch(x, 1 + len(layer.kernel_size))
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
    mean, variance = (statistic.to(x.dtype) for statistic in (layer.running_mean, layer.running_var))
    x = F.batch_norm(x, mean, variance, eps=layer.eps)
    yield from _of_scales(x, g)


def _of_group_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.GroupNorm)
    yield from _of_scales(F.group_norm(x, layer.num_groups, eps=layer.eps), g)


def _of_layer_norm(layer: nn.Module, x: Tensor, g: Tensor) -> Squares:
    assert isinstance(layer, nn.LayerNorm)
    shape = torch.Size(layer.normalized_shape)
    _check_batch(x, len(shape))
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
    x, g = x.reshape(len(x), -1), g.reshape(len(g), -1, g.shape[-1])
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
