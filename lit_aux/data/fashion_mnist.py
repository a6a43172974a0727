"""Fashion-MNIST."""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.base import TaskDataModule, fetch
from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_given

_NAMES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


_MAGIC = {1: 0x801, 3: 0x803}


class FashionMNISTDataModule(TaskDataModule):
    """70,000 gray images of clothing, 28 x 28 pixels, in ten classes (Xiao et al., 2017, arXiv:1708.07747).

    The four files are looked for in ``root/FashionMNIST/raw`` (torchvision's place), in ``root`` itself and
    where Debian's package ``dataset-fashion-mnist`` installs them; compressed or not. 6,000 images of each
    class are the pool, 1,000 are test images.

    Args:
        root: Folder of the data.
        download: Fetch the data into ``root`` through torchvision if they are in none of these places.
        **kwargs: See :class:`TaskDataModule`.

    Raises:
        ConfigurationError: In ``prepare_data`` if there are no data, in ``setup`` if they are damaged.
    """

    short_name = "fashion"
    """What experiments on these data are called."""

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_given("--data.root", root)
        self.root, self.download = root, download

    @property
    def class_names(self) -> list[str]:
        """The kinds of clothing, as torchvision calls them."""
        return _NAMES.split(", ")

    def pool_counts(self) -> list[int]:
        """Return the number of pool images of every class."""
        return [6000] * 10

    def folders(self) -> list[Path]:
        """Return the folders that are looked into, in order."""
        root = Path(self.root).expanduser()
        return [root / "FashionMNIST" / "raw", root, DEBIAN_FOLDER]

    def prepare_data(self) -> None:
        """Fetch the data if they were asked for and are missing, and make sure that all files are there."""
        if self.download and self._find("train") is None:
            from torchvision.datasets import FashionMNIST

            fetch("Fashion-MNIST", lambda: FashionMNIST(self.root, download=True))
        for part in ("train", "t10k"):
            self._files(part)

    def load_pool(self) -> tuple[Tensor, Tensor]:
        """Return the 60,000 training images."""
        return self._load("train")

    def load_test(self) -> tuple[Tensor, Tensor]:
        """Return the 10,000 test images."""
        return self._load("t10k")

    def _find(self, part: str) -> tuple[Path, Path] | None:
        """Look for images and labels; both must lie in one folder."""
        for folder in self.folders():
            for suffix in ("", ".gz"):
                images = folder / f"{part}-images-idx3-ubyte{suffix}"
                labels = folder / f"{part}-labels-idx1-ubyte{suffix}"
                if images.is_file() and labels.is_file():
                    return images, labels
        return None

    def _files(self, part: str) -> tuple[Path, Path]:
        found = self._find(part)
        if found is None:
            places = ", ".join(str(folder.absolute()) for folder in self.folders())
            raise ConfigurationError(
                f"--data.root {self.root}: no Fashion-MNIST ({part}) in {places}; "
                "set --data.download true, or run: apt-get install dataset-fashion-mnist"
            )
        return found

    def _load(self, part: str) -> tuple[Tensor, Tensor]:
        images_file, labels_file = self._files(part)
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1).long()
        if len(images) != len(labels) or int(labels.max()) > 9:
            raise ConfigurationError(
                f"--data.root: {images_file} and {labels_file} do not belong together; fetch them again"
            )
        return images.unsqueeze(1), labels


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
