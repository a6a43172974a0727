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


# Every call of a layer counts


class Shared(nn.Module):
    """One layer for several inputs of a batch, called once for each."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *parts):
        return [self.layer(part) for part in parts]


def forward_all(model):
    def forward(batch):
        model(*batch)
        return sum(len(part) for part in batch)

    return forward


def normal(*shape, mean=0.0, std=1.0, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std + mean


SYNCED = nn.SyncBatchNorm(3)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None), SYNCED])
@pytest.mark.parametrize("sizes", [((4, 2, 6),), ((4, 2), (6,)), ((1, 7), (3, 1))])
def test_every_call_of_a_shared_layer_counts_by_its_samples(layer, sizes):
    flat = [size for batch in sizes for size in batch]
    parts = [normal(n, 3, 5, 5, mean=4 * i, std=i + 1, seed=i) for i, n in enumerate(flat)]
    batches, rest = [], list(parts)
    for batch in sizes:
        batches.append(rest[: len(batch)])
        rest = rest[len(batch) :]
    model = Shared(layer)
    assert reestimate_batchnorm(model, batches, forward_all(model)) == sum(flat)
    mean, variance = moments(torch.cat(parts).double())
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_images_of_two_sizes_count_alike():
    small, large = normal(6, 1, 8, 8), normal(6, 1, 12, 12, mean=5, std=2, seed=1)
    model = Shared(nn.BatchNorm2d(1))
    reestimate_batchnorm(model, [(small, large)], forward_all(model))
    mean = (small.double().mean() + large.double().mean()) / 2
    assert model.layer.running_mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert model.layer.running_mean.item() == pytest.approx(2.5, abs=0.2)
    squares = [((x.double() - mean) ** 2).mean().item() for x in (small, large)]
    values = 6 * 64 + 6 * 144
    assert model.layer.running_var.item() == pytest.approx(sum(squares) / 2 * values / (values - 1), rel=1e-5)


def test_a_layer_counts_only_where_it_runs():
    model = nn.ModuleDict({"a": nn.BatchNorm1d(2), "b": nn.BatchNorm1d(2), "c": nn.BatchNorm1d(2)})
    batches = [("a", normal(8, 2)), ("b", normal(4, 2, mean=9, seed=1)), ("b", normal(6, 2, mean=7, seed=2))]

    def forward(batch):
        model[batch[0]](batch[1])
        return len(batch[1])

    model["c"].running_mean.fill_(3)
    told = []
    assert reestimate_batchnorm(model, batches, forward, on_unreached=told.extend) == 18
    for name in "ab":
        mean, variance = moments(torch.cat([x for task, x in batches if task == name]))
        torch.testing.assert_close(model[name].running_mean, mean)
        torch.testing.assert_close(model[name].running_var, variance)
    assert told == [model["c"]]
    torch.testing.assert_close(model["c"].running_mean, torch.full((2,), 3.0), rtol=0, atol=0)
    torch.testing.assert_close(model["c"].running_var, torch.ones(2), rtol=0, atol=0)


def test_single_samples_count_and_are_normalized_by_what_is_known():
    layer = nn.BatchNorm1d(3, affine=False)
    x, seen = normal(9, 3, mean=2), []

    def forward(batch):
        seen.append(layer(input=batch))  # by name, as some networks do
        return len(batch)

    reestimate_batchnorm(layer, [x[:8], x[8:]], forward)
    mean, variance = moments(x)
    torch.testing.assert_close((layer.running_mean, layer.running_var), (mean, variance))
    before, spread = moments(x[:8])
    torch.testing.assert_close(seen[1][0], (x[8] - before) / (spread + layer.eps).sqrt())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    layer = nn.BatchNorm1d(2).to(dtype)
    x = (normal(40, 2, mean=30)).to(dtype)
    reestimate_batchnorm(layer, x.split(10), run(layer))
    mean, variance = moments(x.double())
    tolerance = {"rtol": 5e-3, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 1e-12, "atol": 0}
    torch.testing.assert_close(layer.running_mean.double(), mean, **tolerance)
    torch.testing.assert_close(layer.running_var.double(), variance, **tolerance)


def test_buffers_come_back_after_an_error_and_counts_always():
    model, x = network().train(), data()
    model(x)
    kept = {name: value.clone() for name, value in model.named_buffers()}

    def fail(batch):
        model(batch)
        raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        reestimate_batchnorm(model, [x], fail)
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())
    reestimate_batchnorm(model, [x], run(model))
    assert all(layer.num_batches_tracked == 1 for layer in layers_of(model))


def test_a_compiled_network_is_estimated_again_and_again():
    x, layer = normal(16, 3), nn.BatchNorm1d(3)
    model = torch.compile(nn.Sequential(layer), backend="eager")
    model.train()(x)
    for shift in (1.0, 2.0):
        reestimate_batchnorm(model, [x + shift], run(model))
        torch.testing.assert_close(layer.running_mean, x.mean(0) + shift)


def test_layers_that_are_not_initialized_yet_have_no_statistics_to_replace():
    model, x = nn.Sequential(nn.BatchNorm1d(3), nn.LazyBatchNorm1d()), normal(10, 3, mean=4)
    reestimate_batchnorm(model, [x], run(model))
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
