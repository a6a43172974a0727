import gzip

import pytest
import torch

from lit_aux.data import FashionMNISTDataModule
from lit_aux.data import fashion_mnist as module
from lit_aux.errors import ConfigurationError

SIZES = {"train": 60, "t10k": 20}


def source(part):
    generator = torch.Generator().manual_seed(len(part))
    images = torch.randint(0, 256, (SIZES[part], 28, 28), dtype=torch.uint8, generator=generator)
    return images, (torch.arange(SIZES[part]) % 10).byte()


def idx(magic, tensor):
    header = b"".join(n.to_bytes(4, "big") for n in (magic, *tensor.shape))
    return header + tensor.numpy().tobytes()


def write(folder, compressed):
    folder.mkdir(parents=True, exist_ok=True)
    for part in SIZES:
        images, labels = source(part)
        for name, data in (
            (f"{part}-images-idx3-ubyte", idx(0x803, images)),
            (f"{part}-labels-idx1-ubyte", idx(0x801, labels)),
        ):
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


@pytest.fixture(autouse=True)
def no_system_data(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DEBIAN_FOLDER", tmp_path / "system")
    monkeypatch.setattr(FashionMNISTDataModule, "pool_counts", lambda self: None)  # these files are smaller


@pytest.mark.parametrize("place", ["FashionMNIST/raw", ".", "../system"])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_the_files_wherever_they_are(place, compressed, tmp_path):
    write(tmp_path / "root" / place, compressed)
    data = FashionMNISTDataModule(root=str(tmp_path / "root"), n_main=4, n_val=2)
    data.prepare_data()
    data.setup()
    for split, part in (("train", "train"), ("val", "train"), ("test", "t10k")):
        images, labels = source(part)
        found = {i.numpy().tobytes(): int(c) for i, c in zip(images, labels, strict=True)}
        for task, classes in data.task_classes.items():
            samples = data.samples(split, task)
            assert samples.images.shape[1:] == (1, 28, 28)
            expected = [found[image.numpy().tobytes()] for image in samples.images]
            assert [classes[label] for label in samples.labels] == expected


def test_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import FashionMNIST

    write(tmp_path / "FashionMNIST" / "raw", compressed=False)
    theirs = FashionMNIST(tmp_path, train=False)
    data = FashionMNISTDataModule(root=str(tmp_path))
    images, labels = data.load_test()
    assert torch.equal(images[:, 0], theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert data.class_names == theirs.classes


def test_missing_data_name_every_place_and_the_remedies(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        FashionMNISTDataModule(root=str(tmp_path / "nothing")).prepare_data()
    text = str(error.value)
    for part in (
        "nothing/FashionMNIST/raw",
        "system",
        "--data.download true",
        "apt-get install dataset-fashion-mnist",
    ):
        assert part in text
    assert "\n" not in text


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def unpack(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


def swap(path):
    path.write_bytes((path.parent / "train-labels-idx1-ubyte.gz").read_bytes())


def shorten(path):
    path.write_bytes(gzip.compress(idx(0x803, source("train")[0])[:-1]))


def fewer(path):
    path.write_bytes(gzip.compress(idx(0x803, source("train")[0][:-1])))


@pytest.mark.parametrize("damage", [cut, unpack, swap, shorten, fewer])
def test_damaged_files(damage, tmp_path):
    write(tmp_path, compressed=True)
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ConfigurationError, match=r"train-images-idx3-ubyte\.gz") as error:
        FashionMNISTDataModule(root=str(tmp_path)).setup("fit")
    assert "\n" not in str(error.value)


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading\ntrain-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", fail)
    with pytest.raises(ConfigurationError, match=r"--data\.download true: Fashion-MNIST could not") as error:
        FashionMNISTDataModule(root=str(tmp_path), download=True).prepare_data()
    assert "\n" not in str(error.value)


def test_the_real_images_where_they_are_installed(monkeypatch, tmp_path):
    monkeypatch.undo()
    if not module.DEBIAN_FOLDER.is_dir():
        pytest.skip(f"Debian's package dataset-fashion-mnist is not installed ({module.DEBIAN_FOLDER})")
    data = FashionMNISTDataModule(root=str(tmp_path), n_main=20)
    data.prepare_data()
    for (images, labels), count in ((data.load_pool(), 6000), (data.load_test(), 1000)):
        assert torch.bincount(labels).tolist() == [count] * 10
        assert images.shape == (10 * count, 1, 28, 28)
        # published mean of the training pixels: .2860
        assert abs(images.double().mean().item() / 255 - 0.286) < 0.002
