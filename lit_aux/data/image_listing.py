"""The images of a folder by part and class, and what is to be known of it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lit_aux.data.folders import SUFFIXES, Found, folders_in, hidden_in, images_in, look_into, some
from lit_aux.data.image_parts import Parts, parts_of
from lit_aux.errors import ConfigurationError

Listing = tuple[list[str], list[int]]


class ImageListing:
    """The images of a folder.

    Args:
        root: Holds a folder of images for each class, or parts with such folders.

    Attributes:
        names: The names of the classes, sorted.
        parts: Paths and classes of the images of each part, in a fixed order.

    Raises:
        ConfigurationError: If the folder is missing, or is not made like this.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._parts = root, parts_of(root)
        self._places = {part: self._by_class(part, folder) for part, folder in self._parts.folders.items()}
        self.names = list(self._places["train"])
        self._check_one()
        self.parts = {part: self._listed(part) for part in self._places}

    def notes(self) -> list[str]:
        """Return what was left out and what may not be as it was meant, a short text each."""
        return [*_left_out(self._root, self._parts), *self._nested(), *self._missing()]

    def _by_class(self, part: str, folder: Path) -> dict[str, list[str]]:
        if folder == self._root:
            return {name: found.images for name, found in self._parts.found.items()}
        start = len(str(folder / "x")) - 1
        images: dict[str, list[str]] = {name: [] for name in folders_in(folder)}
        for path in self._parts.found[folder.name].images:
            name, *inside = path[start:].split(os.sep)
            if inside:
                images[name].append(path)
        return images

    def _listed(self, part: str) -> Listing:
        paths: list[str] = []
        labels: list[int] = []
        folder = self._parts.folders[part]
        for name, images in self._places[part].items():
            if name not in self.names:
                raise ConfigurationError(
                    f"--data.root: {folder / name} is of a class without training images"
                )
            if not images:
                raise ConfigurationError(
                    f"--data.root: {folder / name} holds no images ({', '.join(SUFFIXES)})"
                    f"{_instead(look_into(folder / name))}"
                )
            paths += images
            labels += [self.names.index(name)] * len(images)
        return paths, labels

    def _check_one(self) -> None:
        """Refuse a single class whose images lie in folders: it is the classes that are one folder deeper."""
        folder = self._parts.folders["train"]
        name = self.names[0]
        deeper = self._deeper(folder / name, self._places["train"][name])
        if len(self.names) == 1 and deeper and len(deeper) == len(self._places["train"][name]):
            inner = sorted({*deeper})
            hint = (
                f"give --data.root {folder / name}" if folder == self._root else f"move them up to {folder}"
            )
            raise ConfigurationError(
                f"--data.root {self._root}: {folder / name} is the only class folder, and its images lie in "
                f"folders ({some(inner)}); if these are the classes, {hint}"
            )

    def _deeper(self, folder: Path, images: Iterable[str]) -> list[str]:
        """Return the folder within a class folder of each image that does not lie in that itself."""
        start = len(str(folder / "x")) - 1
        return [path[start:].split(os.sep)[0] for path in images if os.sep in path[start:]]

    def _nested(self) -> list[str]:
        found = {}
        for part, folder in self._parts.folders.items():
            for name, images in self._places[part].items():
                if deeper := self._deeper(folder / name, images):
                    found[str((folder / name).relative_to(self._root))] = sorted({*deeper})
        if not found:
            return []
        shown = some([f"{name} ({some(inner)})" for name, inner in found.items()])
        return [f"images in folders within a class folder are of that class: {shown}"]

    def _missing(self) -> list[str]:
        lacking = {part: [n for n in self.names if n not in places] for part, places in self._places.items()}
        return [
            f"{self._parts.folders[part].name} has no images of {some(names)}"
            for part, names in lacking.items()
            if names
        ]


def _left_out(root: Path, parts: Parts) -> list[str]:
    """Say what was left out."""
    divided = root not in parts.folders.values()
    used = {folder.name for folder in parts.folders.values()} if divided else {*parts.found}
    looked = {name: found for name, found in parts.found.items() if name in used}

    def all_of(kind: str) -> list[str]:
        return [os.path.join(name, path) for name, found in looked.items() for path in getattr(found, kind)]

    others: Counter[str] = Counter()
    for found in looked.values():
        others += found.others
    stray = images_in(root) + sum(found.direct for found in looked.values() if divided)
    left = {
        "folders": list(parts.ignored),
        "hidden or left-over folders": [*hidden_in(root), *all_of("hidden")],
        "broken links": all_of("broken"),
        "pipes or devices": all_of("odd"),
        "links to folders that are there already": all_of("again"),
    }
    texts = [f"{kind} ({some(names)})" for kind, names in left.items() if names]
    if others:
        texts.append(f"files of other kinds ({some([f'{n} {kind}' for kind, n in others.most_common()])})")
    if stray:
        texts.append(f"{stray} image{'s' if stray > 1 else ''} beside the class folders")
    return [f"left out: {', '.join(texts)}"] if texts else []


def _instead(found: Found) -> str:
    """Say what an empty class folder holds in place of images."""
    kinds: Mapping[str, Sequence[str]] = {
        "broken links": found.broken,
        "pipes or devices": found.odd,
        "hidden folders": found.hidden,
        "other files": [f"{n} {kind}" for kind, n in found.others.most_common()],
    }
    texts = [f"{kind} ({some(list(names))})" for kind, names in kinds.items() if names]
    return f", but {', '.join(texts)}" if texts else ""
