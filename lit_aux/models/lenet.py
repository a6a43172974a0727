"""LeNet-5."""

from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import COUNT, check


class LeNet(nn.Module):
    """LeNet-5 without its last layer, with ReLU and max-pooling (LeCun et al., 1998).

    Two convolutions of 5 x 5 (6 and 16 channels), each halved by pooling, and two full layers (120, 84).

    Args:
        channels: Channels of the images.
        size: Their height and width in pixels, 12 at least; 28 for MNIST and Fashion-MNIST.

    Shape:
        (B, channels, size, size) to features (B, 84).

    Raises:
        ConfigurationError: If the images are too small.

    Example:
        >>> import torch
        >>> from lit_aux.models import LeNet
        >>> LeNet()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 84])
    """

    num_features = 84

    def __init__(self, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        check("channels", channels, COUNT)
        check("size", size, COUNT)
        side = (size // 2 - 4) // 2
        if side < 1:
            raise ConfigurationError(f"size: {size} is too small for LeNet; use at least 12")
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.layers(x)  # type: ignore[no-any-return]
