"""The trace of the covariance of per-example gradients against its definition."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from threading import Barrier, Lock

import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import gradient_coherence, moments_from_norms

N = 60


def per_example(scatter=1.0, seed=0):
    """Gradients (N, 7) of a nonlinear model's examples, one by one."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(N, 7, generator=generator, dtype=torch.float64)
    y = scatter * torch.randn(N, generator=generator, dtype=torch.float64)
    return torch.stack(
        [torch.autograd.grad((torch.tanh(a @ weight) - b) ** 2, weight)[0] for a, b in zip(x, y, strict=True)]
    )


def brute_force(rows):
    """Trace of the covariance with divisor N, and the squared norm of the mean."""
    return torch.cov(rows.T, correction=0).trace().item(), rows.mean(0).square().sum().item()


def means(rows, order, batch_size, n):
    """Mean gradients of n disjoint batches, each as two tensors, as of two parameters."""
    for batch in order[: n * batch_size].split(batch_size):
        mean = rows[batch].mean(0)
        yield [mean[:3].view(3, 1), mean[3:]]


@pytest.mark.parametrize(("batch_size", "n"), [(4, 15), (4, 3), (10, 2), (1, 5)])
def test_both_moments_are_unbiased(batch_size, n):
    rows, draws = per_example(), 20000
    order = torch.rand(draws, N, generator=torch.Generator().manual_seed(1)).argsort(1)[:, : n * batch_size]
    small = rows[order].view(draws, n, batch_size, 7).mean(2)
    squares = torch.stack((small.square().sum(2).mean(1), small.mean(1).square().sum(1)), 1)
    sizes = {"small": batch_size, "large": n * batch_size, "total": N}
    found = torch.tensor([astuple(moments_from_norms(*pair, **sizes)) for pair in squares.tolist()])
    errors = found.std(0) / draws**0.5
    expected = torch.tensor(brute_force(rows))
    assert ((found.mean(0) - expected).abs() < 4 * errors + 1e-6).all()
    assert found.mean(0)[0].item() == pytest.approx(expected[0].item(), rel=0.02)
    for i in range(3):  # and what is given gradients finds the same
        one = gradient_coherence(means(rows, order[i], batch_size, n), batch_size=batch_size, total=N)
        assert astuple(one) == pytest.approx(found[i].tolist(), rel=1e-5)


def test_single_examples_of_the_whole_set_are_exact():
    rows = per_example()
    found = gradient_coherence(means(rows, torch.arange(N), 1, N), batch_size=1, total=N)
    assert (found.trace, found.squared_norm) == pytest.approx(brute_force(rows), rel=1e-12)


def test_the_whole_set_gives_its_own_norm_for_every_small_batch():
    rows = per_example()
    for batch_size in (1, 2, 5, 20):
        n = N // batch_size
        found = gradient_coherence(
            means(rows, torch.arange(N), batch_size, n), batch_size=batch_size, total=N
        )
        assert found.squared_norm == pytest.approx(brute_force(rows)[1], rel=1e-12)


def test_examples_that_agree_have_no_variance_and_zeros_neither():
    same = torch.ones(N, 7, dtype=torch.float64)
    found = gradient_coherence(means(same, torch.arange(N), 6, 10), batch_size=6, total=N)
    assert found.trace == pytest.approx(0, abs=1e-12)
    assert found.squared_norm == pytest.approx(7)
    found = gradient_coherence(means(0 * same, torch.arange(N), 6, 10), batch_size=6, total=N)
    assert (found.trace, found.squared_norm) == (0, 0)


def test_half_precision_is_summed_in_better():
    rows = per_example().bfloat16()
    found = gradient_coherence(means(rows, torch.arange(N), 1, N), batch_size=1, total=N)
    assert found.trace == pytest.approx(brute_force(rows.double())[0], rel=1e-5)


def test_processes_that_share_the_batches_end_with_the_values_of_one():
    rows, order = per_example(), torch.arange(N)
    batches = list(means(rows, order, 5, 12))
    like = [torch.empty(3, 1, dtype=torch.float64), torch.empty(4, dtype=torch.float64)]

    barrier, lock, sums = Barrier(2), Lock(), {}

    def process(part, sent):
        def reduce(tensor):
            sent.append(tensor)
            with lock:
                sums[len(sent)] = sums.get(len(sent), 0) + tensor
            barrier.wait(timeout=20)
            return sums[len(sent)]

        return gradient_coherence(part, batch_size=5, total=N, like=like, reduce=reduce)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(process, (batches, []), ([], [])))
    assert both[0] == both[1]
    (shared, _) = both
    alone = gradient_coherence(batches, batch_size=5, total=N)
    assert (shared.trace, shared.squared_norm) == pytest.approx((alone.trace, alone.squared_norm), rel=1e-12)


def test_gradients_are_asked_for_one_by_one_and_with_gradients_on():
    asked = []

    def make():
        for i in range(4):
            weight = torch.ones(2, requires_grad=True)
            asked.append(i)
            yield torch.autograd.grad((i * weight).sum(), weight)

    found = gradient_coherence(make(), batch_size=1, total=4)
    assert asked == [0, 1, 2, 3]
    assert found.trace == pytest.approx(2 * torch.arange(4.0).var(correction=0).item())


@pytest.mark.parametrize(
    ("n", "batch_size", "total"), [(0, 2, 10), (1, 2, 10), (6, 2, 10), (2, 0, 10), (3, 5, 10)]
)
def test_batches_that_cannot_be(n, batch_size, total):
    with pytest.raises(ConfigurationError, match=f"gradients: {n} batches of {batch_size} from {total}"):
        gradient_coherence([[torch.ones(2)]] * n, batch_size=batch_size, total=total)


@pytest.mark.parametrize(("small", "large", "total"), [(0, 4, 9), (4, 4, 9), (5, 4, 9), (2, 10, 9)])
def test_sizes_that_cannot_be(small, large, total):
    with pytest.raises(ConfigurationError, match=f"large: {large}"):
        moments_from_norms(1.0, 1.0, small=small, large=large, total=total)
