"""Making (samples x features) of whatever a layer gives."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence

from lit_aux.callbacks._inputs import Inputs, tensors_of
from lit_aux.callbacks._masks import fitting, lengths_mask, pads
from lit_aux.errors import ConfigurationError

Spatial = Literal["flatten", "mean"]

_CHANNELS_FIRST = (
    "Conv",
    "MaxPool",
    "AvgPool",
    "AdaptiveMaxPool",
    "AdaptiveAvgPool",
    "BatchNorm",
    "InstanceNorm",
)


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
    unfolded = _unfolded(output, inputs)
    if unfolded is None:
        raise ConfigurationError(
            f"layers: {name!r} gives shape {tuple(output.shape)} for {n} samples; "
            "the first dimension must be the samples"
        )
    return unfolded, dict(masks)


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
    return type(layer).__name__.startswith(_CHANNELS_FIRST) and type(layer).__module__.startswith("torch.nn")
