"""Which layers of a network are measured, and what they give as (samples x features)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence

from lit_aux.adapters import BASE, adapted_layers, base_of
from lit_aux.callbacks._blocks import blocks_of
from lit_aux.callbacks._inputs import Inputs, fitting, lengths_mask, moved, pads, parts_of, slices
from lit_aux.callbacks._network import call
from lit_aux.callbacks._no_trace import attached, fixed_rng, traceless
from lit_aux.callbacks._parameters import clean, cleaner, is_readout, match
from lit_aux.errors import ConfigurationError
from lit_aux.trees import tensors_of

Record = Callable[[str, object], None]
Spatial = Literal["flatten", "mean"]

_CHANNELS_FIRST = ("Conv", "MaxPool", "AvgPool", "Adaptive", "BatchNorm", "InstanceNorm")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return every submodule by its dotted names; a compiled wrapper and what it wraps share one name.

    Of a layer with low-rank adapters it is the whole that has the name; its parts have none.
    """
    named = dict(module.named_modules(remove_duplicate=False))
    for outer in adapted_layers(module):
        own, base = f"{outer}.".removeprefix("."), f"{outer}.{BASE}.".removeprefix(".")
        named = {n: m for n, m in named.items() if not n.startswith(own) or n.startswith(base)}
    plain = cleaner(module)
    return {plain(name): layer for name, layer in named.items() if plain(name)}


def refuse_lazy(module: nn.Module, user: str) -> None:
    """Raise `ConfigurationError` where parameters have no shape before training starts."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ConfigurationError(
                f"{user}: {clean(name)!r} has no shape before the first batch (a lazy layer), and nothing to "
                "compare with; run the network on one batch before the fit"
            )


def resolve_layers(module: nn.Module, layers: Iterable[str] | None) -> list[str]:
    """Turn names and globs into the names of existing layers, in network order.

    Args:
        module: The module whose submodules are meant.
        layers: Names or globs over ``named_modules``; ``None`` picks a default (:func:`default_layers`). A
            module that has several names counts once, unless more of them are given in full.

    Raises:
        ConfigurationError: If a name matches no layer (the nearest are offered) or nothing can be picked.
    """
    named, given = named_layers(module), set(layers or [])
    found = default_layers(module) if layers is None else match("layers", given, named)
    firsts = {id(named[name]): name for name in reversed(found)}
    chosen = [name for name in found if name in given or firsts[id(named[name])] == name]
    if not chosen:
        raise ConfigurationError(f"layers: nothing to measure in {type(module).__name__}; name some layers")
    return chosen


def default_layers(module: nn.Module) -> list[str]:
    """Pick stem, stages, pooled features and readout where they can be recognised.

    ResNets: the stem's pooling (or activation), ``layer1`` to ``layer4``, the global pooling, the readout.
    Vision transformers: patch embedding, every block, the final norm, the readout. Networks of transformers:
    embeddings, every block, what follows, the readout. Other timm networks: the modules in their
    ``feature_info``. Anything else: the children with parameters of the first module that
    has several. A readout outside the network (``head``, ``fc``, ...) is added.
    """
    named = named_layers(module)
    prefix, net = _find_network(module, named)
    inside = [f"{prefix}{name}" for name in _network_layers(net)]
    outside = [n for n in named if prefix and not n.startswith(prefix) and is_readout(n.rpartition(".")[2])]
    useful = [n for n in inside if n in named and not isinstance(named[n], nn.Identity)]
    useful += [n for n in outside if _has_parameters(named[n]) and not isinstance(named[n], _CONTAINERS)]
    return [name for name in named if name in set(useful)]


def _has_parameters(module: nn.Module) -> bool:
    """Whether any parameter lies in ``module``."""
    return next(module.parameters(), None) is not None


def _find_network(module: nn.Module, named: dict[str, nn.Module]) -> tuple[str, nn.Module]:
    """Return the outermost network of a known kind and its prefix, or the first module that branches."""
    for name, layer in {"": module, **named}.items():
        known = isinstance(getattr(layer, "feature_info", None), list) or hasattr(layer, "layer4")
        known = known or (hasattr(layer, "patch_embed") and hasattr(layer, "blocks"))
        if known or blocks_of(layer) is not None:
            return (f"{name}." if name else ""), layer
    prefix = ""
    while True:
        children = [(n, c) for n, c in module.named_children() if _has_parameters(c)]
        children = [(n, c) for n, c in children if not getattr(c, "outside_network", False)]
        if len(children) != 1 or not any(True for _ in base_of(children[0][1]).children()):
            return clean(f"{prefix}.").strip(".") + "." if prefix else "", module
        prefix += f"{children[0][0]}."
        module = children[0][1]


def _network_layers(net: nn.Module) -> list[str]:
    """List layers of one network by names relative to it; some may not exist."""
    children = dict(net.named_children())
    if (parts := blocks_of(net)) is not None:
        return parts.names
    ends = ["global_pool", "avgpool", "norm", "fc_norm", *(n for n in children if is_readout(n))]
    if hasattr(net, "layer4"):
        pooled = not isinstance(children.get("maxpool", nn.Identity()), nn.Identity)
        stem = "maxpool" if pooled else ("act1" if "act1" in children else "relu")
        return [stem, "layer1", "layer2", "layer3", "layer4", *ends]
    if "patch_embed" in children and "blocks" in children:
        return ["patch_embed", *(f"blocks.{name}" for name, _ in children["blocks"].named_children()), *ends]
    info = getattr(net, "feature_info", None)
    if isinstance(info, list):
        return [*(str(entry["module"]) for entry in info if "module" in entry), *ends]
    names: list[str] = []
    for name, child in children.items():
        inner = child.named_children() if isinstance(child, _CONTAINERS) else [("", child)]
        names += [f"{name}.{n}".rstrip(".") for n, layer in inner if _has_parameters(layer)]
    return [clean(name) for name in names]


def hooked(module: nn.Module, layers: Iterable[str], record: Record) -> AbstractContextManager[None]:
    """Call ``record(layer, output)`` whenever a layer has run; every hook is gone afterwards.

    Layers that do not exist are left out.
    """
    named = named_layers(module)
    return attached(
        named[name].register_forward_hook(lambda *given, name=name: record(name, given[-1]))
        for name in layers
        if name in named
    )


def first_tensor(layer: str, output: object) -> Tensor | PackedSequence:
    """Return the first tensor, or packed sequence, of a layer's output; also of collections in it."""
    if (found := _first(output)) is not None:
        return found
    raise ConfigurationError(f"layers: {layer!r} gives {type(output).__name__}, not a tensor; choose another")


def _first(output: object) -> Tensor | PackedSequence | None:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, PackedSequence):
        return output
    return next((found for value in parts_of(output) if (found := _first(value)) is not None), None)


def samples_first(
    name: str, layer: nn.Module, output: Tensor | PackedSequence, inputs: Inputs
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a layer's output with samples first, and the masks that tell of its positions.

    Packed and nested sequences are padded and know their own lengths; (positions, n, width) of layers with
    ``batch_first=False`` is turned; tokens that were flattened, (n x positions, width), or the real ones
    alone, become (n, positions, width) again.

    Raises:
        ConfigurationError: If the samples cannot be told apart.
    """
    n, masks = inputs.size, inputs.masks
    if isinstance(output, PackedSequence):
        padded, lengths = pad_packed_sequence(output, batch_first=True)
        return padded, {"lengths": lengths_mask(lengths, padded.shape[1]).to(padded.device)}
    if output.is_nested:
        parts = list(output.unbind())
        lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
        padded = pad_sequence(parts, batch_first=True)
        return padded, {"lengths": lengths_mask(lengths, padded.shape[1])}
    if output.ndim > 2 and output.shape[1] == n and (len(output) != n or _batch_second(layer)):
        output = output.transpose(0, 1)
    if output.ndim and len(output) == n:
        return output, dict(masks)
    if (unfolded := _unfolded(output, inputs)) is not None:
        return unfolded, dict(masks)
    shape = tuple(output.shape)
    raise ConfigurationError(
        f"layers: {name!r} gives shape {shape} for {n} samples; the first dimension must be the samples"
    )


def _batch_second(layer: nn.Module) -> bool:
    """Whether a layer says that its second dimension is the samples."""
    inner = getattr(layer, "layers", None)
    first = inner[0] if isinstance(inner, nn.ModuleList) and len(inner) else layer
    for one in (layer, getattr(first, "self_attn", first)):
        told = getattr(one, "batch_first", None)
        if isinstance(told, bool):
            return not told
    return False


def _unfolded(output: Tensor, inputs: Inputs) -> Tensor | None:
    """Return (n, positions, ...) of flattened tokens; None where it cannot be told which is whose."""
    if not output.ndim:
        return None
    tokens = [t for t in tensors_of((inputs.args, inputs.kwargs)) if not t.is_nested]
    shapes = {tuple(m.shape) for m in inputs.masks.values() if m.ndim == 2}
    shapes |= {tuple(t.shape[:2]) for t in tokens if t.ndim > 1 and len(t) == inputs.size}
    if any(n * length == len(output) for n, length in shapes) and len(output) % inputs.size == 0:
        return output.reshape(inputs.size, -1, *output.shape[1:])
    for shape in shapes:
        mask = fitting(inputs.masks, shape)
        if mask is not None and int(mask.sum()) == len(output):
            whole = output.new_zeros(*shape, *output.shape[1:])
            whole[mask.to(output.device)] = output
            return whole
    return None


def reduce_positions(
    output: Tensor,
    spatial: Spatial,
    masks: Mapping[str, Tensor] | None = None,
    layer: nn.Module | None = None,
) -> tuple[Tensor, bool]:
    """Make (samples x features), or (samples x tokens x width) of flattened tokens, of a layer's output.

    ``"flatten"`` counts every position as features of its own, padded ones as 0; ``"mean"`` averages over the
    real positions first: the trailing dimensions of (n, channels, height, width), the middle one of (n,
    tokens, width), the last one of what a one-dimensional convolution gives, (n, channels, length).

    Returns:
        The features, and whether positions that are not real were left out as far as masks are known.
    """
    if output.ndim < 3:
        return output.reshape(len(output), -1), True
    masks = masks or {}
    last = output.ndim > 3 or _channels_first(layer, output, masks)
    positions = output.shape[2:] if last else output.shape[1:2]
    mask = fitting(masks, (len(output), *positions))
    if mask is not None:
        mask = mask.to(output.device)
        wide = mask[:, None] if last else mask[:, :, None]
        output = torch.where(wide, output, torch.zeros_like(output))
    told = mask is not None or not any(pads(m) for m in masks.values())
    if spatial == "flatten":
        return (output if output.ndim == 3 and not last else output.flatten(1)), told
    dims = tuple(range(2, output.ndim)) if last else (1,)
    if mask is None:
        return output.mean(dims), told
    count = mask.flatten(1).sum(1).clamp(min=1)
    return output.sum(dims) / count[:, None].to(output.dtype), told


def _channels_first(layer: nn.Module | None, output: Tensor, masks: Mapping[str, Tensor]) -> bool:
    """Whether (n, a, b) is (n, channels, length): by its mask, else by the kind of layer."""
    n, a, b = output.shape
    second, third = (fitting(masks, (n, length)) is not None for length in (a, b))
    if second != third:
        return third
    kind = type(None if layer is None else base_of(layer))
    return kind.__name__.startswith(_CHANNELS_FIRST) and kind.__module__.startswith("torch.nn")


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
    record: Callable[[int, str, object], None],
    *,
    batch_statistics: bool = False,
) -> None:
    """Run ``module`` on chunks of inputs, calling ``record(chunk number, layer, output)`` as layers run.

    Compiled modules run uncompiled, and transformers layer by layer, since hooks are not called otherwise.
    Precision is the Trainer's; gradients are off; nothing about the module or the random state has changed
    afterwards.

    Raises:
        ConfigurationError: If the network cannot be called with the inputs.
    """
    number = 0
    with (
        fixed_rng(),
        torch.no_grad(),
        _every_layer_runs(),
        traceless(trainer, module),
        hooked(module, layers, lambda layer, output: record(number, layer, output)),
    ):
        module.eval()
        for norm in (m for m in module.modules() if batch_statistics and isinstance(m, _BatchNorm)):
            norm.training = True
        for number, chunk in enumerate(chunks):  # noqa: B007  which the recorder reads
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
    trainer: Trainer, module: LightningModule, pieces: list[Inputs], layers: list[str], *, chosen: bool = True
) -> dict[str, Look]:
    """Return what each layer that runs gives in a forward pass on two samples.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        pieces: The probe.
        layers: Names of layers that exist.
        chosen: Whether somebody has asked for them. Of others, those without a row a sample are left out:
            tables of positions, say.

    Raises:
        ConfigurationError: If one that somebody has asked for has none.
    """
    chunk, found = slices(pieces[0], 2)[0], dict[str, Look]()
    named = named_layers(module)

    def record(number: int, layer: str, output: object) -> None:
        try:
            values, _ = samples_first(layer, named[layer], first_tensor(layer, output), chunk)
        except ConfigurationError:
            if chosen:
                raise
            return
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
    named = named_layers(module)

    def record(number: int, layer: str, output: object) -> None:
        try:
            values, masks = samples_first(layer, named[layer], first_tensor(layer, output), chunks[number])
        except ConfigurationError as error:
            wrong[layer] = str(error)
            return
        features, told = reduce_positions(values, spatial, masks, named[layer])
        if not told:
            unmasked(layer)
        # Copied at once: the next layer may work in place on what this one gave.
        found.setdefault(layer, {})[number] = features.clone()

    run(trainer, module, chunks, layers, record, batch_statistics=batch_statistics)
    whole: dict[str, Tensor] = {}
    for layer in layers:
        parts = found.pop(layer, {})
        if why := wrong.get(layer) or _why_not(parts, chunks):
            wrong[layer] = why
        else:
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
