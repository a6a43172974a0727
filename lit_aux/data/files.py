"""Images that stay in their files until a batch needs them."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.input_format import InputFormat
from lit_aux.data.loader import TaskLoader, Transform
from lit_aux.data.pixels import pixels_of
from lit_aux.errors import ConfigurationError

_BY_PROGRAMS = ("EPS", "WMF")
"""What Pillow hands to Ghostscript, or to the system: whatever a file is called, its content decides."""


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
        raise ConfigurationError(
            f"--data.root: {path} cannot be read as an image ({_one_line(error)})"
        ) from None
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class FileLoader(TaskLoader):
    """Batches of one task whose images are read when they are needed.

    Args:
        images: The files.
        labels: int64 (N,).
        transform: From a uint8 batch to what the network takes.
        **options: See :class:`~lit_aux.data.loader.TaskLoader`.
    """

    def __init__(self, images: ImageFiles, labels: Tensor, transform: Transform, **options: Any) -> None:
        super().__init__(labels, **options)
        self.images, self.transform = images, transform

    @torch.no_grad()
    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x, y)`` of the samples ``indices``."""
        return self.transform(self.images.read(indices.tolist())), self.labels[indices]
