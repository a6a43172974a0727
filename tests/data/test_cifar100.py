import hashlib
import pickle

import numpy as np
import pytest
import torch

from lit_aux.data import CIFAR100DataModule
from lit_aux.errors import ConfigurationError

SIZES = {"train": 1000, "test": 300}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small data set in CIFAR-100's own files; only torchvision's list of checksums is replaced."""
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, size in SIZES.items():
        entry = {
            "data": rng.integers(0, 256, (size, 3072), dtype=np.uint8),
            "fine_labels": [int(i) for i in rng.permutation(size) % 100],
            "coarse_labels": [0] * size,
        }
        (folder / part).write_bytes(pickle.dumps(entry))
    names = CIFAR100DataModule(root=str(tmp_path)).class_names
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5(folder / "meta")})
    monkeypatch.setattr(CIFAR100DataModule, "pool_counts", lambda self: None)  # these files are smaller
    return tmp_path


def test_images_and_labels_agree_with_the_files(root):
    data = CIFAR100DataModule(root=str(root), n_main=10, n_val=5)
    data.prepare_data()
    data.setup()
    assert data.num_classes == {"main": 2, "aux": 98}
    for split, part in (("train", "train"), ("val", "train"), ("test", "test")):
        entry = pickle.loads((root / "cifar-100-python" / part).read_bytes())
        found = {row.tobytes(): label for row, label in zip(entry["data"], entry["fine_labels"], strict=True)}
        for task, classes in data.task_classes.items():
            samples = data.samples(split, task)
            assert samples.images.shape[1:] == (3, 32, 32)
            expected = [found[image.numpy().tobytes()] for image in samples.images]
            assert [classes[label] for label in samples.labels] == expected
    assert len(data.samples("train", "main")) == 10
    assert len(data.samples("train", "aux")) == 980 - 5


def test_normalized_batches_agree_with_torchvision(root):
    from torchvision.datasets import CIFAR100
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    theirs = CIFAR100(root, train=False, transform=transform)
    data = CIFAR100DataModule(root=str(root), classes={"all": 100}, eval_batch_size=300)
    x, y = next(iter(data.test_dataloader()))["all"]
    expected = torch.stack([image for image, _ in theirs])
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)
    assert [data.task_classes["all"][label] for label in y] == [label for _, label in theirs]


def test_names():
    names = CIFAR100DataModule().class_names
    assert len(names) == len(set(names)) == 100
    assert names == sorted(names)
    data = CIFAR100DataModule(classes={"main": ["apple", "worm"], "aux": 98})
    assert data.task_classes["main"] == [0, 99]


def test_more_images_than_there_are_is_known_without_the_files():
    with pytest.raises(ConfigurationError, match=r"--data.n_main 1001: task 'main' has 1000 training images"):
        CIFAR100DataModule(n_main=1001)


def test_missing_data(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        CIFAR100DataModule(root=str(tmp_path)).prepare_data()
    text = str(error.value)
    assert str(tmp_path / "cifar-100-python") in text
    assert "--data.download true" in text
    assert "\n" not in text


@pytest.mark.parametrize("damage", ["change", "remove"])
@pytest.mark.parametrize("name", ["train", "meta"])
def test_damaged_data(root, damage, name):
    file = root / "cifar-100-python" / name
    if damage == "change":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    else:
        file.unlink()
    with pytest.raises(ConfigurationError, match="missing or damaged") as error:
        CIFAR100DataModule(root=str(root)).setup("fit")
    assert "\n" not in str(error.value)


def test_a_gray_network_is_refused(root):
    with pytest.raises(ConfigurationError, match=r"--data\.channels 1"):
        CIFAR100DataModule(root=str(root), channels=1).setup("fit")


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    from urllib.error import URLError

    from torchvision.datasets import CIFAR100

    def fail(self):
        raise URLError("no network")

    monkeypatch.setattr(CIFAR100, "download", fail)
    with pytest.raises(ConfigurationError, match=r"--data.download true: .* \(<urlopen error no network>\)"):
        CIFAR100DataModule(root=str(tmp_path), download=True).prepare_data()


def test_superclasses_are_those_of_the_data_sets_coarse_labels():
    # the coarse label of every class in the order of their names, as the published files have it
    coarse = [
        *[4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11],
        *[6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5],
        *[5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17],
        *[10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13],
        *[16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13],
    ]
    data = CIFAR100DataModule(classes="superclasses")
    assert set(data.num_classes.values()) == {5}
    for number, classes in enumerate(data.task_classes.values()):
        assert {coarse[index] for index in classes} == {number}
