"""Images and labels as their owners have them, against what they say when read by a person."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import toy_trainer

from lit_aux import PhaseSettings
from lit_aux.data.base import TaskDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.modules import SingleTaskModule

LEVELS = torch.tensor([0, 51, 102, 204, 255], dtype=torch.uint8)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def ramp(channels: int = 1) -> torch.Tensor:
    """Return ten images of 4 x 5 pixels whose rows and channels differ, uint8 (10, C, 4, 5)."""
    values = LEVELS.expand(4, 5).clone()
    values[1] = values[1].flip(0)
    images = values.expand(10, channels, 4, 5).clone()
    for number in range(10):
        images[number, :, 0, 0] = 10 * number + torch.arange(channels)
    return images


class Own(TaskDataModule):
    """Three classes; images and labels as a test gives them."""

    def __init__(self, images: Any = None, labels: Any = LABELS, **options: Any) -> None:
        self.pair = (ramp() if images is None else images, labels)
        defaults = {"classes": {"main": ["a", "b", "c"]}, "mean": 0.0, "std": 1.0, "channels": 1, "seed": 0}
        super().__init__(**(defaults | options))

    @property
    def class_names(self) -> list[str]:
        return ["a", "b", "c"]

    def load_pool(self) -> Any:
        return self.pair

    def load_test(self) -> Any:
        return self.pair


def served(data: TaskDataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the test batch, which keeps the order of the source."""
    return next(iter(data.test_dataloader()))["main"]


NUMPY = ramp().numpy()
FLOATS = (NUMPY / 255).astype(np.float64)
IMAGES = {
    "uint8": ramp(),
    "numpy": NUMPY,
    "list of tensors": list(ramp()),
    "list of arrays": list(NUMPY),
    "nested lists": NUMPY.tolist(),
    "int64": ramp().long(),
    "uint16 within 255": NUMPY.astype(np.uint16),
    "floats of 0 to 1": torch.from_numpy(FLOATS).float(),
    "float64 of 0 to 1": FLOATS,
    "half": torch.from_numpy(FLOATS).half(),
    "floats of 0 to 255": ramp().float(),
    "big endian": FLOATS.astype(">f4"),
    "gray (N, H, W)": ramp()[:, 0],
    "channel last": ramp().permute(0, 2, 3, 1),
    "another stride": NUMPY[::-1][::-1],
    "needs a gradient": ramp().float().div(255).requires_grad_(),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_are_the_same_images(kind: str) -> None:
    data = Own(IMAGES[kind], n_main=6)
    x, y = served(data)
    torch.testing.assert_close(x, ramp().float() / 255, atol=1e-6, rtol=0)
    assert y.tolist() == LABELS
    data.set_phase(["main"])
    (trained, _) = next(iter(data.train_dataloader()))["main"]
    assert trained.shape == (6, 1, 4, 5)
    assert float(trained.max()) == 1.0


def test_colours_come_first_or_last() -> None:
    expected = ramp(3).float() / 255
    for images in (ramp(3), ramp(3).permute(0, 2, 3, 1).numpy()):
        torch.testing.assert_close(served(Own(images, channels=3))[0], expected)


def test_bool_images_are_black_and_white() -> None:
    assert served(Own(ramp() > 100))[0].unique().tolist() == [0.0, 1.0]


LABEL_KINDS = {
    "list": LABELS,
    "numpy": np.array(LABELS),
    "uint8": torch.tensor(LABELS, dtype=torch.uint8),
    "whole floats": torch.tensor(LABELS).float(),
    "names": ["abc"[label] for label in LABELS],
    "array of names": np.array(["abc"[label] for label in LABELS]),
    "(N, 1)": np.array(LABELS)[:, None],
    "one-hot": np.eye(3, dtype=np.int64)[LABELS],
    "list of tensors": list(torch.tensor(LABELS)),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_any_kind_are_the_same_labels(kind: str) -> None:
    assert served(Own(labels=LABEL_KINDS[kind]))[1].tolist() == LABELS


@pytest.mark.parametrize(
    "labels",
    [
        [-100 if i in (2, 7) else label for i, label in enumerate(LABELS)],
        [math.nan if i in (2, 7) else float(label) for i, label in enumerate(LABELS)],
        [None if i in (2, 7) else "abc"[label] for i, label in enumerate(LABELS)],
    ],
)
def test_images_without_a_label_are_left_out_and_counted(labels: Any) -> None:
    with pytest.warns(UserWarning, match=r"Own.load_test: 2 of 10 images have no label and are left out"):
        x, y = served(Own(labels=labels))
    rest = [i for i in range(10) if i not in (2, 7)]
    assert y.tolist() == [LABELS[i] for i in rest]
    torch.testing.assert_close(x, ramp()[rest].float() / 255)


REFUSED = {
    "floats beyond 1": (
        {"images": ramp().float() / 200},
        "floats from 0 to 1.275; return uint8 .*scale them",
    ),
    "normalized": ({"images": ramp().float() / 127.5 - 1}, "from -1 to 1; .*mean and std"),
    "16 bits": ({"images": NUMPY.astype(np.uint16) * 257}, "whole numbers from 0 to 65535"),
    "zeros and ones": ({"images": (ramp() > 100).byte()}, "from 0 to 1; .*multiply them by 255"),
    "NaN": ({"images": torch.where(ramp() == 90, math.nan, ramp() / 255)}, "1 of 10 images hold NaN"),
    "infinite": ({"images": torch.where(ramp() == 90, math.inf, ramp() / 255)}, "1 of 10 images hold NaN or"),
    "ragged": ({"images": [np.zeros((1, 4, 5)), np.zeros((1, 4, 6))]}, r"shapes \(1, 4, 5\), \(1, 4, 6\)"),
    "flat": ({"images": ramp().flatten(1)}, r"shape \(10, 20\); return \(N, C, H, W\)"),
    "four channels": ({"images": ramp(4)}, "4 channels"),
    "none": ({"images": ramp()[:0], "labels": []}, "hold no pixel"),
    "fewer labels": ({"labels": LABELS[:7]}, "10 images and 7 labels"),
    "more labels": ({"labels": LABELS + LABELS}, "10 images and 20 labels"),
    "from 1": ({"labels": [label + 1 for label in LABELS]}, "labels from 1 to 3, .* 0 to 2; subtract 1"),
    "-1": ({"labels": [-1, *LABELS[1:]]}, "labels from -1 to 2, .* -100"),
    "fractions": ({"labels": [0.5, *LABELS[1:]]}, "labels such as 0.5; return numbers of classes"),
    "another name": ({"labels": ["d", *"abcabcabc"]}, "label 'd' is none of the class_names"),
    "several classes": ({"labels": np.ones((10, 3), dtype=int)}, r"shape \(10, 3\) .*one class for each"),
    "no label at all": ({"labels": [-100] * 10}, "no image with a label"),
    "a number": ({"labels": 3}, "labels 3; return one for each image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ConfigurationError, match=message) as caught:
        Own(**options).setup("fit")
    assert "\n" not in str(caught.value)
    if case != "four channels":
        assert str(caught.value).startswith("Own.load_pool: ")


def test_something_else_than_a_pair_is_refused() -> None:
    data = Own()
    data.pair = ramp()  # type: ignore[assignment]
    with pytest.raises(
        ConfigurationError, match=r"Own.load_pool: Tensor; return a pair of images and labels"
    ):
        data.setup("fit")


def test_test_and_validation_images_are_checked_as_well() -> None:
    class Apart(Own):
        has_own_validation = True

        def load_val(self) -> Any:
            return ramp(), LABELS[:4]

        def load_test(self) -> Any:
            return ramp() / 100, LABELS

    with pytest.raises(ConfigurationError, match=r"Apart.load_val: 10 images and 4 labels"):
        Apart().setup("fit")
    with pytest.raises(ConfigurationError, match=r"Apart.load_test: images of floats from 0 to 2.55"):
        Apart().setup("test")


def test_nothing_is_said_of_what_is_right() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Own().setup()


def test_test_images_of_a_run_are_checked_before_it_trains(tmp_path: Path) -> None:
    class Run(Own):
        def load_test(self) -> Any:
            return ramp(), LABELS[:4]

    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 4))
    module = SingleTaskModule(network, {"main": 3}, num_features=4, settings=PhaseSettings(max_epochs=1))
    start = network[1].weight.detach().clone()
    with pytest.raises(ConfigurationError, match=r"Run.load_test: 10 images and 4 labels"):
        toy_trainer(tmp_path).fit(module, datamodule=Run())
    assert torch.equal(network[1].weight, start)
    toy_trainer(tmp_path, test_after_phase=False).fit(module, datamodule=Run())
