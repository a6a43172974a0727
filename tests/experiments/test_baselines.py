"""The ridge baselines against scikit-learn on features that torch.func computes."""

import pytest
import torch
from sklearn.linear_model import Ridge
from torch.func import jacrev, vmap

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.students import ridge_baseline

ALPHAS = torch.logspace(-5, 10, 12, dtype=torch.float64)


def network_and_data(scale=1.0):
    """A ReLU network in float32 and two teachers' answers to the same inputs."""
    generator = torch.Generator().manual_seed(0)
    first, readout, teacher = (torch.randn(*s, generator=generator) for s in ((30, 5), (30,), (5, 2)))
    x, x_test = (torch.randn(n, 5, generator=generator) for n in (40, 60))
    answers = [(a @ teacher).relu() + 0.3 * torch.randn(len(a), 2, generator=generator) for a in (x, x_test)]
    return scale * first, scale * readout, (x, answers[0]), (x_test, answers[1])


def features(first, readout, kind, x):
    """The gradients in the readout, or in everything, as explicit rows."""

    def net(first, readout, x):
        return (first @ x).relu() @ readout

    found = vmap(jacrev(net, argnums=(0, 1)), in_dims=(None, None, 0))(first, readout, x)
    return found[1] if kind == "readout" else torch.cat([f.flatten(1) for f in found], 1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("kind", ["readout", "tangent"])
def test_baseline_is_scikit_learns_ridge_on_explicit_gradients(kind, scale):
    first, readout, train, test = network_and_data(scale)
    phi, phi_test = (
        features(first.double(), readout.double(), kind, x.double()).numpy() for x in (train[0], test[0])
    )
    fits = [Ridge(alpha, solver="svd").fit(phi, train[1].double().numpy()) for alpha in ALPHAS.tolist()]

    def errors(inputs, y):
        return torch.stack([(torch.tensor(f.predict(inputs)) - y).square().mean(0) for f in fits])

    losses, train_losses = errors(phi_test, test[1]), errors(phi, train[1])
    found = ridge_baseline(first, readout, kind, train, test, ALPHAS)
    torch.testing.assert_close(found.losses, losses, rtol=1e-6, atol=1e-10)
    best = losses.argmin(0)
    torch.testing.assert_close(found.alpha, ALPHAS[best])
    torch.testing.assert_close(found.loss_best, losses.min(0).values, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.train_loss, train_losses[best, [0, 1]], rtol=1e-6, atol=1e-10)


def test_columns_do_not_know_of_each_other():
    first, readout, train, test = network_and_data()
    both = ridge_baseline(first, readout, "tangent", train, test, ALPHAS)
    for i in (0, 1):
        one = ridge_baseline(
            first, readout, "tangent", (train[0], train[1][:, [i]]), (test[0], test[1][:, [i]]), ALPHAS
        )
        torch.testing.assert_close(one.losses[:, 0], both.losses[:, i], rtol=1e-9, atol=0)


def test_an_unknown_kind_is_named():
    first, readout, train, test = network_and_data()
    with pytest.raises(ConfigurationError, match="kind: 'ntk' is unknown"):
        ridge_baseline(first, readout, "ntk", train, test)
