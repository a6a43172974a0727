"""Norms and shares against loops, their inequalities and the optimisation problem that they solve."""

import math

import numpy as np
import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import (
    entry_share,
    f1_norm,
    f12_norm,
    l1_norm,
    l2_norm,
    l12_norm,
    top_share,
    unit_contributions,
    unit_products,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_norms_of_coefficients_are_their_sums():
    beta = draw(4, 2, 7)
    for r, rows in enumerate(beta.tolist()):
        columns = list(zip(*rows, strict=True))
        assert l1_norm(beta)[r].item() == pytest.approx(sum(abs(b) for row in rows for b in row))
        assert l2_norm(beta)[r].item() == pytest.approx(math.hypot(*rows[0], *rows[1]))
        assert l12_norm(beta)[r].item() == pytest.approx(sum(math.hypot(*column) for column in columns))
    for norm in (l1_norm, l2_norm, l12_norm):
        assert norm(beta).shape == (4,)
        assert norm(beta.view(2, 2, 2, 7)).shape == (2, 2)
        assert torch.equal(norm(beta[0, 0]), norm(beta[0, :1]))
        assert norm(torch.zeros(3, 2)).item() == 0
        assert norm(beta.float()).dtype == torch.float32
    assert (l2_norm(beta) < l12_norm(beta)).all()
    assert (l12_norm(beta) < l1_norm(beta)).all()


def test_twice_the_l12_norm_is_the_least_squared_norm_of_the_weights():
    """beta_od = v_od w_d: the best w_d of a fine grid, input by input."""
    beta = draw(2, 5)
    grid = np.linspace(1e-3, 4, 200_001)
    cost = [np.min(grid**2 + float((beta[:, d] ** 2).sum()) / grid**2) for d in range(5)]
    assert 2 * l12_norm(beta).item() == pytest.approx(sum(cost), rel=1e-6)


def test_norms_of_relu_networks_are_their_sums():
    first, readout = draw(3, 6, 4), draw(3, 2, 6, seed=1)
    for r in range(3):
        f1 = f12 = 0.0
        for h in range(6):
            size = math.hypot(*first[r, h].tolist())
            f1 += sum(abs(v) * size for v in readout[r, :, h].tolist())
            f12 += math.hypot(*readout[r, :, h].tolist()) * size
        assert f1_norm(first, readout)[r].item() == pytest.approx(f1)
        assert f12_norm(first, readout)[r].item() == pytest.approx(f12)
    assert unit_products(first, readout).shape == (3, 2, 6)
    torch.testing.assert_close(unit_contributions(first, readout).sum(-1), f12_norm(first, readout))
    one = readout[:, :1]
    torch.testing.assert_close(f1_norm(first, one), f12_norm(first, one))
    # Moving a unit's size from one layer to the other leaves the function and both norms.
    split = torch.rand(6, dtype=torch.float64) + 0.5
    for norm in (f1_norm, f12_norm):
        torch.testing.assert_close(norm(first * split[:, None], readout / split), norm(first, readout))


def test_top_share_is_that_of_the_sorted_squares():
    beta = draw(3, 2, 9)
    squares = np.sort(beta.numpy() ** 2)[..., ::-1]
    for k in (1, 4, 9):
        expected = squares[..., :k].sum(-1) / squares.sum(-1)
        np.testing.assert_allclose(top_share(beta, k).numpy(), expected, rtol=1e-12)
    sparse = torch.tensor([0.0, -2.0, 0.0, 2.0])
    assert top_share(sparse, 1).item() == 0.5
    assert top_share(sparse, 2).item() == 1
    assert top_share(1e-30 * sparse, 1).item() == 0.5, "squares of a small float32 vector must not vanish"
    assert top_share(torch.zeros(4), 2).isnan()
    assert top_share(torch.stack([sparse, torch.zeros(4)]), 2)[0].item() == 1


def test_entry_share_by_indices_and_masks():
    beta, entries = draw(3, 2, 9), [1, 4, 8]
    squares = beta.numpy() ** 2
    expected = squares[..., entries].sum(-1) / squares.sum(-1)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[entries] = True
    for chosen in (entries, torch.tensor(entries), mask, mask.expand(3, 2, 9), mask.expand(2, 9)):
        np.testing.assert_allclose(entry_share(beta, chosen).numpy(), expected, rtol=1e-12)
    assert torch.equal(entry_share(beta, torch.zeros(0, dtype=torch.long)), torch.zeros(3, 2).double())
    torch.testing.assert_close(entry_share(beta, range(9)), torch.ones(3, 2).double())
    masks = torch.rand(3, 1, 9) > 0.5
    one_by_one = torch.stack([entry_share(beta[r], masks[r, 0]) for r in range(3)])
    torch.testing.assert_close(entry_share(beta, masks), one_by_one)
    assert entry_share(torch.zeros(9), entries).isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l1_norm(torch.ones(3, dtype=torch.long)), "beta: torch.int64 of shape"),
        (lambda: l2_norm(torch.tensor(1.0)), r"beta: torch.float32 of shape \(\)"),
        (lambda: f1_norm(draw(5, 3), draw(1, 4)), r"readout: shape \(1, 4\) does not fit first \(5, 3\)"),
        (lambda: f12_norm(draw(2, 5, 3), draw(3, 1, 5)), "readout: shape"),
        (lambda: top_share(draw(4), 0), "k: 0 of 4 entries"),
        (lambda: top_share(draw(4), 5), "k: 5 of 4 entries"),
        (lambda: entry_share(draw(4), [0, 4]), r"entries: \[0, 4\]"),
        (lambda: entry_share(draw(4), [-1]), r"entries: \[-1\]"),
        (lambda: entry_share(draw(4), [1, 1]), r"entries: \[1, 1\]"),
        (lambda: entry_share(draw(4), torch.ones(3, dtype=torch.bool)), r"entries: a mask of shape \(3,\)"),
        (lambda: entry_share(torch.ones(3, dtype=torch.int), [0]), "beta: torch.int32"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
