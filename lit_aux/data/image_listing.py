"""The images of a folder by part and class, and what else lies in it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_aux.errors import ConfigurationError, some

NAMES = {
    "train": ("train", "training", "trainset", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "valset", "val_set", "validation_set", "dev"),
    "test": ("test", "testing", "testset", "test_set", "eval", "evaluation"),
}
"""What the folders of parts are called, in any case."""
_PART_OF = {name: part for part, names in NAMES.items() for name in names}
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LEFTOVERS = (
    *("$recycle.bin", "@eadir", "__macosx", "__pycache__", "desktop.ini", "ehthumbs.db", "lost+found"),
    *("system volume information", "thumbs.db"),
)


@dataclass
class Found:
    """What lies beneath a folder; all paths but those of images are relative to it.

    Attributes:
        images: Paths of images, in a fixed order.
        direct: How many of them lie in the folder itself.
        nested: The folders in it that hold images, themselves or beneath.
        hidden: Folders that are hidden or left over; nothing in them counts.
        broken: Links that lead nowhere, or in a circle.
        odd: What is neither file nor folder: pipes, sockets, devices.
        again: Links to folders that were met before.
        others: How many files are of another kind, by the end of their names.
    """

    images: list[str] = field(default_factory=list)
    direct: int = 0
    nested: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Parts:
    """The parts of a data set.

    Attributes:
        folders: The folder of class folders of each part; of one that is not divided, ``train`` alone.
        found: What lies in each folder of the root.
        ignored: Names of folders in the root that hold neither part nor class.
    """

    folders: Mapping[str, Path]
    found: Mapping[str, Found]
    ignored: Sequence[str]


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
            place = folder / name
            hint = f"give --data.root {place}" if folder == self._root else f"move them up to {folder}"
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
        folders = self._parts.folders
        return [f"{folders[p].name} has no images of {some(names)}" for p, names in lacking.items() if names]


def _left_out(root: Path, parts: Parts) -> list[str]:
    """Say what was left out."""
    divided = root not in parts.folders.values()
    used = {folder.name for folder in parts.folders.values()} if divided else {*parts.found}
    looked = {name: found for name, found in parts.found.items() if name in used}

    def all_of(kind: str) -> list[str]:
        return [os.path.join(name, path) for name, found in looked.items() for path in getattr(found, kind)]

    others = sum((found.others for found in looked.values()), Counter[str]())
    stray = images_in(root) + sum(found.direct for found in looked.values() if divided)
    texts = _texts(
        {
            "folders": list(parts.ignored),
            "hidden or left-over folders": [*hidden_in(root), *all_of("hidden")],
            "broken links": all_of("broken"),
            "pipes or devices": all_of("odd"),
            "links to folders that are there already": all_of("again"),
            "files of other kinds": _counted(others),
        }
    )
    if stray:
        texts.append(f"{stray} image{'s' if stray > 1 else ''} beside the class folders")
    return [f"left out: {', '.join(texts)}"] if texts else []


def _texts(kinds: Mapping[str, list[str]]) -> list[str]:
    """Name some of each kind that there are any of."""
    return [f"{kind} ({some(names)})" for kind, names in kinds.items() if names]


def _counted(kinds: Counter[str]) -> list[str]:
    return [f"{number} {kind}" for kind, number in kinds.most_common()]


def _instead(found: Found) -> str:
    """Say what an empty class folder holds in place of images."""
    texts = _texts(
        {
            "broken links": found.broken,
            "pipes or devices": found.odd,
            "hidden folders": found.hidden,
            "other files": _counted(found.others),
        }
    )
    return f", but {', '.join(texts)}" if texts else ""


# Which folders hold training, validation and test images, and which are classes


def parts_of(root: Path) -> Parts:
    """Return the parts of a data set.

    A folder with the name of a part is one if it holds class folders; where it holds images, it is a class
    like those beside it.

    Args:
        root: Holds class folders, or parts with class folders.

    Raises:
        ConfigurationError: If there is no such folder, it has no class folders, or what is a part and what a
            class cannot be told.
    """
    found = {name: look_into(root / name) for name in folders_in(root)}
    if not found:
        raise ConfigurationError(
            f"--data.root {root}: it has no class folders; images belong in one folder per class"
        )
    named = {name: _PART_OF[name.lower()] for name in found if name.lower() in _PART_OF}
    others = [name for name in found if name not in named and found[name].images]
    empty = {name for name in named if not found[name].images}
    sorted_in = [name for name in named if found[name].nested or (name in empty and folders_in(root / name))]
    divided = [name for name in sorted_in if not (found[name].direct and others)]
    if not divided:
        flat = [name for name in named if found[name].direct]
        if flat and not others:
            raise ConfigurationError(
                f"--data.root {root}: {some(flat)} hold{'s' if len(flat) == 1 else ''} images, but no class "
                "folders; images belong in one folder per class"
            )
        return Parts({"train": root}, found, [])
    by_part = _by_part(root, named, found)
    _check_divided(root, divided, others, by_part)
    return Parts(by_part, found, [name for name in found if name not in named])


def _by_part(root: Path, named: Mapping[str, str], found: Mapping[str, Found]) -> dict[str, Path]:
    by_part: dict[str, Path] = {}
    for name, part in sorted(named.items()):
        if part in by_part:
            raise ConfigurationError(
                f"--data.root {root}: {by_part[part].name} and {name} both hold {part} images; keep one of "
                "the two"
            )
        if not folders_in(root / name):
            what = "holds images, but" if found[name].images else "has"
            raise ConfigurationError(
                f"--data.root {root}: {name} {what} no class folders; take it out, or sort its images into "
                "one folder per class"
            )
        by_part[part] = root / name
    return by_part


def _check_divided(
    root: Path, divided: Sequence[str], others: Sequence[str], by_part: Mapping[str, Path]
) -> None:
    """Refuse what may be parts, or classes."""
    if "train" not in by_part:
        raise ConfigurationError(
            f"--data.root {root}: {divided[0]} holds class folders, as parts of data do, and none is called "
            "train; rename the one with training images (if it is a class, rename it, or put its "
            "images into it directly)"
        )
    if others and len(by_part) == 1:
        inner = root / divided[0]
        raise ConfigurationError(
            f"--data.root {root}: {divided[0]} holds class folders, {some(others)} beside it images; "
            f"give --data.root {inner} for the classes in it, or rename it if it is a class itself"
        )


# What lies in a folder


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden or left by a system or an archive: no image, no class."""
    return name.startswith((".", "~$")) or name.lower() in _LEFTOVERS


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without leftovers.

    Raises:
        ConfigurationError: If there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"--data.root {folder}: there is no such folder")
    return [entry.name for entry in _entries(folder) if not is_leftover(entry.name) and _is(entry.is_dir)]


def hidden_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are hidden or left over."""
    return [entry.name for entry in _entries(folder) if is_leftover(entry.name) and _is(entry.is_dir)]


def images_in(folder: Path) -> int:
    """Return how many images lie in a folder itself."""
    return sum(is_image(entry.name) for entry in _entries(folder) if _is(entry.is_file))


def is_image(name: str) -> bool:
    """Return whether a file is an image, by its name."""
    return not is_leftover(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def look_into(folder: Path) -> Found:
    """Return what lies in a folder and all folders beneath it. Links are followed, nothing is opened.

    Raises:
        ConfigurationError: If a folder cannot be read.
    """
    # a link upwards would lead to all classes once more
    found, seen = Found(), {_identity(place) for place in (folder, *folder.resolve().parents)}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        for entry in _entries(place):
            name = str(Path(entry.path).relative_to(folder))
            if _is(entry.is_file):
                if is_image(entry.name):
                    found.images.append(entry.path)
                    found.direct += place == folder
                elif not is_leftover(entry.name):
                    found.others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1
            elif not _is(entry.is_dir):
                kept = found.odd if os.path.exists(entry.path) else found.broken
                kept += [] if is_leftover(entry.name) else [name]
            elif is_leftover(entry.name):
                found.hidden.append(name)
            elif (identity := _identity(Path(entry.path))) in seen:
                found.again.append(name)
            else:
                seen.add(identity)
                waiting.append(Path(entry.path))
    found.images.sort()
    start = len(str(folder / "x")) - 1
    inside = (path[start:].split(os.sep) for path in found.images)
    found.nested = sorted({parts[0] for parts in inside if len(parts) > 1})
    return found


def _is(test: Callable[[], bool]) -> bool:
    """Ask what an entry is; a link to itself is nothing."""
    try:
        return test()
    except OSError:
        return False


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigurationError(f"--data.root: {folder} cannot be read ({error.strerror})") from None


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
