"""How images are shown to a network: size, channels, normalization."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_aux.data.transforms import BatchTransform, per_channel
from lit_aux.errors import ConfigurationError
from lit_aux.ranges import Range


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
    if size is not None:
        pixels: tuple[int, int] | None = (size, size)
    elif shape is not None:
        pixels = (int(shape[1]), int(shape[2]))
    else:
        pixels = None if default_size is None else (default_size, default_size)
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


_MOST = 1e6
"""What normalizes pixels is no larger, and no smaller than its inverse."""


def check_normalization(option: str, value: float | Sequence[float] | None, least: float) -> None:
    """Refuse a mean or deviation that is not a finite number above ``least``, or none at all.

    Raises:
        ConfigurationError: Naming ``option``.
    """
    if value is None:
        return
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not values or not all(v in Range() and v > least for v in values):
        bound = "finite" if least == -math.inf else f"finite and above {least:g}"
        raise ConfigurationError(f"{option} {value}: must be {bound}")
    low = -_MOST if least == -math.inf else 1 / _MOST
    if not all(low <= v <= _MOST for v in values):
        raise ConfigurationError(
            f"{option} {value}: must be from {low:g} to {_MOST:g}; pixels are between 0 and 1"
        )
