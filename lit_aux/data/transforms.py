"""From uint8 batches to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError


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


_WIDEST = 1 << 15  # pixels


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
        if padding < 0:
            raise ConfigurationError(f"padding {padding}: must be at least 0")
        if padding > _WIDEST:
            raise ConfigurationError(f"padding {padding}: must be at most {_WIDEST}")
        self.padding, self.flip = padding, flip

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
