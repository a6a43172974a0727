"""The trace of the Fisher information of a classifier: how strongly its outputs react to its weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from lit_aux.errors import ConfigurationError
from lit_aux.functional.example_norms import NotByLayer, example_norms, leaf_uses
from lit_aux.functional.gradient_conflict import real_parts
from lit_aux.ranges import LIMIT, check
from lit_aux.trees import count_rows, mapped, selected, tensors_of

Logits = Callable[[Mapping[str, Tensor], Any], Tensor]
"""Computes logits (n, classes) from parameters by name and inputs (n, ...), each example by itself."""

_CHUNK_BYTES = 1 << 28
_WORTHWHILE = 32
"""Examples from which on a vectorized pass over large weights beats single ones on a CPU."""


def fisher_trace(
    logits_of: Logits,
    parameters: Mapping[str, Tensor],
    inputs: Any,
    *,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    module: nn.Module | None = None,
    refused: Callable[[str], None] = lambda why: None,
) -> float:
    r"""Estimate :math:`E_x E_{y \sim p_\theta(y|x)} \|\nabla_\theta \log p_\theta(y|x)\|^2`.

    Labels are drawn from the model, one for each input, not taken from the data: with the data's this would
    be the trace of the empirical Fisher information, another quantity (Jastrzebski et al., "Catastrophic
    Fisher Explosion", ICML 2021). Gradients are of each example by itself.

    Args:
        logits_of: The model; it must not mix examples, nor change anything.
        parameters: The parameters with respect to which gradients are taken, by name.
        inputs: n examples: a tensor (n, ...), or a dict or tuple of such.
        generator: On the CPU; draws the labels.
        chunk: Examples whose gradients are computed together, by ``torch.func.vmap``; by default as many as
            fit into 256 MiB, or one by one on a CPU where those are so few that this is faster. One by one
            also where ``vmap`` cannot handle the model, or errs in an example's gradient, and where the model
            goes on using its own weights beside those that it is given.
        module: The network, whose own parameters are ``parameters``. Where it is given, and ``chunk`` is
            not, norms follow from what each layer is given and gives back, in one backward pass for all
            examples; the example with the largest gradient is compared with its own backward pass. Networks
            with layers of other kinds, or whose weights are used more than once, are taken example by
            example.
        refused: Told why, where a network is.

    Returns:
        The mean over examples, summed in float64.

    Raises:
        ConfigurationError: If ``chunk`` is below 1, there are no inputs, or outputs are not (n, classes).

    Example:
        >>> import torch
        >>> from lit_aux.functional import fisher_trace
        >>> net = torch.nn.Linear(2, 3)
        >>> def logits_of(parameters, x):
        ...     return torch.func.functional_call(net, dict(parameters), (x,))
        >>> fisher_trace(logits_of, dict(net.named_parameters()), torch.zeros(4, 2)) > 0
        True
    """
    check("chunk", chunk, LIMIT)
    if not count_rows(inputs):
        raise ConfigurationError("inputs: there are none; give one or more")
    held = {name: parameter.detach() for name, parameter in parameters.items()}
    if module is not None and chunk is None:
        before = torch.empty(0) if generator is None else generator.get_state()
        try:
            return float(_by_layer(logits_of, parameters, held, inputs, module, generator).mean())
        except NotByLayer as error:
            refused(str(error))
        if generator is not None:
            generator.set_state(before)
    chunk = chunk or _default_chunk(held, tensors_of(inputs)[0].device)
    with torch.no_grad():
        labels = draw_labels(logits_of(held, inputs), generator)
    if kept := _kept(logits_of, held, inputs, chunk):
        held, chunk = {**held, **kept}, 1
    squares = _squared_norms(logits_of, held, inputs, labels, chunk)
    return float(squares.mean())


@torch.no_grad()
def draw_labels(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a label for each row of logits (n, classes), the same ones on every device.

    Raises:
        ConfigurationError: If logits are of another shape, or have one class only.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import draw_labels
        >>> draw_labels(tensor([[0.0, 100.0], [100.0, 0.0]]))
        tensor([1, 0])
    """
    check_logits(logits)
    # The largest of logits plus Gumbel noise is a draw from their softmax; no error for a net that diverged.
    noise = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    noise = -(-noise.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
    return (logits.double() + noise.to(logits.device)).argmax(1)


def check_logits(outputs: Tensor) -> None:
    """Raise `ConfigurationError` for outputs that are not (examples, classes) of two classes or more."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ConfigurationError(
            f"outputs: shape {tuple(outputs.shape)}; labels are drawn from logits (examples, classes) of two "
            "classes or more"
        )


def _default_chunk(parameters: Mapping[str, Tensor], device: torch.device) -> int:
    """Return how many examples' gradients to compute together."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())
    chunk = max(1, _CHUNK_BYTES // max(size, 1))
    return 1 if device.type == "cpu" and chunk < _WORTHWHILE else chunk


def _by_layer(
    logits_of: Logits,
    parameters: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    inputs: Any,
    module: nn.Module,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the squared norms (n,), float64, of each example's gradient, from one backward pass.

    Raises:
        NotByLayer: If they are not the sum of what layers add.
    """
    labels = torch.empty(0, dtype=torch.int64)

    def losses() -> Tensor:
        nonlocal labels
        logits = logits_of(parameters, inputs)
        labels = draw_labels(logits.detach(), generator)
        return nn.functional.cross_entropy(logits.double(), labels, reduction="none")

    squares = example_norms(module, parameters, losses)
    largest = slice(at := int(squares.argmax()), at + 1)  # of NaN, where there is one
    alone = _squared_norms(logits_of, held, selected(inputs, largest), labels[largest], 1)
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in parameters.values()) ** 0.4
    if not torch.allclose(squares[largest], alone, rtol=rounding, equal_nan=True):
        raise NotByLayer("the gradient of an example is not the sum of what layers say")
    return squares


def _kept(logits_of: Logits, held: Mapping[str, Tensor], inputs: Any, count: int) -> dict[str, Tensor]:
    """Return, by name, tensors that the model goes on using where others are given in their place.

    Code that has a parameter in a list, or a variable, beside its registration does so, and the gradients of
    what is given in its place would be 0.
    """
    with torch.enable_grad():
        used = leaf_uses(logits_of(held, selected(inputs, slice(0, count))))
    places = {(leaf.data_ptr(), leaf.shape): leaf for leaf in used if leaf.numel()}
    return {name: places[place] for name, p in held.items() if (place := (p.data_ptr(), p.shape)) in places}


def _squared_norms(
    logits_of: Logits, parameters: Mapping[str, Tensor], inputs: Any, labels: Tensor, chunk: int
) -> Tensor:
    """Return the squared norms (n,), float64, of each example's gradient."""

    def loss(held: Mapping[str, Tensor], x: Any, y: Tensor) -> Tensor:
        single = mapped(x, lambda part: part.unsqueeze(0))
        return nn.functional.cross_entropy(logits_of(held, single).double(), y.unsqueeze(0))

    leaves = {
        name: tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        for name, tensor in parameters.items()
    }
    # what uses none of them has a gradient, too
    zero = torch.zeros((), dtype=torch.float64, device=labels.device, requires_grad=True)

    def of_one(x: Any, y: Tensor, number: int) -> list[Tensor]:
        with torch.enable_grad():
            value = loss(leaves, mapped(x, itemgetter(number)), y[number]) + zero
        held = list(leaves.values())
        found = torch.autograd.grad(value, held, allow_unused=True, materialize_grads=True)
        return [tensor.unsqueeze(0) for tensor in found]

    together = None if chunk == 1 else vmap(grad(loss), in_dims=(None, 0, 0))
    squares: list[Tensor] = []
    for start in range(0, len(labels), chunk):
        x, y = (selected(whole, slice(start, start + chunk)) for whole in (inputs, labels))
        if together is not None:
            try:
                gradients = list(together(parameters, x, y).values())
            except Exception:  # of any kind: what is wrong with the model itself is raised below
                together = None
            else:
                norms = _norms(gradients)
                at = int(norms.argmax())
                if _agree([part[at : at + 1] for part in gradients], of_one(x, y, at)):
                    squares.append(norms)
                    continue
                together = None
        squares += [_norms(of_one(x, y, number)) for number in range(len(y))]
    return torch.cat(squares)


def _agree(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two ways to an example's gradient differ by rounding at most.

    Rules by which ``vmap`` vectorizes operations have errors, such as that of batch normalization in eval
    mode, in torch 2.15, where what follows transposes.
    """
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in one) ** 0.5
    apart, square = (
        float(_norms(parts)) for parts in ([a - b for a, b in zip(one, other, strict=True)], other)
    )
    return apart <= rounding**2 * square or not (math.isfinite(square) or math.isfinite(float(_norms(one))))


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the squared norms (n,), float64, of n gradients, given as tensors (n, ...)."""
    parts = (real_parts(part).flatten(1) for part in gradients)
    norms = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts]
    return torch.stack(norms).square().sum(0).detach()
