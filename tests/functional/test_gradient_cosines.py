"""Cosines of gradients against numpy, and where there is no direction."""

import numpy as np
import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import gradient_conflict, gradient_cosine, pairwise_cosines


def gradients(k, dtype=torch.float64, seed=0):
    """K gradients of a two-layer network's tasks, by automatic differentiation."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(4, 5, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(4, generator=generator, dtype=dtype, requires_grad=True)
    found = []
    for _ in range(k):
        x, y = (
            torch.randn(6, 5, generator=generator, dtype=dtype),
            torch.randn(6, generator=generator).to(dtype),
        )
        loss = ((torch.tanh(x @ first.T + bias).sum(1) - y) ** 2).mean()
        found.append(torch.autograd.grad(loss, [first, bias]))
    return found


def by_hand(a, b):
    a, b = (np.concatenate([part.double().numpy().ravel() for part in tensors]) for tensors in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cosines_are_those_by_hand(dtype):
    tasks = [[part.to(dtype) for part in gradient] for gradient in gradients(3)]
    mean = [sum(parts) / 3 for parts in zip(*tasks, strict=True)]
    conflict, pairs = gradient_conflict(tasks, mean), pairwise_cosines(tasks)
    assert conflict.dtype == pairs.dtype == torch.float64
    for i, one in enumerate(tasks):
        assert conflict[i].item() == pytest.approx(by_hand(one, mean), rel=1e-12)
        for j, other in enumerate(tasks):
            assert pairs[i, j].item() == pytest.approx(by_hand(one, other), rel=1e-12)
    assert torch.equal(pairs, pairs.T)
    assert torch.equal(pairs.diagonal(), torch.ones(3, dtype=torch.float64))


def test_directions_alone_count():
    (a, b) = gradients(2)
    assert gradient_cosine(a, [3 * part for part in a]).item() == pytest.approx(1)
    assert gradient_cosine(a, [-1e-90 * part for part in a]).item() == pytest.approx(-1)
    assert gradient_cosine(a, b).item() == pytest.approx(gradient_cosine(b, [5 * p for p in a]).item())
    assert gradient_cosine(iter(a), iter(b)).item() == gradient_cosine(a, b).item()
    assert gradient_cosine(a[0], b[0]).item() == pytest.approx(by_hand([a[0]], [b[0]]))
    # in float32 the sums of these would be infinite
    assert gradient_cosine(torch.full((9,), 1e30), torch.full((9,), 1e30)).item() == 1


def test_zero_gradients_and_single_tasks_have_values():
    (a,) = gradients(1)
    zero = [torch.zeros_like(part) for part in a]
    assert gradient_cosine(a, zero).item() == gradient_cosine(zero, zero).item() == 0
    assert pairwise_cosines([a]).tolist() == [[1]]
    assert pairwise_cosines([zero]).tolist() == [[0]]
    assert gradient_conflict([a], a).tolist() == pytest.approx([1])
    assert gradient_conflict([a, zero], zero).tolist() == [0, 0]
    assert gradient_cosine(torch.tensor([torch.nan, 1]), torch.ones(2)).isnan()


def test_bad_input():
    (a, b) = gradients(2)
    for other in (b[:1], [b[1], b[0]], [*b, b[0]]):
        with pytest.raises(ConfigurationError, match="b: "):
            gradient_cosine(a, other)
    with pytest.raises(ConfigurationError, match="a: there is no tensor"):
        gradient_cosine([], [])
    for function in (pairwise_cosines, lambda none: gradient_conflict(none, a)):
        with pytest.raises(ConfigurationError, match="gradients: there is none"):
            function([])
