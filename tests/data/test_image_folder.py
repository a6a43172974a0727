import gc
import multiprocessing

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import nn

from lit_aux.data import ImageFolderDataModule, RandomCropFlip
from lit_aux.data import image_folder as module
from lit_aux.errors import ConfigurationError
from lit_aux.modules import SingleTaskModule

NAMES = ["cat", "dog", "eel"]


def fill(folder, per_class, first=0, size=(12, 10)):
    """Every image has one colour: (class, number, 7)."""
    for index, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(first, first + per_class):
            pixels = np.full((size[1], size[0], 3), (index * 40, number, 7), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


@pytest.fixture
def flat(tmp_path):
    fill(tmp_path / "flat", 10)
    return str(tmp_path / "flat")


@pytest.fixture
def parted(tmp_path):
    for part, count, first in (("train", 10, 0), ("val", 3, 50), ("test", 4, 100)):
        fill(tmp_path / "parted" / part, count, first)
    return str(tmp_path / "parted")


def collect(loader, task="main"):
    """Return (class, number) of all images, from a loader that does not normalize."""
    seen = []
    for batch in loader:
        x, y = batch[task]
        x = (x * 255).round().long()
        assert torch.equal(x[:, 0, 0, 0], y * 40)
        seen += list(zip(y.tolist(), x[:, 1, 0, 0].tolist(), strict=True))
    return seen


def folder(root, **options):
    options = {"size": 8, "mean": 0.0, "std": 1.0, "seed": 0, "batch_size": 8, "num_workers": 0} | options
    data = ImageFolderDataModule(root=root, **options)
    data.setup()
    return data


@pytest.mark.parametrize("in_memory", [True, False])
def test_flat_folder_is_split_by_the_seed(flat, in_memory):
    data = folder(flat, in_memory=in_memory, n_main=15)
    assert data.num_classes == {"main": 3}
    train, val, test = (
        collect(loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    )
    assert [len(part) for part in (train, val, test)] == [15, 9, 6]
    assert sorted(train + val + test) == [(c, n) for c in range(3) for n in range(10)]
    assert collect(folder(flat, in_memory=in_memory, n_main=15).test_dataloader()) == test
    assert collect(folder(flat, in_memory=in_memory, n_main=15, seed=1).test_dataloader()) != test


def test_folders_of_parts(parted):
    data = folder(parted, n_main=27)
    assert {n < 50 for _, n in collect(data.train_dataloader())} == {True}
    assert sorted(collect(data.val_dataloader())) == [(c, n) for c in range(3) for n in range(50, 53)]
    assert sorted(collect(data.test_dataloader())) == [(c, n) for c in range(3) for n in range(100, 104)]


def test_val_serves_as_test_where_there_is_none(tmp_path):
    for part, first in (("train", 0), ("val", 50)):
        fill(tmp_path / part, 4, first)
    data = folder(str(tmp_path), n_val=3)
    assert {n for _, n in collect(data.test_dataloader())} == set(range(50, 54))
    assert {n < 50 for _, n in collect(data.val_dataloader())} == {True}


def test_tasks_by_class_names(flat):
    data = folder(flat, classes={"main": ["eel", "cat"]}, n_main=4)
    assert data.task_classes == {"main": [2, 0]}
    assert set(data.train_dataloader().tasks["main"].labels.tolist()) == {0, 1}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_give_the_batches_that_memory_gives(flat, num_workers):
    memory = folder(flat, in_memory=True).train_dataloader()
    files = folder(flat, in_memory=False, num_workers=num_workers).train_dataloader()
    assert len(memory) == len(files) == 3
    for _ in range(2):  # both epochs, which differ
        for one, other in zip(memory, files, strict=True):
            assert torch.equal(one["main"][0], other["main"][0])
            assert torch.equal(one["main"][1], other["main"][1])


def test_workers_resume_with_the_same_augmentation(flat):
    def make(num_workers):
        data = folder(flat, in_memory=False, num_workers=num_workers, augment=RandomCropFlip(2))
        return data.train_dataloader()

    whole = make(1)
    iterator = iter(whole)
    next(iterator)
    state = whole.state_dict()
    rest = [batch["main"][0] for batch in iterator]
    resumed = make(2)
    resumed.load_state_dict(state)
    found = [batch["main"][0] for batch in resumed]
    assert len(found) == len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, rest, strict=True))


def test_workers_end_at_once(flat):
    """Whatever garbage collection has to find is waited for, five seconds a worker."""
    before = {*multiprocessing.active_children()}
    loader = folder(flat, in_memory=False, num_workers=2).train_dataloader()
    assert len(list(loader)) == 3
    started = {*multiprocessing.active_children()} - before
    assert len(started) == 2
    gc.disable()
    try:
        del loader
    finally:
        gc.enable()
    assert not any(process.is_alive() for process in started)


def test_workers_end_with_a_phase(flat, tmp_path):
    before = {*multiprocessing.active_children()}
    loader = folder(flat, in_memory=False, num_workers=1).train_dataloader()
    module = SingleTaskModule(nn.Flatten(), {"main": 3}, num_features=192)
    Trainer(
        accelerator="cpu",
        default_root_dir=str(tmp_path),
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    assert loader._iterator is None
    assert {*multiprocessing.active_children()} <= before
    assert len(list(loader)) == 3  # others are started


def test_resize_and_crop(tmp_path):
    """Shorter side to floor(size / crop) and the central square, as timm evaluates."""
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    ramp = np.add.outer(np.arange(60), np.arange(90)).astype(np.uint8)
    for name in NAMES[:2]:
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], -1)).save(
                tmp_path / name / f"{number}.png"
            )
    data = folder(str(tmp_path), size=32)
    x, _ = next(iter(data.test_dataloader()))["main"]
    theirs = Compose([Resize(36), CenterCrop(32), ToTensor()])  # 36 = floor(32 / 0.875)
    expected = theirs(Image.open(tmp_path / "cat" / "0.png"))
    assert (x[0] - expected).abs().max() <= 1.01 / 255


def test_memory_decides(flat, monkeypatch):
    needed = 30 * 3 * 8 * 8
    monkeypatch.setattr(module, "free_memory", lambda: 4 * needed)
    assert isinstance(folder(flat).samples("train", "main").images, torch.Tensor)
    monkeypatch.setattr(module, "free_memory", lambda: 4 * needed - 4)
    assert not isinstance(folder(flat).samples("train", "main").images, torch.Tensor)
    monkeypatch.undo()
    assert module.free_memory() > 2**20


def test_fingerprint_sees_changed_files(flat):
    from pathlib import Path

    data = folder(flat, in_memory=False)
    before = data.fingerprint(["main"])
    assert folder(flat, in_memory=False).fingerprint(["main"]) == before
    for file in Path(flat).rglob("*.png"):
        Image.new("RGB", (20, 20), (9, 9, 9)).save(file)
    assert folder(flat, in_memory=False).fingerprint(["main"]) != before


@pytest.mark.parametrize(("in_memory", "num_workers"), [(True, 0), (False, 0), (False, 1)])
def test_unreadable_image(flat, in_memory, num_workers):
    from pathlib import Path

    for file in Path(flat).rglob("*.png"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ConfigurationError, match=r"\.png cannot be read as an image") as error:
        for _ in folder(flat, in_memory=in_memory, num_workers=num_workers).train_dataloader():
            pass
    assert "\n" not in str(error.value)


def test_wrong_folders(tmp_path, flat):
    def fails(message, root, **options):
        with pytest.raises(ConfigurationError, match=message) as error:
            ImageFolderDataModule(root=str(root), **options)
        assert "\n" not in str(error.value)

    fails("--data.root .*nowhere: there is no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("has no class folders", tmp_path / "empty")
    (tmp_path / "empty" / "cat").mkdir()
    fails("cat holds no images", tmp_path / "empty")
    fills = tmp_path / "parts"
    fill(fills / "train", 2)
    (fills / "test" / "fox").mkdir(parents=True)
    fails("fox is of a class without training images", fills)
    fill(tmp_path / "single", 1)
    fails("class 'cat' has 1 image", tmp_path / "single")
    fails("--data.num_workers -1", flat, num_workers=-1)
    fails("--data.test_fraction 1.0", flat, test_fraction=1.0)
    fails("'catt' is unknown; did you mean 'cat'", flat, classes={"main": ["catt", "dog"]})
    fails("--data.n_main 25: task 'main' has 24 training images", flat, n_main=25)
