"""Which files of a folder are images of which class and part, and what is said of the rest."""

import os
import re
import socket
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_aux.data import ImageFolderDataModule, image_folder
from lit_aux.errors import ConfigurationError

DRAW = np.random.default_rng(0)


def image(path: Path) -> Path:
    """Write a small image that no other is like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 255, (4, 4, 3), np.uint8)).save(path)
    return path


def folder(root: Path, places: Iterable[str], count: int = 3) -> Path:
    """Write images into folders."""
    for place in places:
        for number in range(count):
            image(root / place / f"{number}.png")
    return root


def listed(data: ImageFolderDataModule) -> dict[str, Counter[str]]:
    """Return how many images of each class each part has."""
    return {
        part: Counter(data.class_names[label] for label in labels)
        for part, (_, labels) in data._listings.items()
    }


def quiet(root: Path, **options: object) -> ImageFolderDataModule:
    """Return the data, of which there is nothing to be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ImageFolderDataModule(str(root), seed=0, size=4, **options)  # type: ignore[arg-type]


def said(root: Path) -> tuple[ImageFolderDataModule, str]:
    """Return the data and the one line that is said of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = ImageFolderDataModule(str(root), seed=0, size=4)
    (text,) = [str(warning.message) for warning in caught if "--data.root" in str(warning.message)]
    assert text.startswith(f"--data.root {root}: ")
    assert "\n" not in text
    return data, text


def refused(root: Path) -> str:
    with pytest.raises(ConfigurationError, match=r"--data\.root") as error:
        ImageFolderDataModule(str(root))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "eval"),
        ("training", "dev", "Test"),
        ("train_set", "val_set", "evaluation"),
    ],
)
def test_parts_by_their_usual_names(train: str, val: str, test: str, tmp_path: Path) -> None:
    folder(tmp_path, [f"{train}/cat", f"{train}/dog"], 4)
    folder(tmp_path, [f"{val}/cat", f"{val}/dog"], 1)
    folder(tmp_path, [f"{test}/cat", f"{test}/dog"], 2)
    counts = {"train": 4, "val": 1, "test": 2}
    assert listed(quiet(tmp_path)) == {part: {"cat": n, "dog": n} for part, n in counts.items()}


def test_validation_images_by_another_name_serve_as_test_images(tmp_path: Path) -> None:
    folder(tmp_path, ["Training/cat", "Training/dog", "dev/cat", "dev/dog"])
    assert {*listed(quiet(tmp_path))} == {"train", "test"}


@pytest.mark.parametrize("name", ["train", "Test", "dev", "validation", "eval"])
def test_a_class_may_be_called_like_a_part(name: str, tmp_path: Path) -> None:
    data = quiet(folder(tmp_path, [name, "bus", "car"], 5))
    assert data.class_names == sorted([name, "bus", "car"])
    assert listed(data) == {
        "train": dict.fromkeys(data.class_names, 4),
        "test": dict.fromkeys(data.class_names, 1),
    }


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["train", "test"], "test, train hold images, but no class folders"),
        (["train"], "train holds images, but no class folders"),
        (["train/cat", "train/dog", "test"], "test holds images, but no class folders; take it out"),
        (["train/cat", "Training/cat"], "Training and train both hold train images"),
        (["val/cat", "dev/cat", "train/cat"], "dev and val both hold val images"),
        (["val/cat", "test/cat"], "none is called train"),
        (["train/a", "train/b", "bus", "car"], "train holds class folders, bus, car beside it images"),
        (
            ["archive/cat", "archive/dog"],
            r"archive is the only class folder.*\(cat, dog\).*give --data.root .*archive",
        ),
        (
            ["archive/train/cat", "archive/test/cat"],
            r"\(test, train\); if these .*give --data.root .*archive",
        ),
        (
            ["train/images/cat", "train/images/dog"],
            r"images is the only class folder.*move them up to .*train",
        ),
        (["train/cat", "test/fox"], "fox is of a class without training images"),
    ],
)
def test_what_cannot_be_told(places: list[str], message: str, tmp_path: Path) -> None:
    assert re.search(message, refused(folder(tmp_path, places)))


LEFTOVERS = [
    "cat/.ipynb_checkpoints/0-checkpoint.png",
    "cat/._0.png",
    "cat/.hidden.png",
    "__MACOSX/cat/._0.png",
    "__MACOSX/cat/0.png",
    "lost+found/0.png",
    ".git/0.png",
    "dog/@eaDir/0.png",
]


def test_hidden_files_and_leftovers_are_no_images(tmp_path: Path) -> None:
    folder(tmp_path, ["cat", "dog"], 5)
    for name in LEFTOVERS:
        image(tmp_path / name)
    for name in ("cat/Thumbs.db", "dog/.DS_Store", "dog/desktop.ini", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"?")
    data, text = said(tmp_path)
    assert listed(data) == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}}
    # the files among them are not worth a word
    told = "left out: hidden or left-over folders (.git, __MACOSX, lost+found and 2 more)"
    assert text == f"--data.root {tmp_path}: {told}"


def test_hidden_files_and_leftovers_within_parts(tmp_path: Path) -> None:
    folder(tmp_path, ["train/cat", "train/dog", "test/cat", "test/dog"])
    for part in ("train", "test"):
        for name in LEFTOVERS:
            image(tmp_path / part / name)
    data, _ = said(tmp_path)
    assert listed(data) == {part: {"cat": 3, "dog": 3} for part in ("train", "test")}


def test_copies_of_a_notebook_do_not_lie_in_train_and_test(tmp_path: Path) -> None:
    """The copies were a third of the images, and some of them in the other part than their twin."""
    folder(tmp_path, ["cat", "dog"], 10)
    for file in [*tmp_path.glob("cat/*.png")]:
        copy = tmp_path / "cat" / ".ipynb_checkpoints" / f"{file.stem}-checkpoint.png"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    data, text = said(tmp_path)
    assert sum(sum(part.values()) for part in listed(data).values()) == 20
    assert "of images of" not in text


def test_copies_in_train_and_test_are_said(tmp_path: Path) -> None:
    folder(tmp_path, ["train/cat", "train/dog", "test/cat", "test/dog", "val/cat", "val/dog"])
    original = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    (tmp_path / "test" / "cat" / "new.png").write_bytes(original)
    (tmp_path / "test" / "dog" / "1.png").write_bytes((tmp_path / "train" / "dog" / "2.png").read_bytes())
    os.symlink(tmp_path / "train" / "cat" / "1.png", tmp_path / "val" / "cat" / "link.png")
    _, text = said(tmp_path)
    assert text == (
        f"--data.root {tmp_path}: 2 images of test are copies of images of train "
        "(train/cat/0.png = test/cat/new.png); 1 image of val is a copy of images of train "
        "(train/cat/1.png = val/cat/link.png)"
    )


def test_copies_among_images_that_are_set_aside(tmp_path: Path) -> None:
    folder(tmp_path, ["cat", "dog"], 1)
    for number in range(1, 4):  # of four alike, one is set aside
        (tmp_path / "cat" / f"{number}.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
        image(tmp_path / "dog" / f"{number}.png")
    _, text = said(tmp_path)
    assert "1 image of test is a copy of images of train (cat/" in text
    (tmp_path / "dog" / "1.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    assert "1 image is in several classes (cat/" in said(tmp_path)[1]


def test_files_of_one_size_or_start_are_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, ["train/cat", "train/dog", "test/cat", "test/dog"])
    for part, end in (("train", b"1"), ("test", b"2")):
        path = tmp_path / part / "cat" / "0.png"
        Image.new("RGB", (4, 4)).save(path)
        path.write_bytes(path.read_bytes() + bytes(5000) + end)
    quiet(tmp_path)
    monkeypatch.setattr(image_folder, "MOST", 11)
    assert said(tmp_path)[1].endswith("copies were not looked for among 12 images")


def test_nested_folders_are_said(tmp_path: Path) -> None:
    folder(tmp_path, ["animals/cat", "animals/dog", "vehicles/bus"], 2)
    image(tmp_path / "vehicles" / "own.png")
    data, text = said(tmp_path)
    assert listed(data)["train"] + listed(data)["test"] == {"animals": 4, "vehicles": 3}
    assert text == (
        f"--data.root {tmp_path}: images in folders within a class folder are of that class: "
        "animals (cat, dog), vehicles (bus)"
    )


def test_folders_and_files_that_are_left_out_are_said(tmp_path: Path) -> None:
    folder(tmp_path, ["train/cat", "train/dog", "train/eel", "test/cat", "test/dog", "unlabelled"])
    image(tmp_path / "train" / "stray.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train" / "cat" / "a.heic").write_bytes(b"?")
    data, text = said(tmp_path)
    assert listed(data)["train"] == {"cat": 3, "dog": 3, "eel": 3}
    assert text == (
        f"--data.root {tmp_path}: left out: folders (annotations, unlabelled), "
        "files of other kinds (1 .heic), 1 image beside the class folders; test has no images of eel"
    )


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    folder(tmp_path, ["cat", "dog"], 5)
    cat, dog = tmp_path / "cat", tmp_path / "dog"
    os.mkfifo(cat / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(cat / "s.png"))
        os.symlink("/dev/zero", cat / "device.png")
        os.symlink(tmp_path / "nowhere.png", cat / "broken.png")
        os.symlink(cat / "itself.png", cat / "itself.png")
        os.symlink(tmp_path, dog / "up")
        data, text = said(tmp_path)
        data.setup()
    assert sum(sum(part.values()) for part in listed(data).values()) == 10
    assert "broken links (cat/broken.png, cat/itself.png)" in text
    assert "pipes or devices (cat/device.png, cat/pipe.png, cat/s.png)" in text
    assert "links to folders that are there already (dog/up)" in text  # upwards: to all classes once more


def test_links_to_images_and_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", ["images"], 4)
    root = folder(tmp_path / "root", ["dog"], 5)
    (root / "cat").mkdir()
    os.symlink(elsewhere / "images", root / "cat" / "part")
    os.symlink(elsewhere / "images", root / "cat" / "again")
    os.symlink(image(tmp_path / "x.png"), root / "cat" / "x.png")
    data, text = said(root)
    assert listed(data)["train"] + listed(data)["test"] == {"cat": 5, "dog": 5}
    assert "links to folders that are there already (cat/part)" in text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ""),
        (["a.heic", "b.heic"], r"other files \(2 .heic\)"),
        ([".hidden/0.png"], r"hidden folders \(.hidden\)"),
    ],
)
def test_empty_classes_are_named(names: list[str], words: str, tmp_path: Path) -> None:
    folder(tmp_path, ["cat"])
    (tmp_path / "dog").mkdir()
    for name in names:
        (tmp_path / "dog" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dog" / name).write_bytes(b"?")
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/dog holds no images .*{words}"):
        ImageFolderDataModule(str(tmp_path))


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path, ["cat", "dog"])
    scan = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(root) == f"--data.root: {root / 'dog'} cannot be read (Permission denied)"


def test_images_that_none_can_read_are_refused_before_training(tmp_path: Path) -> None:
    """Also where they are not kept in memory, and so read in the middle of training."""
    root = folder(tmp_path, ["cat", "dog"], 10)
    for file in root.rglob("*.png"):
        Image.fromarray(np.ones((4, 4), np.float32)).save(file.with_suffix(".tif"))
        file.unlink()
    data = ImageFolderDataModule(str(root), size=4, in_memory=False, seed=0)
    with pytest.raises(ConfigurationError, match=r"\.tif cannot be read .*floating-point"):
        data.setup("fit")


def test_the_same_images_as_before(tmp_path: Path) -> None:
    """The order of files decides the draws of a seed: it is that of their paths."""
    root = folder(tmp_path, ["b", "a-b", "a"], 12)
    data = quiet(root)
    paths = [path for part in data._listings.values() for path in part[0]]
    assert sorted(paths) == sorted(str(path) for path in root.rglob("*.png"))
    train, labels = data._listings["train"]
    order = [(label, path) for path, label in zip(train, labels, strict=True)]
    assert order == sorted(order)
    assert torch.tensor(labels).bincount().tolist() == data.pool_counts()
