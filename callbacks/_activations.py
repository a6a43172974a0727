"""Running the probe through a module and keeping what chosen layers give."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_aux.callbacks._layers import hooked
from lit_aux.callbacks.probe import fixed_rng, slices
from lit_aux.errors import ConfigurationError

Spatial = Literal["flatten", "mean"]


@contextmanager
def _evaluating(module: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Put a module in eval mode, batch normalization in train mode if asked; leave no trace."""
    modes = [(layer, layer.training) for layer in module.modules()]
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)] if batch_statistics else []
    buffers = [(b, b.clone()) for norm in norms for b in norm.buffers()]
    module.eval()
    for norm in norms:
        norm.training = True
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        for layer, mode in modes:
            layer.training = mode


def _forward_of(module: LightningModule) -> Callable[[Any], object]:
    """Return what to call: the module, or its only child with parameters if it defines no ``forward``."""
    if type(module).forward is not LightningModule.forward:
        return module
    children = [c for c in module.children() if next(c.parameters(), None) is not None]
    if len(children) != 1:
        raise ConfigurationError(f"probe: {type(module).__name__} defines no forward(x) to run it through")
    return children[0]


def run(
    trainer: Trainer,
    module: LightningModule,
    chunks: Iterable[Any],
    layers: Iterable[str],
    record: Callable[[str, Tensor], None],
    *,
    batch_statistics: bool = False,
) -> None:
    """Run ``module`` on chunks of inputs, calling ``record(layer, output)`` as layers run.

    Compiled modules run uncompiled, since hooks added to compiled code are not called. Precision is the
    Trainer's; gradients are off; nothing about the module or the random state has changed afterwards.
    """
    forward = _forward_of(module)
    with (
        fixed_rng(),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
        _evaluating(module, batch_statistics),
        hooked(module, layers, record),
    ):
        for chunk in chunks:
            inputs = move_data_to_device(chunk, trainer.strategy.root_device)
            with trainer.precision_plugin.forward_context():
                forward(inputs)


def measure_sizes(
    trainer: Trainer, module: LightningModule, pieces: list[Any], layers: list[str]
) -> dict[str, int]:
    """Return the bytes per sample of each layer that runs, from a forward pass on two samples."""
    chunk = slices(pieces[0], 2)[0]
    n, sizes = extract_batch_size(chunk), dict[str, int]()

    def record(layer: str, output: Tensor) -> None:
        if output.ndim == 0 or len(output) != n:
            raise ConfigurationError(
                f"layers: {layer!r} gives shape {tuple(output.shape)} for {n} samples; "
                "the first dimension must be the samples"
            )
        sizes[layer] = output.numel() * output.element_size() // n

    run(trainer, module, [chunk], layers, record)
    return sizes


def activations(
    trainer: Trainer,
    module: LightningModule,
    pieces: list[Any],
    layers: list[str],
    *,
    batch_size: int,
    spatial: Spatial,
    batch_statistics: bool,
) -> dict[str, Tensor]:
    """Return the (samples x features) activations of each layer, in the precision it computes in.

    A layer that runs several times in one forward pass counts by its last run.
    """
    chunks = [chunk for piece in pieces for chunk in slices(piece, batch_size)]
    ends = torch.tensor([extract_batch_size(c) for c in chunks]).cumsum(0).tolist()
    found: dict[str, Tensor] = {}
    index, seen = 0, 0

    def record(layer: str, output: Tensor) -> None:
        # Copied at once: the next layer may work in place on what this one gave.
        rows = reduce_positions(output, spatial)
        if layer not in found:
            found[layer] = rows.new_empty(ends[-1], rows.shape[1])
        found[layer][seen : ends[index]] = rows

    def counted() -> Iterator[Any]:
        nonlocal index, seen
        for index, chunk in enumerate(chunks):
            seen = ends[index - 1] if index else 0
            yield chunk

    run(trainer, module, counted(), layers, record, batch_statistics=batch_statistics)
    return found


def reduce_positions(output: Tensor, spatial: Spatial) -> Tensor:
    """Make (samples x features) of a layer's output.

    ``"flatten"`` counts every position as features of its own; ``"mean"`` averages over positions first: the
    trailing dimensions of (n, channels, height, width), the middle one of (n, tokens, width).
    """
    if spatial == "mean" and output.ndim == 3:
        output = output.mean(1)
    elif spatial == "mean" and output.ndim > 3:
        output = output.flatten(2).mean(2)
    return output.reshape(len(output), -1)
