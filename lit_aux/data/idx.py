"""Files in the IDX format of MNIST and its relatives."""

import gzip
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

_MAGIC = {1: 0x801, 3: 0x803}


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of unsigned bytes, compressed if its name ends in ``.gz``.

    Args:
        path: The file.
        dimensions: 1 for labels, 3 for images.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        ConfigurationError: If the file is damaged or of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"--data.root: {path} cannot be read ({error}); fetch it again") from None
    header = 4 * (1 + dimensions)
    numbers = [int.from_bytes(data[i : i + 4], "big") for i in range(0, min(header, len(data)), 4)]
    magic, shape = (numbers or [0])[0], numbers[1:]
    if magic != _MAGIC[dimensions] or len(shape) != dimensions:
        raise ConfigurationError(
            f"--data.root: {path} is not an IDX file of {dimensions} dimensions; fetch it again"
        )
    count = prod(shape)
    if len(data) != header + count:
        raise ConfigurationError(
            f"--data.root: {path} has {len(data)} bytes instead of {header + count}; fetch it again"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(shape)
