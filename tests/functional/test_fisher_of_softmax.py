"""The Fisher trace against closed forms and enumerated labels."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lit_aux.errors import ConfigurationError
from lit_aux.functional import draw_labels, fisher_trace


def linear(seed=0, n=400):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    return x, {"weight": weight, "bias": bias}


def linear_logits(held, x):
    return x @ held["weight"].T + held["bias"]


def analytic(x, held):
    """E_y ||p - e_y||^2 (1 + ||x||^2) with E_y ||p - e_y||^2 = 1 - ||p||^2, averaged over x."""
    p = linear_logits(held, x).softmax(1)
    return ((1 - p.square().sum(1)) * (1 + x.square().sum(1))).mean().item()


def test_a_linear_softmax_model_has_the_analytic_trace():
    x, held = linear()
    expected = analytic(x, held)
    generator = torch.Generator().manual_seed(3)
    draws = torch.tensor([fisher_trace(linear_logits, held, x, generator=generator) for _ in range(50)])
    assert draws.std() > 0
    assert (draws.mean() - expected).abs() < 4 * draws.std() / 50**0.5
    assert draws.mean().item() == pytest.approx(expected, rel=0.01)


def test_each_gradient_is_that_of_the_label_that_was_drawn():
    x, held = linear(n=50)
    labels = draw_labels(linear_logits(held, x), torch.Generator().manual_seed(5))
    error = linear_logits(held, x).softmax(1) - nn.functional.one_hot(labels, 4)
    expected = (error.square().sum(1) * (1 + x.square().sum(1))).mean().item()
    found = fisher_trace(linear_logits, held, x, generator=torch.Generator().manual_seed(5))
    assert found == pytest.approx(expected, rel=1e-12)


def test_labels_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -1.0, 3.0]]).expand(200_000, 4)
    labels = draw_labels(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(labels, minlength=4) / len(labels)
    torch.testing.assert_close(shares, logits[0].softmax(0), rtol=0, atol=0.005)


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)
    )
    return net.double().eval()


def enumerated(net, x):
    """The mean over x of the expectation over labels, a backward pass for each label."""
    total = 0.0
    for row in x:
        logp = net(row[None]).log_softmax(1)[0]
        for label in range(3):
            parts = torch.autograd.grad(logp[label], list(net.parameters()), retain_graph=True)
            total += logp[label].exp().item() * sum(part.square().sum().item() for part in parts)
    return total / len(x)


def test_a_convolutional_network_has_the_trace_of_enumerated_labels():
    net, x = network(), torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    held = dict(net.named_parameters())
    generator = torch.Generator().manual_seed(2)
    repeated = x.repeat(2000, 1, 1, 1)
    found = fisher_trace(
        lambda p, a: functional_call(net, dict(p), (a,)), held, repeated, generator=generator
    )
    assert found == pytest.approx(enumerated(net, x), rel=0.05)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_and_models_that_cannot_be_vectorized_give_the_same(chunk):
    x, held = linear(n=10)

    def stubborn(held, x):
        return linear_logits(held, x) if x.sum().item() < 1e9 else x  # .item() is refused under vmap

    def trace(logits_of, chunk):
        return fisher_trace(logits_of, held, x, generator=torch.Generator().manual_seed(0), chunk=chunk)

    assert trace(stubborn, chunk) == pytest.approx(trace(linear_logits, None), rel=1e-12)
    assert trace(linear_logits, chunk) == pytest.approx(trace(linear_logits, None), rel=1e-12)


def test_large_weights_are_taken_one_by_one_on_a_processor_and_give_the_same():
    calls = []

    def logits_of(held, x):
        calls.append(len(x))
        return x @ held["weight"].T

    generator = torch.Generator().manual_seed(0)
    held, x = {"weight": torch.randn(2, 2_000_000, generator=generator)}, torch.zeros(4, 2_000_000)
    x[:, :5] = torch.randn(4, 5, generator=generator)
    values = []
    for chunk in (None, 2):
        calls.clear()
        values.append(fisher_trace(logits_of, held, x, generator=generator.manual_seed(1), chunk=chunk))
        # labels, which tensors are used, then gradients; of two together, and of one of them to compare
        assert calls == ([4, 1, 1, 1, 1, 1] if chunk is None else [4, 2, 1, 1, 1, 1])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_parameters_that_have_no_part_count_nothing_and_none_is_changed():
    x, held = linear(n=10)
    extra = held | {"unused": torch.ones(3, dtype=torch.float64)}
    for chunk in (1, 5):
        values = [
            fisher_trace(linear_logits, some, x, generator=torch.Generator().manual_seed(0), chunk=chunk)
            for some in (held, extra)
        ]
        assert values[0] == values[1]
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in extra.values())


def test_a_model_that_diverged_gives_nan_and_a_certain_one_0():
    x, held = linear(n=4)
    assert fisher_trace(linear_logits, {k: v * torch.nan for k, v in held.items()}, x) != fisher_trace(
        linear_logits, held, x
    )
    sure = {"weight": torch.zeros(4, 6, dtype=torch.float64), "bias": torch.tensor([1e4, 0, 0, 0]).double()}
    assert fisher_trace(linear_logits, sure, x) == 0


def test_bad_input():
    x, held = linear(n=4)
    with pytest.raises(ConfigurationError, match="chunk: 0"):
        fisher_trace(linear_logits, held, x, chunk=0)
    with pytest.raises(ConfigurationError, match="inputs: there are none"):
        fisher_trace(linear_logits, held, x[:0])
    for outputs in (lambda held, x: x @ held["weight"][0], lambda held, x: x @ held["weight"][:1].T):
        with pytest.raises(ConfigurationError, match="outputs: shape"):
            fisher_trace(outputs, held, x)
    with pytest.raises(RuntimeError, match="mat1"):  # an error of the model is its own
        fisher_trace(lambda held, x: x @ held["weight"] if len(x) == 1 else linear_logits(held, x), held, x)


def test_inputs_may_be_several_tensors():
    net = nn.Linear(4, 3)
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))

    def whole(held, given):
        return functional_call(net, dict(held), (given,))

    def in_parts(held, given):
        return functional_call(net, dict(held), (torch.cat([given["a"], given["b"]], 1),))

    for chunk in (1, 3, None):
        found, expected = (
            fisher_trace(
                call,
                dict(net.named_parameters()),
                given,
                generator=torch.Generator().manual_seed(1),
                chunk=chunk,
            )
            for call, given in ((in_parts, {"a": x[:, :1], "b": x[:, 1:]}), (whole, x))
        )
        assert found == pytest.approx(expected, rel=1e-12)


def test_errors_of_vectorized_passes_are_seen():
    """Batch normalization whose output is transposed, as patches are, which torch's vmap gets wrong."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"norm": nn.BatchNorm2d(4), "head": nn.Linear(4, 3)}).double().eval()
    net.requires_grad_(False)["norm"].running_var.uniform_(0.5, 2)
    shift = {"shift": torch.zeros(4, 2, 2, dtype=torch.float64)}

    def logits_of(held, x):
        rows = net["norm"](x + held["shift"]).flatten(2).transpose(1, 2)
        return net["head"](rows.tanh().mean(1))

    x = torch.randn(6, 4, 2, 2, dtype=torch.float64)
    values = [
        fisher_trace(logits_of, shift, x, generator=torch.Generator().manual_seed(0), chunk=chunk)
        for chunk in (1, 3, None)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)
