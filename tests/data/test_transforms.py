import pytest
import torch
from torch import nn

from lit_aux.data.transforms import BatchTransform, RandomCropFlip
from lit_aux.errors import ConfigurationError


def images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("mean", "std", "channels", "given"),
    [
        (0.5, 0.5, 3, 3),
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 3, 3),
        ([0.1, 0.2, 0.3], 0.5, 3, 1),
        (0.3, [0.5], 3, 1),
        (0.1, 0.2, 1, 1),
        ([0.5, 0.5, 0.5], [0.2, 0.3, 0.2], 3, 3),
    ],
)
def test_normalizes_as_torchvision_does(mean, std, channels, given):
    from torchvision.transforms.v2 import Normalize

    x = images(5, given, 6, 7)
    full = torch.Tensor.float(x.expand(-1, channels, -1, -1)) / 255
    as_list = [v if isinstance(v, list) else [v] for v in (mean, std)]
    expected = Normalize(*(v * channels if len(v) == 1 else v for v in as_list))(full)
    before = x.clone()
    result = BatchTransform(mean, std, channels)(x)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)


def test_augmentation_comes_first():
    class Invert(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.uint8
            return 255 - x

    x = images(2, 1, 4, 4)
    torch.testing.assert_close(BatchTransform(0.5, 0.5, 1, Invert())(x), -BatchTransform(0.5, 0.5, 1)(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0.0}, "std 0.0"),
        ({"std": [0.5, -1, 0.5]}, "above 0"),
        ({"mean": [0.5, 0.5]}, "mean [0.5, 0.5]"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigurationError) as error:
        BatchTransform(**options)
    assert message in str(error.value)


def test_wrong_number_of_channels():
    with pytest.raises(ConfigurationError, match="channels 1: the images have 3"):
        BatchTransform(channels=1)(images(2, 3, 4, 4))


def test_each_image_is_a_crop_of_its_padded_self():
    torch.manual_seed(0)
    x = images(64, 2, 5, 6)
    result = RandomCropFlip(padding=2)(x)
    assert result.shape == x.shape
    assert result.dtype == torch.uint8
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    found = set()
    for i in range(64):
        for dy in range(5):
            for dx in range(5):
                crop = padded[i, :, dy : dy + 5, dx : dx + 6]
                for mirrored in (False, True):
                    if torch.equal(result[i], crop.flip(-1) if mirrored else crop):
                        found.add((i, dy, dx, mirrored))
    assert len({f[0] for f in found}) == 64  # every image was found
    assert len({f[1:3] for f in found}) > 15  # with many offsets
    assert {f[3] for f in found} == {False, True}


def test_no_padding_and_no_flip_change_nothing():
    x = images(8, 1, 4, 4)
    assert torch.equal(RandomCropFlip(padding=0, flip=False)(x), x)
    torch.manual_seed(1)
    first = RandomCropFlip(1)(x)
    torch.manual_seed(1)
    assert torch.equal(RandomCropFlip(1)(x), first)


def test_negative_padding():
    with pytest.raises(ConfigurationError, match="padding -1"):
        RandomCropFlip(-1)
