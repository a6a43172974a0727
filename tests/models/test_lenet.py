import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.models import LeNet, MultiHeadNet


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 16), (1, 12)])
def test_features_of_any_size(channels, size):
    net = MultiHeadNet(LeNet(channels, size), {"a": 10, "b": 3})
    assert net(torch.randn(2, channels, size, size), "b").shape == (2, 3)


def test_it_has_the_published_number_of_weights():
    # LeCun et al. 1998 with full connections between the two convolutions: 61,706 with the last layer
    count = sum(p.numel() for p in MultiHeadNet(LeNet(), {"digits": 10}).parameters())
    assert count == 61_706


def test_images_that_are_too_small():
    with pytest.raises(ConfigurationError, match="11 is too small"):
        LeNet(size=11)
