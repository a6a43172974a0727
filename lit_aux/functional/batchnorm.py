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
def _batch_statistics(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """Put ``model`` in eval mode but ``layers`` in train mode, each storing the last batch's statistics."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    counts = [None if c is None else c.clone() for c in (layer.num_batches_tracked for layer in layers)]
    model.eval()
    for layer in layers:
        layer.training, layer.momentum = True, 1.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)
        for module, mode in modes:
            module.training = mode


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
    that its present weights produce: the size-weighted mean over batches of the batch mean, and the variance
    around it (within and between batches). Dropout is off and everything else in the model is left as it was.

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
    sums = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    total = 0
    with _batch_statistics(model, layers):
        for batch in batches:
            size = forward(batch)
            total += size
            for layer, state in zip(layers, sums, strict=True):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                mean = layer.running_mean.double().cpu()
                state += size * torch.stack((mean, layer.running_var.double().cpu() + mean.square()))
            if max_samples is not None and total >= max_samples:
                break
    flat = reduce(
        torch.cat([torch.tensor([float(total)], dtype=torch.float64), *(s.flatten() for s in sums)])
    )
    count = flat[0].item()
    if count == 0:
        return 0
    moments = torch.split(flat[1:] / count, [s.numel() for s in sums])
    for layer, moment in zip(layers, moments, strict=True):
        mean, square = moment.view(2, -1)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(square - mean.square())
    return int(count)
