"""A multi-layer perceptron."""

from collections import OrderedDict

from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import COUNT, Range, check


class MLP(nn.Sequential):
    """Full layers with ReLU, of equal width, for rows of numbers; the readout is the tasks'.

    Layers are called ``hidden1``, ``hidden2``, ...: callbacks measure them by these names, after the ReLU.

    Args:
        in_features: Numbers in a row.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Probability with which a unit is left out of a training step.

    Shape:
        (B, in_features), numbers of any type, to features (B, width).

    Raises:
        ConfigurationError: For sizes that are no whole numbers above 0, a probability that is none, and rows
            of another length.

    Example:
        >>> import torch
        >>> from lit_aux.models import MLP
        >>> MLP(8, width=32)(torch.zeros(2, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(self, in_features: int, width: int = 64, depth: int = 2, dropout: float = 0.0) -> None:
        for name, size in {"in_features": in_features, "width": width, "depth": depth}.items():
            check(name, [size], COUNT)
        check("dropout", dropout, Range(least=0, below=1))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(depth):
            parts: list[nn.Module] = [nn.Linear(width if number else in_features, width), nn.ReLU()]
            layers[f"hidden{number + 1}"] = nn.Sequential(*parts, *([nn.Dropout(dropout)] if dropout else []))
        super().__init__(layers)
        self.num_features = width
        self.feature_info = [{"module": name, "num_chs": width} for name in layers]  # as timm's networks have

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        weight = next(self.parameters())
        if x.ndim != 2 or x.shape[1] != weight.shape[1]:
            raise ConfigurationError(
                f"in_features: {weight.shape[1]} numbers a row, and MLP got inputs {tuple(x.shape)}"
            )
        features: Tensor = super().forward(x.to(weight.dtype))  # type: ignore[no-untyped-call]
        return features
