"""What lies in a folder: images, without hidden files, archives' leftovers and all that is no file."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lit_aux.errors import ConfigurationError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LEFTOVERS = (
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
)
_SHOWN = 3  # names in a line, of many


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden or left by a system or an archive: no image, no class."""
    return name.startswith((".", "~$")) or name.lower() in _LEFTOVERS


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


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without leftovers.

    Raises:
        ConfigurationError: If there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"--data.root {folder}: there is no such folder")
    return sorted(entry.name for entry in _entries(folder) if not is_leftover(entry.name) and _is_dir(entry))


def hidden_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are hidden or left over."""
    return [entry.name for entry in _entries(folder) if is_leftover(entry.name) and _is_dir(entry)]


def images_in(folder: Path) -> int:
    """Return how many images lie in a folder itself."""
    names = [entry.name for entry in _entries(folder) if _is_file(entry)]
    return sum(is_image(name) for name in names)


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
            if _is_file(entry):
                _file(found, entry, place == folder)
            elif not _is_dir(entry):
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


def some(names: list[str], limit: int = _SHOWN) -> str:
    """Name the first of many."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _file(found: Found, entry: "os.DirEntry[str]", direct: bool) -> None:
    if is_leftover(entry.name):
        return
    if is_image(entry.name):
        found.images.append(entry.path)
        found.direct += direct
    else:
        found.others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
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
