"""Running statistics of batch normalization, computed anew for the weights as they are."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Batch = TypeVar("Batch")


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalization layers of ``model`` that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _batch_statistics(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[list[int]]:
    """Put ``model`` in eval mode but ``layers`` in train mode, each storing the last batch's statistics.

    Yields for each layer the number of values per channel in the last batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    counts = [None if c is None else c.clone() for c in (layer.num_batches_tracked for layer in layers)]
    sizes = [0] * len(layers)

    def note(place: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[place] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    model.eval()
    hooks = [layer.register_forward_pre_hook(note(i)) for i, layer in enumerate(layers)]
    for layer in layers:
        layer.training, layer.momentum = True, 1.0
    try:
        yield sizes
    finally:
        for handle in hooks:
            handle.remove()
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)
        for module, mode in modes:
            module.training = mode


def _sums(layer: _BatchNorm, size: int) -> Tensor:
    """Return number, sum and sum of squares of the values per channel, from one batch's statistics."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, variance = layer.running_mean.double().cpu(), layer.running_var.double().cpu()
    squares = (size - 1) * variance + size * mean.square()  # torch stores the unbiased variance
    return torch.stack((torch.full_like(mean, size), size * mean, squares))


@torch.no_grad()
def reestimate_batchnorm(
    model: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[Batch], int],
    *,
    layers: list[_BatchNorm] | None = None,
    max_samples: int | None = None,
    reduce: Callable[[Tensor], Tensor] = lambda total: total,
) -> int:
    """Replace the running mean and variance of batch-normalization layers by those of ``batches``.

    After a few optimizer steps the exponential averages still describe the weights of many steps ago, and a
    network that fits its training data can be at chance in eval mode. Here every layer's statistics are those
    that its present weights produce: the mean and the unbiased variance of all values of a channel, pooled
    over batches (within each of which deeper layers see the batch's own normalization, as in training).
    Dropout is off and everything else in the model is left as it was.

    Args:
        model: The network; only its batch-normalization layers change.
        batches: Whatever ``forward`` takes, one batch at a time.
        forward: Runs the model on one batch and returns the number of samples in it.
        layers: The layers to re-estimate; by default all that keep running statistics.
        max_samples: Stop after the batch that reaches this number of samples; all batches by default.
        reduce: Sums a float64 tensor over processes, so that every process ends with the same statistics.

    Returns:
        The number of samples that were used, over all processes; 0 where there is nothing to do.
    """
    layers = batchnorm_layers(model) if layers is None else layers
    if not layers:
        return 0
    sums = [torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers]
    total = 0
    kept = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]  # type: ignore[union-attr]
    with _batch_statistics(model, layers) as sizes:
        for batch in batches:
            total += forward(batch)
            for layer, state, size in zip(layers, sums, sizes, strict=True):
                state += _sums(layer, size)
            if max_samples is not None and total >= max_samples:
                break
    flat = reduce(
        torch.cat([torch.tensor([float(total)], dtype=torch.float64), *(s.flatten() for s in sums)])
    )
    parts = torch.split(flat[1:], [s.numel() for s in sums])
    for layer, part, (mean, variance) in zip(layers, parts, kept, strict=True):
        number, first, second = part.view(3, -1)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        if number[0] > 1:
            mean = first / number
            variance = (second - number * mean.square()) / (number - 1)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
    return int(flat[0].item())
