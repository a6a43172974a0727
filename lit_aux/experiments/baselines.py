"""What a network's fixed features are worth: ridge regression on its activations or its gradients."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_aux.errors import unknown_name
from lit_aux.functional.ridge import BestRidge, best_ridge
from lit_aux.functional.tangent import relu_features, relu_tangent_kernel

Kind = Literal["readout", "tangent"]
"""Linear probe of the hidden layer, or the network linearised in all of its weights (NTK)."""


@torch.no_grad()
def ridge_baseline(
    first: Tensor,
    readout: Tensor,
    kind: Kind,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    alphas: Tensor | None = None,
) -> BestRidge:
    """Fit ridge regression, with intercept, on features of a ReLU network with one hidden layer.

    All columns of the targets share the network and the inputs, and one decomposition serves them all. As
    published, the penalty is the best one on the test set, for each target by itself.

    Args:
        first: Weights of the first layer, (H, d).
        readout: Weights of the readout, (H,); the probe does not read them.
        kind: ``"readout"`` takes the hidden activations, ``"tangent"`` the gradients by all weights.
        train: Inputs (n, d) and targets (n, T).
        test: Inputs (m, d) and targets (m, T).
        alphas: Penalties, (A,); by default 100 from 1e-5 to 1e10.

    Returns:
        One entry a column of the targets; float64 throughout, whatever came in.

    Raises:
        ConfigurationError: If the kind is unknown or shapes do not fit.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind))
    x, x_test = train[0].to(torch.float64), test[0].to(torch.float64)
    if kind == "readout":
        weight = first.to(torch.float64)
        inputs, inputs_test = relu_features(weight, x), relu_features(weight, x_test)
    else:
        inputs = relu_tangent_kernel(first, readout, x)
        inputs_test = relu_tangent_kernel(first, readout, x_test, x)
    return best_ridge(inputs, train[1], inputs_test, test[1], alphas, kernel=kind == "tangent")
