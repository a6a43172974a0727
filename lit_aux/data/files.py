"""Images that stay in their files until a batch needs them."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_aux.data.loader import TaskLoader, Transform
from lit_aux.data.transforms import InputFormat
from lit_aux.errors import ConfigurationError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

_BY_PROGRAMS = ("EPS", "WMF")
"""What Pillow hands to Ghostscript, or to the system: whatever a file is called, its content decides."""


_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF

_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class ImageFiles:
    """Paths of images and how to read them.

    Attributes:
        paths: One file per sample.
        view: Size, crop, interpolation and channels.
    """

    paths: tuple[str, ...]
    view: InputFormat

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> "ImageFiles":
        """Return the files ``indices``."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()))

    def read(self, indices: Sequence[int] | None = None, threads: int = 0) -> Tensor:
        """Read files into a uint8 (N, C, H, W) tensor.

        Args:
            indices: Which files; all by default.
            threads: Threads that decode; 0 decodes in the calling one.

        Raises:
            ConfigurationError: If a file cannot be read, naming it.
        """
        paths = self.paths if indices is None else [self.paths[i] for i in indices]
        assert self.view.size is not None
        images = torch.empty((len(paths), self.view.channels, *self.view.size), dtype=torch.uint8)

        def read(number: int) -> None:
            images[number] = read_image(paths[number], self.view)

        if threads:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, range(len(paths))))
        else:
            for number in range(len(paths)):
                read(number)
        return images

    def digest(self) -> str:
        """Return a hash of the paths, sizes and times of change."""
        hashed = blake2b(digest_size=16)
        for path in self.paths:
            status = os.stat(path)
            hashed.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
        return hashed.hexdigest()


def read_image(path: str, view: InputFormat) -> Tensor:
    """Read one image, upright and in 8 bits: shorter side to ``size / crop``, then the central ``size``.

    Returns:
        uint8 (C, H, W).

    Raises:
        ConfigurationError: If the file is not a readable image.
    """
    import numpy as np
    from PIL import Image

    assert view.size is not None
    height, width = view.size
    filters = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
    try:
        # by a file: Pillow maps files of a name into memory, and scrambles TIFFs that are turned when it does
        with open(path, "rb") as file, Image.open(file) as opened:
            if opened.format in _BY_PROGRAMS:
                raise ValueError(f"it is {opened.format}, which other programs would be started to draw")
            image = pixels_of(opened, view.channels)
    except Exception as error:  # decoders raise anything of damaged files
        reason = one_line(error)
        raise ConfigurationError(f"--data.root: {path} cannot be read as an image ({reason})") from None
    # the resized image covers the crop's enlarged rectangle, whatever its own proportions
    scale = max(math.floor(height / view.crop) / image.height, math.floor(width / view.crop) / image.width)
    resized = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # the same that Pillow sets to what a file holds
    if resized[0] * resized[1] > most:  # a few kilobytes may be one pixel high and very wide
        raise ConfigurationError(
            f"--data.root: {path} cannot be read as an image (its {image.width} x {image.height} pixels "
            f"would be {resized[0]} x {resized[1]} before they are cropped, more than {most:.0f})"
        )
    image = image.resize(resized, filters.get(view.interpolation, Image.Resampling.BILINEAR))
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    pixels = np.array(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels).view(height, width, -1).permute(2, 0, 1)


class FileLoader(TaskLoader):
    """Batches of one task whose images are read when they are needed.

    Args:
        images: The files.
        labels: int64 (N,).
        transform: From a uint8 batch to what the network takes.
        **order: See :class:`~lit_aux.data.loader.TaskLoader`.
    """

    def __init__(self, images: ImageFiles, labels: Tensor, transform: Transform, **order: Any) -> None:
        super().__init__(labels, **order)
        self.images, self.transform = images, transform

    @torch.no_grad()
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""
        return self.transform(self.images.read(indices.tolist())), self.labels[indices]


# Images of any depth and orientation as 8-bit gray or colour


def pixels_of(image: "Image", channels: int) -> "Image":
    """Return an image as it is meant to be seen: 8 bits a channel, upright.

    Whole numbers of up to 16 bits are scaled by their depth, so that the largest one is white. EXIF's
    rotation is carried out. Transparency is left out of account: the colours that are stored count. Of
    several frames it is the first.

    Args:
        image: As it was opened.
        channels: 1 for gray, 3 for colour.

    Returns:
        Of mode ``L`` or ``RGB``.

    Raises:
        ValueError: For depths whose black and white the file does not say.
    """
    most, inverted = _most(image), _is_inverted(image)
    image = _upright(image)
    if most is not None:
        image = _scaled(image, most, inverted)
    elif image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")  # else some palettes are warned of
    return image.convert("L" if channels == 1 else "RGB")


def _most(image: "Image") -> int | None:
    """Return the number that is white, for images of more than 8 bits; None for others."""
    if image.mode == "F":
        raise ValueError(_unknown("floating-point numbers"))
    if not image.mode.startswith("I"):
        return None
    if image.format == "TIFF":
        bits = _tag(image, _BITS)
        if image.mode == "I":
            raise ValueError(_unknown(f"signed or {bits}-bit numbers"))
        return (1 << bits) - 1
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two hold 16 bits in it
        raise ValueError(_unknown("32-bit numbers"))
    return 2**16 - 1


def _is_inverted(image: "Image") -> bool:
    return image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO


def _tag(image: "Image", number: int) -> int:
    value = image.tag_v2.get(number, 16 if number == _BITS else 1)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)


def _unknown(what: str) -> str:
    return f"it holds {what}, of which a file does not say what is white; save it with 8 or 16 bits a channel"


def _upright(image: "Image") -> "Image":
    """Carry out EXIF's rotation; what is no proper EXIF says nothing."""
    from PIL import ImageOps

    image.load()  # here, so that a damaged image is not taken for one without EXIF
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # parsers raise anything of a damaged one
        return image


def _scaled(image: "Image", most: int, inverted: bool) -> "Image":
    """Scale numbers from 0 to ``most`` to 8 bits."""
    import numpy as np
    from PIL import Image

    numbers = np.clip(np.asarray(image).astype(np.int64), 0, most)
    numbers = most - numbers if inverted else numbers
    return Image.fromarray(((numbers * 255 + most // 2) // most).astype(np.uint8))
