import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lit_aux.data import DigitsDataModule
from lit_aux.errors import ConfigurationError


def as_bytes(images):
    return {np.asarray(image, dtype=np.uint8).tobytes() for image in images}


def test_labels_agree_with_the_source():
    data = DigitsDataModule(classes={"main": [3, 8], "aux": 8}, n_main=50, size=8)
    data.setup()
    source = load_digits()
    digits = {
        np.rint(i * 255 / 16).astype(np.uint8).tobytes(): t
        for i, t in zip(source.images, source.target, strict=True)
    }
    for split in ("train", "val", "test"):
        for task, classes in data.task_classes.items():
            samples = data.samples(split, task)
            found = [digits[image.numpy().tobytes()] for image in samples.images]
            assert found == [classes[label] for label in samples.labels]


def test_splits_and_counts():
    data = DigitsDataModule(n_main=20, size=8, n_val=50, n_aux=500)
    data.setup()
    sets = {(s, t): as_bytes(data.samples(s, t).images) for s in ("train", "val", "test") for t in data.tasks}
    everything = [image for images in sets.values() for image in images]
    assert len(everything) == len(set(everything))  # scikit-learn's digits hold no image twice
    _, labels = data.load_pool()
    assert torch.bincount(labels).tolist() == data.pool_counts()
    assert len(labels) + len(data.load_test()[1]) == 1797


def test_batches_for_a_network():
    data = DigitsDataModule(n_main=20)
    x, y = next(iter(data.train_dataloader()))["main"]
    assert x.shape == (20, 3, 16, 16)
    assert x.dtype == torch.float32
    assert -1 <= x.min() < x.max() <= 1
    assert torch.bincount(y).tolist() == [10, 10]


def test_too_many_images_are_known_before_any_is_loaded():
    with pytest.raises(ConfigurationError, match=r"--data.n_main 500: task 'main' has \d+ training images"):
        DigitsDataModule(n_main=500)
