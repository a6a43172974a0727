"""Folders of images, one per class."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from lit_aux.data.base import TaskDataModule
from lit_aux.data.files import ImageFiles
from lit_aux.data.image_listing import ImageListing
from lit_aux.data.loader import generator_for
from lit_aux.data.samples import Images, Samples
from lit_aux.data.tasks import Classes, at_least, resolve_seed
from lit_aux.errors import ConfigurationError
from lit_aux.storage import check_given

_TRIED = 64  # images that are read before training where not all of them are


MOST = 50_000
"""Of more images copies are not looked for: it may take minutes where files are far away."""

_START = 4096

_PAIRS = (("train", "test"), ("train", "val"), ("val", "test"))


class ImageFolderDataModule(TaskDataModule):
    """A user's own images, in one folder per class.

    ``root`` holds either class folders, of which a fifth of the images of each class is set aside for testing
    (drawn by the seed), or folders ``train``, ``val`` and ``test`` of class folders, by these or other usual
    names (``Training``, ``valid``, ``dev``, ``testing``, ...). Without ``test`` the images in ``val`` are
    test images; without ``val``, or if it serves as that, validation images come from the training pool.

    Images may lie in folders within a class folder. Hidden files and folders, what archives and systems leave
    behind, broken links and all that is no file are left out; a warning, one line, says what was left out and
    which test images are copies of training images. Images of 16 bits are scaled to 8, EXIF's rotation is
    carried out; 32-bit and floating-point ones are refused.

    Images are resized and cropped at the centre to the network's input size (224 if it is not pretrained).
    They are read once and kept in memory if they need no more than a quarter of what is free, else by
    workers, each time they are needed.

    Args:
        root: The folder.
        classes: See :class:`TaskDataModule`; by default every class belongs to one task, ``main``.
        in_memory: Keep images in memory; by default where they fit.
        num_workers: Processes that read images that are not kept in memory; 0 reads them in the main process.
        test_fraction: Part of each class that is set aside for testing where there is neither ``test`` nor
            ``val``.
        **kwargs: See :class:`TaskDataModule`.

    Raises:
        ConfigurationError: For a missing or empty folder, and in ``setup`` or training for an image that
            cannot be read, with its name.
    """

    default_size = 224

    def __init__(
        self,
        root: str,
        classes: Classes | None = None,
        in_memory: bool | None = None,
        num_workers: int = 2,
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        at_least("--data.num_workers", num_workers, 0)
        if not 0 < test_fraction < 1:
            raise ConfigurationError(f"--data.test_fraction {test_fraction}: must lie between 0 and 1")
        check_given("--data.root", root)
        self.root, self.in_memory, self.num_workers = root, in_memory, num_workers
        self.test_fraction = test_fraction
        folder = Path(root).expanduser()
        listing = ImageListing(folder)
        self._names, self._listings = listing.names, listing.parts
        if len(self._listings) == 1:
            self._set_aside(resolve_seed(kwargs.get("seed")))
        elif "test" not in self._listings:
            self._listings["test"] = self._listings.pop("val")
        first = not getattr(rank_zero_only, "rank", 0)
        if first and (notes := [*listing.notes(), *copies(self._listings, folder)]):
            rank_zero_warn(f"--data.root {root}: {'; '.join(notes)}")
        super().__init__(classes={"main": list(self._names)} if classes is None else classes, **kwargs)

    @property
    def class_names(self) -> list[str]:
        """The names of the class folders, sorted."""
        return self._names

    def pool_counts(self) -> list[int]:
        """Return the number of training images of every class."""
        return torch.bincount(torch.tensor(self._listings["train"][1]), minlength=len(self._names)).tolist()

    @property
    def has_own_validation(self) -> bool:
        """Whether there is a folder of validation images beside one of test images."""
        return "val" in self._listings

    def load_pool(self) -> tuple[Images, Tensor]:
        """Return the training images, not yet read."""
        return self._part("train")

    def load_val(self) -> tuple[Images, Tensor]:
        """Return the images in ``val``, not yet read."""
        return self._part("val")

    def load_test(self) -> tuple[Images, Tensor]:
        """Return the test images, not yet read."""
        return self._part("test")

    def setup(self, stage: str | None = None) -> None:
        """Draw the images of a stage and read them if they are to be kept in memory."""
        super().setup(stage)
        waiting = self._in_files()
        height, width = self.view.size or (0, 0)
        needed = sum(len(samples) for samples in waiting) * self.view.channels * height * width
        processes = getattr(self.trainer, "num_devices", 1)
        keep = needed * processes <= free_memory() / 4 if self.in_memory is None else self.in_memory
        threads = min(8, os.cpu_count() or 1)
        place = os.path.join(os.path.expanduser(self.root), "")
        for samples in waiting:
            assert isinstance(samples.images, ImageFiles)
            samples.names = tuple(path.removeprefix(place) for path in samples.images.paths)
            if keep:
                samples.images = samples.images.read(threads=threads)
            else:  # what none of them can be read as is said now, not in the middle of training
                samples.images.read(range(0, len(samples), max(1, len(samples) // _TRIED)), threads)

    def _part(self, part: str) -> tuple[Images, Tensor]:
        paths, labels = self._listings[part]
        return ImageFiles(tuple(paths), self.view), torch.tensor(labels)

    def _worker_options(self, device: torch.device) -> dict[str, Any]:
        options = {"num_workers": self.num_workers, "pin_memory": device.type == "cuda"}
        return options if self._in_files() else {}

    def _in_files(self) -> list[Samples]:
        every = [samples for tasks in self._sets.values() for samples in tasks.values()]
        return [samples for samples in every if isinstance(samples.images, ImageFiles)]

    def _set_aside(self, seed: int) -> None:
        """Move a part of every class from the training to the test images."""
        paths, labels = self._listings["train"]
        classes = torch.tensor(labels)
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        for index, name in enumerate(self._names):
            mine = (classes == index).nonzero().flatten()
            if len(mine) < 2:
                raise ConfigurationError(
                    f"--data.root {self.root}: class {name!r} has {len(mine)} image; give it one to train on "
                    "and one to test on"
                )
            count = min(len(mine) - 1, max(1, round(self.test_fraction * len(mine))))
            order = torch.randperm(len(mine), generator=generator_for(seed, "test fraction", name))
            chosen[mine[order[:count]]] = True
        for part, mask in (("train", ~chosen), ("test", chosen)):
            numbers = mask.nonzero().flatten().tolist()
            self._listings[part] = [paths[i] for i in numbers], [labels[i] for i in numbers]


def free_memory() -> int:
    """Return the bytes of main memory that are free; 4 GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            entries: Mapping[str, str] = dict(line.split(":", 1) for line in file)
        return int(entries["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 1024**3


# Copies of images


def copies(listings: Mapping[str, tuple[Sequence[str], Sequence[int]]], root: Path) -> list[str]:
    """Say which images are there twice where they should not be, byte for byte.

    Args:
        listings: Paths and classes of the images of each part.
        root: The folder that paths are shown relative to.

    Returns:
        A text for each pair of parts that have images in common, and one on images that are in two classes.
    """
    total = sum(len(paths) for paths, _ in listings.values())
    if total > MOST:
        return [f"copies were not looked for among {total:,} images"]
    paths = [path for own, _ in listings.values() for path in own]
    parts = [part for part, (own, _) in listings.items() for _ in own]
    labels = [label for _, own in listings.values() for label in own]
    groups = _alike(paths)
    said = []
    for one, other in _PAIRS:
        both = []
        for group in groups:
            here = [paths[i] for i in group if parts[i] == one]
            both += [(here[0], paths[i]) for i in group if here and parts[i] == other]
        if both:
            found = f"{_count(len(both))} of {other} {_are(both)} of images of {one}"
            said.append(f"{found} ({_pair(both[0], root)})")
    mixed = [group for group in groups if len({labels[i] for i in group}) > 1]
    if mixed:
        first = mixed[0][0]
        second = next(i for i in mixed[0] if labels[i] != labels[first])
        pair = _pair((paths[first], paths[second]), root)
        said.append(f"{_count(len(mixed))} {'are' if len(mixed) > 1 else 'is'} in several classes ({pair})")
    return said


def _alike(paths: Sequence[str]) -> list[list[int]]:
    """Return groups of files with the same content, by their numbers."""
    groups = _grouped(range(len(paths)), [os.stat(path).st_size for path in paths])
    for most in (_START, -1):  # most files of one size differ at their start
        numbers = [number for group in groups for number in group]
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(partial(_digest, most=most), [paths[number] for number in numbers]))
        groups = _grouped(numbers, digests)
    return groups


def _grouped(numbers: Iterable[int], keys: Sequence[object]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for number, key in zip(numbers, keys, strict=True):
        groups.setdefault(key, []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: str, most: int) -> tuple[int, bytes]:
    """Return size and hash of a file's first bytes, of all for -1; of one that cannot be read, its path."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size, blake2b(file.read(most), digest_size=16).digest()
    except OSError:  # the reader of the image says so
        return -1, path.encode(errors="surrogateescape")


def _count(number: int) -> str:
    return f"{number} image{'s' if number > 1 else ''}"


def _are(pairs: Sequence[object]) -> str:
    return "are copies" if len(pairs) > 1 else "is a copy"


def _pair(pair: tuple[str, str], root: Path) -> str:
    return " = ".join(os.path.relpath(path, root) for path in pair)
