from collections import Counter

import pytest
import torch

from lit_aux.data import FashionMNISTDataModule, FashionMTLDataModule
from lit_aux.errors import ConfigurationError

SIZES = {"train": 400, "t10k": 80}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Images that differ from each other, in place of the files."""

    def load(self, part):
        generator = torch.Generator().manual_seed(len(part))
        images = torch.randint(0, 256, (SIZES[part], 1, 28, 28), dtype=torch.uint8, generator=generator)
        return images, torch.randint(10, (SIZES[part],), generator=generator).sort().values

    monkeypatch.setattr(FashionMNISTDataModule, "_load", load)
    monkeypatch.setattr(FashionMTLDataModule, "pool_counts", lambda self: None)


def contents(data, split, task):
    samples = data.samples(split, task)
    return {
        image.numpy().tobytes(): int(label)
        for image, label in zip(samples.images, samples.labels, strict=True)
    }


def test_halves_are_disjoint_and_hold_every_image_once():
    data = FashionMTLDataModule(n_val=50, seed=1)
    pool, labels = data._load("train")
    kinds = {image.numpy().tobytes(): int(label) for image, label in zip(pool, labels, strict=True)}
    parts = {(s, t): contents(data, s, t) for s in ("train", "val") for t in data.tasks}
    assert all(len(parts["val", task]) == 50 for task in data.tasks)
    together = [*parts["train", "first"], *parts["val", "first"]]
    together += [*parts["train", "second"], *parts["val", "second"]]
    assert Counter(together) == Counter(kinds.keys())
    for task in ("first", "second"):
        assert all(kinds[image] == label for image, label in parts["train", task].items())
    half = Counter(kinds[image] for image in (*parts["train", "first"], *parts["val", "first"]))
    assert all(abs(2 * half[kind] - count) <= 1 for kind, count in Counter(kinds.values()).items())


def test_the_third_task_has_the_first_half_under_other_names():
    data = FashionMTLDataModule(n_val=50)
    first, permuted = contents(data, "test", "first"), contents(data, "test", "permuted")
    assert set(first) == set(permuted)
    names = {(first[image], permuted[image]) for image in first}
    assert len(names) == len({a for a, _ in names}) == len({b for _, b in names}) == 10
    assert all(a != b for a, b in names)


def test_the_halves_do_not_depend_on_the_seed():
    one, other = (FashionMTLDataModule(n_val=0, seed=seed) for seed in (1, 2))
    assert contents(one, "train", "first") == contents(other, "train", "first")
    assert contents(one, "test", "second") == contents(other, "test", "second")


def test_sizes_are_the_published_ones_with_all_the_files(monkeypatch):
    monkeypatch.undo()
    counts = FashionMTLDataModule().pool_counts()
    assert sum(counts[:10]) == sum(counts[10:20]) == sum(counts[20:]) == 25_000 + 5_000


def test_classes_are_settled():
    with pytest.raises(ConfigurationError, match="has its own"):
        FashionMTLDataModule(classes={"main": 2})
