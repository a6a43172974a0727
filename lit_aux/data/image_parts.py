"""Which folders of a data set hold training, validation and test images, and which are classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_aux.data.folders import Found, folders_in, look_into, some
from lit_aux.errors import ConfigurationError

NAMES = {
    "train": ("train", "training", "trainset", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "valset", "val_set", "validation_set", "dev"),
    "test": ("test", "testing", "testset", "test_set", "eval", "evaluation"),
}
"""What the folders of parts are called, in any case."""
_PART_OF = {name: part for part, names in NAMES.items() for name in names}


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
    sorted_in = [
        name for name in named if found[name].nested or (not found[name].images and folders_in(root / name))
    ]
    divided = [name for name in sorted_in if not (found[name].direct and others)]
    if not divided:
        _check_classes(root, named, others, found)
        return Parts({"train": root}, found, [])
    by_part = _by_part(root, named, found)
    _check_divided(root, divided, others, by_part)
    return Parts(by_part, found, [name for name in found if name not in named])


def _check_classes(
    root: Path, named: Mapping[str, str], others: Sequence[str], found: Mapping[str, Found]
) -> None:
    """Refuse parts without classes, which are no classes themselves."""
    flat = [name for name in named if found[name].direct]
    if flat and not others:
        raise ConfigurationError(
            f"--data.root {root}: {some(flat)} hold{'s' if len(flat) == 1 else ''} images, but no class "
            "folders; images belong in one folder per class"
        )


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
            f"--data.root {root}: {divided[0]} holds class folders, {some(list(others))} beside it images; "
            f"give --data.root {inner} for the classes in it, or rename it if it is a class itself"
        )
