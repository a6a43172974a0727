"""Running statistics of batch normalization, computed anew for the weights as they are."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

Batch = TypeVar("Batch")


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalization layers of ``model`` that keep running statistics."""
    layers = (layer for layer in model.modules() if isinstance(layer, _BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None and not is_lazy(layer.running_mean)]


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled modules run as they are written, and so call hooks added later."""
    if "torch._dynamo" not in sys.modules:  # importing it takes seconds, and nothing is compiled without it
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


class _Calls:
    """Moments of what a layer is given, over all of its calls: each counts by its samples.

    A sample counts once whatever its size, so that a task with large images does not outweigh the others;
    where all samples have one size this is the pooling of all values.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer = layer
        self.kept = [buffer.clone() for buffer in layer.buffers()]
        # values of a channel, samples, sum of means, sum of mean squares; in float64, and where the layer
        # computes, so that no batch waits for them, but on the CPU for MPS, which has no float64
        self.sums = torch.zeros(4, layer.num_features, dtype=torch.float64)

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add one call; a hook before the layer's forward pass."""
        x: Tensor = args[0] if args else kwargs["input"]
        values = x.numel() // self.layer.num_features
        # A single value has no deviation, and torch refuses to normalize it by itself: it is normalized by
        # what is known so far, and counts. Synchronized layers pool it with those of other processes.
        self.layer.training = values > 1 or _synchronized(self.layer)
        if not self.layer.training:
            self.write()
        if values == 0:
            return
        wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
        dims = [d for d in range(x.ndim) if d != 1]
        place = torch.device("cpu") if x.device.type == "mps" else x.device
        variance, mean = (m.to(place).double() for m in torch.var_mean(wide, dims, correction=0))
        self.sums = self.sums.to(place)
        self.sums[0] += values
        self.sums[1] += len(x)
        self.sums[2] += len(x) * mean
        self.sums[3] += len(x) * (variance + mean.square())

    @property
    def count(self) -> int:
        """How many values of a channel there were."""
        return int(self.sums[0, 0])

    def write(self) -> None:
        """Give the layer the mean and the unbiased variance, or what it had where they are not known."""
        self.restore()
        values, samples, first, second = self.sums
        if self.count < 2:
            return
        mean = first / samples
        variance = (second / samples - mean.square()).clamp(min=0) * values / (values - 1)
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_(variance)

    def restore(self) -> None:
        """Put back the buffers as they were, the number of batches among them."""
        for buffer, value in zip(self.layer.buffers(), self.kept, strict=True):
            buffer.copy_(value)


def _synchronized(layer: _BatchNorm) -> bool:
    """Whether a layer normalizes by the batches of several processes together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return isinstance(layer, nn.SyncBatchNorm) and distributed and torch.distributed.get_world_size() > 1


@contextmanager
def _counting(model: nn.Module, calls: list[_Calls]) -> Iterator[None]:
    """Put ``model`` in eval mode but the layers of ``calls`` in train mode, and count all their calls."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    hooks = [one.layer.register_forward_pre_hook(one, with_kwargs=True) for one in calls]
    try:
        with uncompiled():
            yield
    finally:
        for handle in hooks:
            handle.remove()
        for one in calls:
            one.restore()
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
    on_unreached: Callable[[list[_BatchNorm]], None] | None = None,
) -> int:
    """Replace the running mean and variance of batch-normalization layers by those of ``batches``.

    After a few optimizer steps the exponential averages still describe the weights of many steps ago, and a
    network that fits its training data can be at chance in eval mode. Here every layer's statistics are those
    that its present weights produce, over *all* of its calls (within each of which deeper layers see the
    batch's own normalization, as in training): the mean, and the unbiased variance, of its samples, each of
    which counts alike whatever its size, such as the images of tasks that differ in size. Where samples have
    one size these are the mean and the variance of all values of a channel. Dropout is off and everything
    else in the model is left as it was. Layers that no batch reaches keep their statistics.

    Args:
        model: The network; only its batch-normalization layers change.
        batches: Whatever ``forward`` takes, one batch at a time.
        forward: Runs the model on one batch, in as many passes as it takes, and returns the number of
            samples in it.
        layers: The layers to re-estimate; by default all that keep running statistics.
        max_samples: Stop after the batch that reaches this number of samples; all batches by default.
        reduce: Sums a float64 tensor over processes, so that every process ends with the same statistics.
        on_unreached: Called with the layers that no process has reached, where there are any and there were
            batches.

    Returns:
        The number of samples that were used, over all processes; 0 where there is nothing to do.

    Example:
        >>> import torch
        >>> from lit_aux.functional import reestimate_batchnorm
        >>> net = torch.nn.BatchNorm1d(1)
        >>> batches = [torch.tensor([[1.0], [3.0]])]
        >>> reestimate_batchnorm(net, batches, lambda x: len(net(x)))  # how many samples were used
        2
        >>> net.running_mean
        tensor([2.])
    """
    layers = batchnorm_layers(model) if layers is None else layers
    if not layers:
        return 0
    total, calls = 0, [_Calls(layer) for layer in layers]
    with _counting(model, calls):
        for batch in batches:
            total += forward(batch)
            if max_samples is not None and total >= max_samples:
                break
    count = torch.tensor([float(total)], dtype=torch.float64)
    flat = reduce(torch.cat([count, *(one.sums.flatten().cpu() for one in calls)])).cpu()
    parts = torch.split(flat[1:], [one.sums.numel() for one in calls])
    for one, part in zip(calls, parts, strict=True):
        one.sums = part.view(4, -1)
        one.write()
    used = int(flat[0].item())
    unreached = [one.layer for one in calls if one.count == 0]
    if unreached and used and on_unreached is not None:
        on_unreached(unreached)
    return used
