"""From stored images to what a network takes: size, channels, normalization, augmentation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import FINITE, whole

_WIDEST = 1 << 15  # pixels
_MOST = 1e6
"""What normalizes pixels is no larger, and no smaller than its inverse."""


class BatchTransform(nn.Module):
    """Normalizes a uint8 batch: ``(x / 255 - mean) / std``, after an optional augmentation.

    Args:
        mean: Mean of the pixels on the scale of 0 to 1, one for all channels or one per channel.
        std: Their standard deviation, likewise.
        channels: Channels of the result; gray images are repeated.
        augment: Takes and returns a uint8 batch (B, C, H, W) as it lies in memory; ``None`` for none.

    Shape:
        uint8 (B, C, H, W) with C equal to 1 or ``channels`` to float32 (B, ``channels``, H, W).

    Raises:
        ConfigurationError: For a standard deviation that is not positive or a wrong number of means.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        channels: int = 3,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        means, stds = per_channel("mean", mean, channels), per_channel("std", std, channels)
        if min(stds) <= 0:
            raise ConfigurationError(f"std {std}: must be above 0")
        self.channels, self.augment = channels, augment
        scale = torch.tensor([1 / (255 * s) for s in stds], dtype=torch.float64)
        shift = torch.tensor([-m / s for m, s in zip(means, stds, strict=True)], dtype=torch.float64)
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, -1, 1, 1), persistent=False)
        # one number for all channels takes a quicker path below
        same = len(set(means)) == len(set(stds)) == 1
        self._alpha = float(scale[0]) if same else None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized batch."""
        if self.augment is not None:
            x = self.augment(x)
        if x.shape[1] not in (1, self.channels):
            raise ConfigurationError(f"channels {self.channels}: the images have {x.shape[1]} channels")
        # casting first and then working in place is twice as fast as letting torch promote within the sum
        x = x.float()
        if x.shape[1] < self.channels:
            return torch.mul(x, self.scale).add_(self.shift)
        if self._alpha is not None:
            return torch.add(self.shift[0, 0, 0, 0], x, alpha=self._alpha, out=x)
        return x.mul_(self.scale).add_(self.shift)


class RandomCropFlip(nn.Module):
    """Pads with zeros, crops at random and mirrors at random, each image on its own.

    Random numbers come from torch's global CPU generator, on whatever device the batch is.

    Args:
        padding: Pixels added on each side before the crop back to the original size.
        flip: Whether half of the images are mirrored left to right.

    Raises:
        ConfigurationError: For a negative padding.

    Example:
        >>> import torch
        >>> from lit_aux.data import RandomCropFlip
        >>> RandomCropFlip(padding=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        super().__init__()
        self.padding, self.flip = whole("padding", padding, 0, _WIDEST), flip

    def extra_repr(self) -> str:
        """Return the options."""
        return f"padding={self.padding}, flip={self.flip}"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the augmented batch, of the same shape and dtype."""
        size, (height, width), p = len(x), x.shape[-2:], self.padding
        if p > 0:
            offsets = torch.randint(2 * p + 1, (2, size)).to(x.device)
            # a view of every possible crop: choosing one per image copies whole rows
            crops = nn.functional.pad(x, (p, p, p, p)).unfold(2, height, 1).unfold(3, width, 1)
            x = crops[torch.arange(size, device=x.device), :, offsets[0], offsets[1]]
        if self.flip:
            mirrored = (torch.rand(size) < 0.5).to(x.device)
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        return x


def per_channel(option: str, value: float | Sequence[float], channels: int) -> list[float]:
    """Return one number per channel.

    Raises:
        ConfigurationError: If there are several numbers, but not one per channel.
    """
    values = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) not in (1, channels):
        raise ConfigurationError(f"{option} {value}: give one number, or one for each of {channels} channels")
    return values * channels if len(values) == 1 else values


@dataclass(frozen=True)
class InputFormat:
    """Size, channels and normalization of the images, with everything decided.

    Attributes:
        size: Height and width in pixels; ``None`` keeps the images' own.
        channels: What the network takes; gray images are repeated.
        mean: Per channel, on the scale of 0 to 1.
        std: Per channel.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        crop: The side of the central crop over that of the resized image; for image files only.
    """

    size: tuple[int, int] | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float

    def transform(self, augment: nn.Module | None = None) -> BatchTransform:
        """Return the batch transform."""
        return BatchTransform(self.mean, self.std, self.channels, augment)

    def resize(self, images: Tensor, chunk: int = 1024) -> Tensor:
        """Resize uint8 (N, C, H, W) images, antialiased, ``chunk`` at a time to save memory."""
        if self.size is None or images.shape[-2:] == self.size:
            return images
        result = images.new_empty((*images.shape[:2], *self.size))
        smooth = self.interpolation in ("bilinear", "bicubic")
        for start in range(0, len(images), chunk):
            part = nn.functional.interpolate(
                images[start : start + chunk].float(),
                self.size,
                mode=self.interpolation if smooth else "nearest",
                antialias=smooth,
            )
            result[start : start + chunk] = part.round_().clamp_(0, 255).byte()
        return result


def resolve_input_format(
    network: object | None,
    *,
    size: int | None,
    channels: int | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    default_size: int | None,
) -> InputFormat:
    """Settle the view: what the user gave, else what the network was pretrained with, else the defaults.

    Args:
        network: timm's data configuration of a pretrained network, an object or a mapping with ``input_size``
            (C, H, W), ``mean``, ``std``, ``interpolation`` and ``crop_pct``; ``None`` for a network that is
            not pretrained.
        size: The user's, as are the next three.
        channels: Number of input channels of the network, 3 by default.
        mean: On the scale of 0 to 1, .5 by default.
        std: Likewise.
        default_size: Size for a network that is not pretrained; ``None`` for the images' own.
    """
    shape = _entry(network, "input_size")
    if channels is None:
        channels = int(shape[0]) if shape is not None else 3
    side = default_size if size is None and shape is None else size
    pixels = None if side is None else (side, side)
    if size is None and shape is not None:
        pixels = (int(shape[1]), int(shape[2]))
    own_mean, own_std = _entry(network, "mean"), _entry(network, "std")
    mean = mean if mean is not None else own_mean if own_mean is not None else 0.5
    std = std if std is not None else own_std if own_std is not None else 0.5
    interpolation = str(_entry(network, "interpolation") or "bilinear")
    return InputFormat(
        size=pixels,
        channels=channels,
        mean=tuple(per_channel("--data.mean", mean, channels)),
        std=tuple(per_channel("--data.std", std, channels)),
        interpolation=interpolation if interpolation in ("nearest", "bicubic") else "bilinear",
        crop=float(_entry(network, "crop_pct") or 0.875),
    )


def _entry(config: object | None, key: str) -> Any:
    """Look up a key in a mapping or an attribute in an object."""
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def check_normalization(option: str, value: float | Sequence[float] | None, least: float) -> None:
    """Refuse a mean or deviation that is not a finite number above ``least``, or none at all.

    Raises:
        ConfigurationError: Naming ``option``.
    """
    if value is None:
        return
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not values or not all(v in FINITE and v > least for v in values):
        bound = "finite" if least == -math.inf else f"finite and above {least:g}"
        raise ConfigurationError(f"{option} {value}: must be {bound}")
    low = -_MOST if least == -math.inf else 1 / _MOST
    if not all(low <= v <= _MOST for v in values):
        raise ConfigurationError(
            f"{option} {value}: must be from {low:g} to {_MOST:g}; pixels are between 0 and 1"
        )
