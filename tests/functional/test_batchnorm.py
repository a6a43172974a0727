"""Re-estimated statistics against those of the layer inputs on the whole data, collected by hooks."""

import pytest
import torch
from torch import nn

from lit_aux.functional import reestimate_batchnorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, momentum=None),
        nn.Flatten(),
        nn.Linear(5 * 16, 6),
        nn.BatchNorm1d(6),
    )


def layers_of(model):
    return [m for m in model if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def run(model):
    def forward(batch):
        model(batch)
        return len(batch)

    return forward


def normalise(x):
    """What a batch-norm layer in train mode does with gamma 1 and beta 0."""
    dims = [d for d in range(x.ndim) if d != 1]
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()


@torch.no_grad()
def layer_inputs(model, x):
    """Inputs of the batch-norm layers with batch statistics and no dropout, layer by layer."""
    found = []
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            found.append(x)
            x = normalise(x)
        elif not isinstance(module, nn.Dropout):
            x = module(x)
    return found


def moments(x):
    dims = [d for d in range(x.ndim) if d != 1]
    return x.mean(dims), x.var(dims)


def data(n=32):
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 + 1


def test_one_batch_gives_the_statistics_of_every_layer():
    model, x = network(), data()
    assert reestimate_batchnorm(model, [x], run(model)) == len(x)
    for layer, inputs in zip(layers_of(model), layer_inputs(model, x), strict=True):
        mean, variance = moments(inputs)
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-4, atol=1e-5)


def test_unequal_batches_pool_to_the_statistics_of_the_whole():
    model, x = network(), data(33)
    batches = [x[:16] + 5, x[16:30], x[30:]]  # means differ, so the variance between batches counts
    assert reestimate_batchnorm(model, batches, run(model)) == 33
    first = layers_of(model)[0]
    mean, variance = moments(layer_inputs(model, torch.cat(batches))[0])
    torch.testing.assert_close(first.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, variance, rtol=5e-3, atol=0)  # n-1 within each batch


def test_old_statistics_do_not_matter_and_repeating_changes_nothing():
    model, x = network(), data()
    reestimate_batchnorm(model, [x], run(model))
    once = [layer.running_var.clone() for layer in layers_of(model)]
    for layer in layers_of(model):
        layer.running_mean.fill_(100)
        layer.running_var.fill_(1e4)
    reestimate_batchnorm(model, [x], run(model))
    torch.testing.assert_close([layer.running_var for layer in layers_of(model)], once)


def test_everything_else_is_left_as_it_was():
    model, x = network().train(), data()
    model[3].eval()
    modes = [m.training for m in model.modules()]
    weights = [p.clone() for p in model.parameters()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    reestimate_batchnorm(model, [x], run(model))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)  # dropout drew nothing
    assert [m.training for m in model.modules()] == modes
    assert [layer.momentum for layer in layers_of(model)] == [0.3, None, 0.1]
    torch.testing.assert_close(list(model.parameters()), weights, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_after_an_error():
    model = network().train()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [torch.randn(2, 9, 6, 6)], run(model))
    assert all(m.training for m in model.modules())
    assert layers_of(model)[0].momentum == 0.3


def test_chosen_layers_and_number_of_samples():
    model, x = network(), data()
    last = layers_of(model)[-1]
    seen = []

    def forward(batch):
        seen.append(len(batch))
        return run(model)(batch)

    assert reestimate_batchnorm(model, x.split(10), forward, layers=[last], max_samples=15) == 20
    assert seen == [10, 10]
    assert not torch.equal(last.running_mean, torch.zeros(6))
    torch.testing.assert_close(layers_of(model)[0].running_var, torch.ones(4), rtol=0, atol=0)


def test_sums_of_two_processes_give_what_one_would():
    x = data()
    parts, results = x.split([20, 12]), []

    def capture(total):
        results.append(total)
        return total

    one, other = network(), network()
    for part in parts:
        model = network()
        reestimate_batchnorm(model, [part], run(model), reduce=capture)
    reestimate_batchnorm(one, parts, run(one))
    used = reestimate_batchnorm(other, [parts[0]], run(other), reduce=lambda total: total + results[1])
    assert used == 32
    for a, b in zip(layers_of(one), layers_of(other), strict=True):
        torch.testing.assert_close((a.running_mean, a.running_var), (b.running_mean, b.running_var))


def test_nothing_to_do():
    plain, model = nn.Linear(2, 2), network()
    assert reestimate_batchnorm(plain, [torch.ones(1, 2)], run(plain)) == 0
    assert reestimate_batchnorm(model, [], run(model)) == 0
    torch.testing.assert_close(layers_of(model)[0].running_var, torch.ones(4), rtol=0, atol=0)
