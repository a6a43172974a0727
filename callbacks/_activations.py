"""Running the probe through a module and keeping what chosen layers give."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_aux.callbacks._inputs import Inputs, moved, slices
from lit_aux.callbacks._layers import first_tensor, hooked, named_layers
from lit_aux.callbacks._network import call
from lit_aux.callbacks._positions import Spatial, reduce_positions, samples_first
from lit_aux.callbacks._traceless import traceless
from lit_aux.callbacks.probe import fixed_rng
from lit_aux.errors import ConfigurationError


@contextmanager
def _evaluating(module: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Put a module in eval mode, batch normalization in train mode if asked; put the modes back."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    for norm in (m for m in module.modules() if batch_statistics and isinstance(m, _BatchNorm)):
        norm.training = True
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def _every_layer_runs() -> Iterator[None]:
    """Switch off what skips hooks: code that was compiled, and the fused path of torch's transformers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def run(
    trainer: Trainer,
    module: LightningModule,
    chunks: Iterable[Inputs],
    layers: Iterable[str],
    record: Callable[[str, object], None],
    *,
    batch_statistics: bool = False,
) -> None:
    """Run ``module`` on chunks of inputs, calling ``record(layer, output)`` as layers run.

    Compiled modules run uncompiled, and transformers layer by layer, since hooks are not called otherwise.
    Precision is the Trainer's; gradients are off; nothing about the module or the random state has changed
    afterwards.

    Raises:
        ConfigurationError: If the network cannot be called with the inputs.
    """
    with (
        fixed_rng(),
        torch.no_grad(),
        _every_layer_runs(),
        traceless(trainer, module),
        _evaluating(module, batch_statistics),
        hooked(module, layers, record),
    ):
        for chunk in chunks:
            call(trainer, module, moved(chunk, trainer.strategy.root_device))


@dataclass(frozen=True)
class Look:
    """What a layer gives for the first two inputs of a probe.

    Attributes:
        size: Bytes for each sample.
        sums: The sums of its numbers, of their sizes and of their squares, to know them again.
    """

    size: int
    sums: tuple[float, float, float]

    def same(self, other: "Look | None") -> bool:
        """Whether another look saw the same numbers, but for rounding."""
        if other is None or not all(map(math.isfinite, (*self.sums, *other.sums))):
            return other is not None
        scale = max(self.sums[1], other.sums[1], 1e-12)
        close = all(abs(a - b) <= 1e-2 * scale for a, b in zip(self.sums[:2], other.sums[:2], strict=True))
        return close and math.isclose(self.sums[2], other.sums[2], rel_tol=2e-2, abs_tol=1e-12)


def look(
    trainer: Trainer, module: LightningModule, pieces: list[Inputs], layers: list[str]
) -> dict[str, Look]:
    """Return what each layer that runs gives in a forward pass on two samples."""
    chunk, found = slices(pieces[0], 2)[0], dict[str, Look]()
    named = named_layers(module)

    def record(layer: str, output: object) -> None:
        values, _ = samples_first(layer, named[layer], first_tensor(layer, output), chunk)
        numbers = values.detach().double().cpu() if values.is_floating_point() else torch.zeros(1)
        sums = (float(numbers.sum()), float(numbers.abs().sum()), float(numbers.square().sum()))
        found[layer] = Look(values.numel() * values.element_size() // chunk.size, sums)

    run(trainer, module, [chunk], layers, record)
    return found


def activations(
    trainer: Trainer,
    module: LightningModule,
    pieces: list[Inputs],
    layers: list[str],
    *,
    batch_size: int,
    spatial: Spatial,
    batch_statistics: bool,
    unmasked: Callable[[str], None] = lambda layer: None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the (samples x features) activations of each layer, in the precision it computes in.

    A layer that runs several times in one forward pass counts by its last run. Tokens of ragged batches that
    count as features of their own are filled up with zeros.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        pieces: The probe.
        layers: Names of layers that exist.
        batch_size: Samples per forward pass, at most.
        spatial: What becomes of positions.
        batch_statistics: Whether batch normalization uses those of each forward pass.
        unmasked: Called with the layers whose positions are not those of any mask that there is.

    Returns:
        The activations, and for layers without any, why.
    """
    chunks = [chunk for piece in pieces for chunk in slices(piece, batch_size)]
    found: dict[str, dict[int, Tensor]] = {}
    wrong: dict[str, str] = {}
    named, current = named_layers(module), [0]

    def record(layer: str, output: object) -> None:
        try:
            tensor = first_tensor(layer, output)
            values, masks = samples_first(layer, named[layer], tensor, chunks[current[0]])
        except ConfigurationError as error:
            wrong[layer] = str(error)
            return
        features, told = reduce_positions(values, spatial, masks, named[layer])
        if not told:
            unmasked(layer)
        # Copied at once: the next layer may work in place on what this one gave.
        found.setdefault(layer, {})[current[0]] = features.clone()

    def counted() -> Iterator[Inputs]:
        for index, chunk in enumerate(chunks):
            current[0] = index
            yield chunk

    run(trainer, module, counted(), layers, record, batch_statistics=batch_statistics)
    whole: dict[str, Tensor] = {}
    for layer in layers:
        parts = found.pop(layer, {})
        if layer not in wrong:
            wrong[layer] = _why_not(parts, chunks)
        if not wrong[layer]:
            del wrong[layer]
            whole[layer] = _together([parts[i] for i in range(len(chunks))])
    return whole, wrong


def _why_not(parts: dict[int, Tensor], chunks: list[Inputs]) -> str:
    """Say why the outputs of a layer cannot be put together; nothing if they can."""
    if not parts:
        return "the layer did not run"
    if len(parts) < len(chunks):
        ran = sum(chunks[i].size for i in parts)
        return f"the layer ran for {ran} of {sum(chunk.size for chunk in chunks)} inputs"
    shapes = {(p.ndim, p.shape[-1]) for p in parts.values()}
    if len(shapes) > 1:
        return f"the layer gives {' and '.join(str(size) for _, size in sorted(shapes))} features in turn"
    return ""


def _together(parts: list[Tensor]) -> Tensor:
    """Make (samples x features) of the outputs for chunks, filling tokens up to the longest sequence."""
    if parts[0].ndim == 3:
        longest = max(part.shape[1] for part in parts)
        parts = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])).flatten(1) for part in parts]
    return torch.cat(parts)
