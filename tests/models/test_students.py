"""The small networks: shapes, how they begin, and how their weights are taken out and put back."""

from typing import Any

import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet, ReLUNet

TASKS = {"aux": 2, "main": 1}


def network(kind: str, *args: Any, **options: Any) -> Any:
    if kind == "diagonal":
        return DiagonalNet(*(args or (7, TASKS)), **options)
    return ReLUNet(*(args or (7, TASKS)), **({"hidden": 9} | options))


def shake(net: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return net


KINDS = pytest.mark.parametrize("kind", ["diagonal", "relu"])


# Outputs


def test_a_diagonal_network_is_its_formula() -> None:
    net = shake(DiagonalNet(7, TASKS, replicas=3)).requires_grad_(False)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = net(x)
    assert list(found) == ["aux", "main"]
    for task, numbers in (("aux", (0, 1)), ("main", (2,))):
        assert found[task].shape == (3, 4, len(numbers))
        assert net.coefficients(task).shape == (3, len(numbers), 7)
        for replica in range(3):
            for place, output in enumerate(numbers):
                for row in range(4):
                    value = sum(
                        float(x[row, d])
                        * float(
                            net.first["plus"][replica, d] * net.readout["plus"][replica, output, d]
                            - net.first["minus"][replica, d] * net.readout["minus"][replica, output, d]
                        )
                        for d in range(7)
                    )
                    assert float(found[task][replica, row, place]) == pytest.approx(value, rel=1e-12)
    assert torch.equal(net.coefficients()[:, 2:], net.coefficients("main"))


def test_a_relu_network_is_its_formula() -> None:
    net = shake(ReLUNet(3, TASKS, hidden=5, replicas=2)).requires_grad_(False)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.cat([net(x, task) for task in TASKS], dim=2)
    for replica in range(2):
        for output in range(3):
            for row in range(4):
                value = 0.0
                for h in range(5):
                    strength = float(net.first["weight"][replica, h] @ x[row])
                    value += float(net.readout["weight"][replica, output, h]) * max(strength, 0.0)
                assert float(found[replica, row, output]) == pytest.approx(value, rel=1e-12)


@KINDS
def test_shapes(kind: str) -> None:
    many, one = shake(network(kind, replicas=3)), shake(network(kind))
    x, each = torch.randn(4, 7), torch.randn(3, 4, 7)
    assert many(x, "aux").shape == (3, 4, 2)
    assert one(x, "aux").shape == (4, 2)
    assert one(x)["main"].shape == (4, 1)
    assert one(each[:1], "main").shape == (1, 4, 1)
    own = many(each, "aux")
    for replica in range(3):
        torch.testing.assert_close(own[replica], many(each[replica], "aux")[replica])
    out = many.forward_tasks({"aux": x, "main": torch.randn(6, 7)})
    assert {task: tuple(y.shape) for task, y in out.items()} == {"aux": (3, 4, 2), "main": (3, 6, 1)}


def test_parameters() -> None:
    shapes = {name: tuple(p.shape) for name, p in network("diagonal", replicas=3).weights().items()}
    assert shapes == {
        "first.plus": (3, 7),
        "first.minus": (3, 7),
        "readout.plus": (3, 3, 7),
        "readout.minus": (3, 3, 7),
    }
    shapes = {name: tuple(p.shape) for name, p in network("relu", replicas=3).weights().items()}
    assert shapes == {"first.weight": (3, 9, 7), "readout.weight": (3, 3, 9)}


def test_defaults_are_those_of_the_paper() -> None:
    assert DiagonalNet().first["plus"].shape == (1, 1000)
    assert ReLUNet().first["weight"].shape == (1, 1000, 15)
    assert DiagonalNet().tasks == {"main": 1}
    assert all(float(p.detach().max()) == float(p.detach().min()) == 1e-3 for p in DiagonalNet().parameters())


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype(kind: str, dtype: str) -> None:
    net = network(kind, dtype=dtype)
    assert all(p.dtype == getattr(torch, dtype) for p in net.parameters())
    assert net(torch.ones(2, 7), "main").dtype == getattr(torch, dtype)
    net.reset_readout()
    assert all(p.dtype == getattr(torch, dtype) for p in net.parameters())


# How they begin


def test_a_diagonal_network_begins_at_a_constant_and_at_zero() -> None:
    net = network("diagonal", replicas=3, init_scale=[1e-3, 0.1, 2.0])
    for parameter in net.parameters():
        for replica, scale in enumerate((1e-3, 0.1, 2.0)):
            assert (parameter[replica] == scale).all()
    assert (net.coefficients() == 0).all()


def standard(values: torch.Tensor, variance: float) -> None:
    """Hold numbers against N(0, variance): mean, spread and fourth moment, five standard errors wide."""
    z, n = values.detach().flatten().double() / variance**0.5, values.numel()
    assert abs(float(z.mean())) < 5 / n**0.5
    assert abs(float(z.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float(z.pow(4).mean()) - 3) < 5 * (96 / n) ** 0.5


def test_a_relu_network_begins_with_variance_two_over_fan_in() -> None:
    net = ReLUNet(15, {"aux": 20, "main": 20}, hidden=1000, replicas=2, init_scale=[1.0, 0.1])
    for replica, scale in enumerate((1.0, 0.1)):
        standard(net.first["weight"][replica], 2 / 15 * scale**2)
        standard(net.readout["weight"][replica], 2 / 1000 * scale**2)
    net.reset_readout([0.5, 3.0], ["main"])
    for replica, scale in enumerate((0.5, 0.3)):
        standard(net.readout["weight"][replica, 20:], 2 / 1000 * scale**2)


def test_equal_seeds_equal_weights() -> None:
    net = network("relu", replicas=4, seeds=[5, 6, 5, 7], init_scale=[1.0, 1.0, 0.5, 1.0])
    for parameter in net.parameters():
        torch.testing.assert_close(parameter[2], 0.5 * parameter[0])
        assert not torch.isclose(parameter[0], parameter[1]).any()
        assert not torch.isclose(parameter[1], parameter[3]).any()
    again = network("relu", seeds=[5], init_scale=1.0)
    assert all(torch.equal(p[0], q[0]) for p, q in zip(net.parameters(), again.parameters(), strict=True))
    net.reset_readout()
    again.reset_readout()
    assert torch.equal(net.readout["weight"][0], again.readout["weight"][0])
    torch.testing.assert_close(net.readout["weight"][2], 0.5 * net.readout["weight"][0])
    assert not torch.isclose(net.readout["weight"][0], net.readout["weight"][1]).any()


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    right = torch.rand(1)
    torch.manual_seed(3)
    net = network("relu", replicas=2)
    net.reset_readout()
    assert torch.equal(torch.rand(1), right)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    n = min(a.numel(), b.numel())
    return abs(float(torch.corrcoef(torch.stack([a.detach().flatten()[:n], b.detach().flatten()[:n]]))[0, 1]))


def test_readouts_drawn_anew_have_nothing_to_do_with_any_other_draw() -> None:
    net = ReLUNet(15, {"aux": 1, "main": 1}, hidden=400, replicas=2)
    before = net.readout["weight"].detach().clone()
    net.reset_readout()
    after, first = net.readout["weight"], net.first["weight"]
    for replica in (0, 1):
        assert correlation(after[replica, 0], after[replica, 1]) < 0.25  # five standard errors
        for task in (0, 1):
            assert correlation(after[replica, task], before[replica, task]) < 0.25
            assert correlation(after[replica, task], first[replica]) < 0.25
            assert correlation(after[replica, task], first[replica, :, 0]) < 0.25
    assert correlation(first[0], net.readout["weight"][0]) < 0.25


@KINDS
def test_readouts_of_some_tasks_are_reset(kind: str) -> None:
    net = shake(network(kind, replicas=2))
    before = {name: p.detach().clone() for name, p in net.weights().items()}
    net.reset_readout(tasks=["main"])
    for name, parameter in net.weights().items():
        if name.startswith("first."):
            assert torch.equal(parameter, before[name])
        else:
            assert torch.equal(parameter[:, :2], before[name][:, :2])
            assert (parameter[:, 2:] != before[name][:, 2:]).all()


def test_readouts_of_a_diagonal_network_are_reset_to_a_scale_for_each() -> None:
    net = shake(network("diagonal", replicas=2, init_scale=[1e-3, 1e-1]))
    net.reset_readout([10.0, 0.0])
    for readout in net.readout.values():
        assert torch.allclose(readout[0], torch.tensor(1e-2).double())
        assert (readout[1] == 0).all()


@KINDS
def test_configured_anew(kind: str) -> None:
    net = network(kind, replicas=2)
    net.configure({"main": 3}, [4, 4, 9])
    assert net.replicas == 3
    assert net(torch.ones(5, 7), "main").shape == (3, 5, 3)
    fresh = network(kind, 7, {"main": 3}, seeds=[4, 4, 9])
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), fresh.parameters(), strict=True))


# Out and back


@KINDS
def test_out_and_back(kind: str) -> None:
    net, other = shake(network(kind, replicas=4)), network(kind, replicas=4)
    for names in (list(net.weights()), [n for n in net.weights() if n.startswith("readout")]):
        rows = torch.tensor([3, 0])
        theta = net.pack(rows, names)
        flat = [torch.cat([net.weights()[n].detach()[row].flatten() for n in names]) for row in (3, 0)]
        assert torch.equal(theta, torch.stack(flat))
        assert not theta.requires_grad
        theta += 0  # a copy: nothing in the network moves
        before = {name: p.detach().clone() for name, p in other.weights().items()}
        other.unpack(theta, rows, names)
        for name, parameter in other.weights().items():
            assert torch.equal(parameter[[1, 2]], before[name][[1, 2]])
            same = net.weights()[name] if name in names else before[name]
            assert torch.equal(parameter[[3, 0]], same[[3, 0]])
            assert parameter.requires_grad
    held = net.pack(torch.arange(4), list(net.weights()))
    keep = held.clone()
    with torch.no_grad():
        net.first[next(iter(net.first))] += 1
    assert torch.equal(held, keep)


@KINDS
def test_weights_are_saved_and_loaded(kind: str) -> None:
    net, other = shake(network(kind, replicas=2)), network(kind, replicas=2)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(torch.ones(1, 7), "main"), other(torch.ones(1, 7), "main"))


# Bad input


@KINDS
@pytest.mark.parametrize(
    ("args", "options", "word", "value"),
    [
        ((0,), {}, "in_features", "0"),
        ((7,), {"replicas": 0}, "replicas", "0"),
        ((7,), {"init_scale": 0.0}, "init_scale", "0.0"),
        ((7,), {"init_scale": float("nan")}, "init_scale", "nan"),
        ((7,), {"init_scale": [1.0, -1.0], "replicas": 2}, "init_scale", "-1.0"),
        ((7,), {"init_scale": [1.0, 1.0], "replicas": 3}, "init_scale", "2"),
        ((7,), {"init_scale": [1.0], "replicas": 3}, "init_scale", "1"),
        ((7, {"main": 0}), {}, "tasks", "0"),
        ((7,), {"dtype": "float16"}, "dtype", "float16"),
    ],
)
def test_bad_options_are_named_in_one_line(kind: str, args: Any, options: Any, word: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        network(kind, *args, **options)
    assert "\n" not in str(caught.value)
    assert value in str(caught.value)


def test_no_hidden_unit() -> None:
    with pytest.raises(ConfigurationError, match="hidden: 0 must be at least 1"):
        ReLUNet(5, hidden=0)


@KINDS
def test_bad_calls_are_named_in_one_line(kind: str) -> None:
    net = network(kind, replicas=2)
    for call in (
        lambda: net(torch.ones(1, 7), "mian"),
        lambda: net.reset_readout(tasks=["mian"]),
        lambda: net.reset_readout([1.0, 2.0, 3.0]),
        lambda: net.task_slice("mian"),
    ):
        with pytest.raises(
            ConfigurationError, match=r"did you mean 'main'|3 values for 2 replicas"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_small_products_take_one_thread_and_give_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ReLUNet(4, hidden=5).computing():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with DiagonalNet(4).computing():  # many of them share large products
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
