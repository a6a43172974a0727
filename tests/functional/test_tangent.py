"""Tangent kernels against the Gram matrices of gradients that torch.func computes."""

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from lit_aux.errors import ConfigurationError
from lit_aux.functional import tangent
from lit_aux.functional.tangent import (
    diagonal_features,
    diagonal_tangent_kernel,
    relu_features,
    relu_tangent_kernel,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(f, parameters, x):
    """The gradient of ``f(parameters, x_i)`` in every parameter, flattened: {name: (n, size)}."""
    found = vmap(jacrev(f), in_dims=(None, 0))(parameters, x)
    return {name: value.flatten(1) for name, value in found.items()}


def gram(f, parameters, x, x2):
    left, right = gradients(f, parameters, x), gradients(f, parameters, x2)
    return sum(left[name] @ right[name].T for name in parameters)


def relu_net(p, x):
    return (p["first"] @ x).relu() @ p["readout"]


def diagonal_net(p, x):
    return (p["w_plus"] * p["v_plus"] - p["w_minus"] * p["v_minus"]) @ x


@pytest.fixture
def relu():
    """Weights of a network of 23 units, one of which is zero, and two sets of inputs."""
    first = normal(23, 5)
    first[7] = 0  # exactly at the kink for every input
    return {"first": first, "readout": normal(23, seed=1)}, normal(11, 5, seed=2), normal(8, 5, seed=3)


@pytest.fixture
def diagonal():
    names = ("w_plus", "v_plus", "w_minus", "v_minus")
    return (
        {name: normal(6, seed=i) for i, name in enumerate(names)},
        normal(11, 6, seed=4),
        normal(8, 6, seed=5),
    )


@pytest.mark.parametrize("limit", [1, 100, 2**20])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_relu_kernel_is_the_gram_matrix_of_the_gradients(monkeypatch, relu, limit, scale):
    monkeypatch.setattr(tangent, "BLOCK_ELEMENTS", limit)  # 1, 4 or all of the rows at a time
    parameters, x, x2 = relu
    parameters = {name: scale * value for name, value in parameters.items()}
    close = {"rtol": 1e-10, "atol": 1e-12 * scale**2}
    torch.testing.assert_close(
        relu_tangent_kernel(**parameters, x=x, x2=x2), gram(relu_net, parameters, x, x2), **close
    )
    torch.testing.assert_close(
        relu_tangent_kernel(**parameters, x=x), gram(relu_net, parameters, x, x), **close
    )


def test_relu_kernel_is_that_of_a_network_of_torch_layers():
    net = torch.nn.Sequential(
        torch.nn.Linear(5, 23, bias=False), torch.nn.ReLU(), torch.nn.Linear(23, 1, bias=False)
    ).double()
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    x = normal(9, 5)
    expected = gram(lambda p, x: functional_call(net, p, (x[None],))[0, 0], parameters, x, x)
    found = relu_tangent_kernel(parameters["0.weight"], parameters["2.weight"][0], x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_relu_features_are_the_gradient_in_the_readout(relu):
    parameters, x, _ = relu
    expected = gradients(relu_net, parameters, x)["readout"]
    torch.testing.assert_close(relu_features(parameters["first"], x), expected)


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_come_in_the_asked_precision(relu, diagonal, given, dtype):
    eps = torch.finfo(min((given, dtype), key=lambda d: torch.finfo(d).bits)).eps
    for kernel, (weights, x, x2) in (
        (lambda w, *args, **kw: relu_tangent_kernel(w["first"], w["readout"], *args, **kw), relu),
        (diagonal_tangent_kernel, diagonal),
    ):
        exact = kernel(weights, x, x2)
        weights = {name: value.to(given) for name, value in weights.items()}
        found = kernel(weights, x.to(given), x2.to(given), dtype=dtype)
        assert found.dtype == dtype
        error = (found.double() - exact).abs().max() / exact.abs().max()
        assert error < 20 * eps


@pytest.mark.parametrize("limit", [1, 30, 2**20])
def test_diagonal_kernel_is_the_gram_matrix_of_the_gradients(monkeypatch, diagonal, limit):
    monkeypatch.setattr(tangent, "BLOCK_ELEMENTS", limit)
    parameters, x, x2 = diagonal
    close = {"rtol": 1e-10, "atol": 1e-12}
    expected = gram(diagonal_net, parameters, x, x2)
    torch.testing.assert_close(diagonal_tangent_kernel(parameters, x, x2), expected, **close)
    expected = gram(diagonal_net, parameters, x, x)
    torch.testing.assert_close(diagonal_tangent_kernel(parameters, x), expected, **close)


def test_diagonal_features_are_the_gradient_in_the_readout(diagonal):
    parameters, x, _ = diagonal
    expected = gradients(diagonal_net, parameters, x)
    expected = torch.cat((expected["v_plus"], expected["v_minus"]), 1)
    torch.testing.assert_close(diagonal_features(parameters, x), expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: relu_tangent_kernel(normal(4, 3), normal(1, 4), normal(2, 3)), "readout: shape (1, 4)"),
        (lambda: relu_tangent_kernel(normal(4, 3), normal(4), normal(2, 4)), "x: shape (2, 4)"),
        (lambda: relu_tangent_kernel(normal(4, 3), normal(4), normal(2, 3), normal(3)), "x2: shape (3,)"),
        (lambda: diagonal_tangent_kernel({"w_plus": normal(3)}, normal(2, 3)), "weights: v_plus, w_minus"),
        (
            lambda: diagonal_tangent_kernel(
                {name: normal(4) for name in ("w_plus", "v_plus", "w_minus", "v_minus")}, normal(2, 3)
            ),
            "weights: shapes [(4,)]",
        ),
    ],
)
def test_bad_input_says_what_would_be_right(call, says):
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
