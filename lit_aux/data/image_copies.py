"""Copies of images: in training and test images, or in two classes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path

MOST = 50_000
"""Of more images copies are not looked for: it may take minutes where files are far away."""
_START = 4096
_PAIRS = (("train", "test"), ("train", "val"), ("val", "test"))


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
        both = [
            (paths[here], paths[there])
            for group in groups
            for there in group
            if parts[there] == other
            for here in [next((i for i in group if parts[i] == one), None)]
            if here is not None
        ]
        if both:
            said.append(
                f"{_count(len(both))} of {other} {_are(both)} of images of {one} ({_pair(both[0], root)})"
            )
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
    except OSError:  # whoever reads the image says so
        return -1, path.encode(errors="surrogateescape")


def _count(number: int) -> str:
    return f"{number} image{'s' if number > 1 else ''}"


def _are(pairs: Sequence[object]) -> str:
    return "are copies" if len(pairs) > 1 else "is a copy"


def _pair(pair: tuple[str, str], root: Path) -> str:
    return " = ".join(os.path.relpath(path, root) for path in pair)
