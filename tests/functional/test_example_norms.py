"""Each example's gradient norm from its layers, against a backward pass of its own."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import prune

from lit_aux.functional.example_norms import NotByLayer, example_norms
from lit_aux.functional.fisher_trace import draw_labels, fisher_trace


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(), dtype=torch.float64)


def by_autograd(net: nn.Module, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """The squared norm of each example's gradient, a backward pass each."""
    found = []
    for row in x:
        loss = loss_of(net(row[None]))[0]
        parts = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found.append(sum(part.square().sum() for part in parts if part is not None))
    return torch.stack([torch.as_tensor(value) for value in found])


def loss_of(y: Tensor) -> Tensor:
    return (y.flatten(1) * torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype)).sum(1).sin()


class Tokens(nn.Module):
    """An embedding, a normalization and a linear layer over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6, padding_idx=0)
        self.norm, self.mix = nn.LayerNorm(6), nn.Linear(6, 40)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(self.norm(self.words(x))).tanh().mean(1)
        return out


def trained(net: nn.Module) -> nn.Module:
    """A network whose weights, offsets and statistics are all unlike their start."""
    net = net.double()
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand(tensor.shape, generator=seeded(3), dtype=tensor.dtype)
    return net.eval()


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)), randn(5, 3)),
    "over positions, few": (lambda: nn.Linear(30, 40), randn(5, 2, 30)),
    "over positions, many": (lambda: nn.Linear(3, 2), randn(5, 3, 7, 3)),
    "convolution": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)),
            *(nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)),
        ),
        randn(5, 3, 8, 9),
    ),
    "few positions": (lambda: nn.Conv2d(16, 32, 3), randn(5, 16, 4, 4)),
    "groups": (lambda: nn.Conv2d(6, 4, (3, 2), groups=2, dilation=(1, 2), padding="same"), randn(5, 6, 5, 6)),
    "depthwise": (
        lambda: nn.Conv2d(6, 6, 3, groups=6, padding=(2, 1), padding_mode="circular"), randn(5, 6, 5, 5)
    ),
    "reflected": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), randn(5, 2, 5, 5)
    ),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.BatchNorm1d(4), nn.ReLU(True)),
        randn(5, 3, 9),
    ),
    "batch norm of vectors": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), randn(5, 3)),
    "batch norm of volumes": (lambda: nn.BatchNorm3d(3), randn(5, 3, 2, 3, 2)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.GroupNorm(2, 4)), randn(5, 3, 4, 4)),
    "group norm of vectors": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4)), randn(5, 3)),
    "layer norm over two": (lambda: nn.LayerNorm([4, 3]), randn(5, 2, 4, 3)),
    "without factors": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, bias=False)), randn(5, 3)),
    "columns": (
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.Tanh(), nn.Linear(4, 2)), torch.tensor([0, 3, 3, 1, 4])
    ),
    "hook on some": (lambda: hooked(lambda layer, inputs, out: out * (1 + (inputs[0] > 0))), randn(5, 3)),
    "tokens": (Tokens, torch.randint(0, 5, (5, 7), generator=seeded())),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_norms_are_those_of_a_backward_pass_each(name: str) -> None:
    build, x = NETS[name]
    torch.manual_seed(0)
    net = trained(build())
    parameters = dict(net.named_parameters())
    hooks = [list(layer._forward_hooks) for layer in net.modules()]
    found = example_norms(net, parameters, lambda: loss_of(net(x)))
    torch.testing.assert_close(found, by_autograd(net, x, parameters), rtol=1e-9, atol=0)
    assert not any(p.grad is not None for p in net.parameters())
    assert hooks == [list(layer._forward_hooks) for layer in net.modules()]
    some = dict(list(parameters.items())[:1])
    found = example_norms(net, some, lambda: loss_of(net(x)))
    torch.testing.assert_close(found, by_autograd(net, x, some), rtol=1e-9, atol=0)


def test_positions_that_cancel_leave_no_rounding() -> None:
    layer = nn.Linear(40, 40, bias=False).double()
    x = randn(5, 3, 40) + 3e4

    def losses(x: Tensor) -> Tensor:
        y = layer(x)
        return loss_of((y - y.roll(1, 1))[:, 0] * 0.01)

    parameters = dict(layer.named_parameters())
    found = example_norms(layer, parameters, lambda: losses(x))
    each = [torch.autograd.grad(losses(row[None])[0], layer.weight)[0].square().sum() for row in x]
    torch.testing.assert_close(found, torch.stack(each), rtol=1e-9, atol=0)


def test_half_precision_is_followed_in_single_precision() -> None:
    torch.manual_seed(0)
    wide = trained(NETS["groups"][0]())
    half, x = deepcopy(wide).bfloat16(), NETS["groups"][1].bfloat16()
    wide.load_state_dict(half.state_dict())
    norms = [
        example_norms(net, dict(net.named_parameters()), lambda: net(rows).flatten(1).float().sum(1))  # noqa: B023
        for net, rows in ((half, x), (wide, x.double()))
    ]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=0)


def test_a_layer_that_autocast_runs_is_refused() -> None:
    net = nn.Linear(3, 3)
    x = randn(4, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(NotByLayer, match="another precision"):
        example_norms(net, dict(net.named_parameters()), lambda: net(x).float().sum(1))


def test_a_layer_without_a_part_adds_nothing() -> None:
    net = trained(nn.ModuleDict({"used": nn.Linear(3, 2), "left": nn.Linear(3, 2), "never": nn.Linear(3, 2)}))

    def losses() -> Tensor:
        net["left"](randn(4, 3))
        return loss_of(net["used"](randn(4, 3)))

    found = example_norms(net, dict(net.named_parameters()), losses)
    torch.testing.assert_close(found, example_norms(net, dict(net["used"].named_parameters()), losses))


class Odd(nn.Linear):
    """A layer that computes something else than its parent."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Parts(nn.Module):
    """Two layers and a function of them; examples whose first feature is negative go another way."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 3), nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Tensor:
        first = (x[:, :1] > 0).to(x)
        return 3 * first * self.a(x).tanh() + 0.1 * (1 - first) * self.function(self, x)


def inner_slope(net: Any, x: Tensor) -> Tensor:
    """The gradient of an energy with respect to the input, as networks of forces compute it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net.b(x).square().sum(), x, create_graph=True)
    return slope


class Transposed(nn.Module):
    """A layer that gets positions first, as many as there are examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.transpose(0, 1)).transpose(0, 1).mean(1)
        return out


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


def hooked(hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    net[0].register_forward_hook(hook)
    return net


def own_forward() -> nn.Module:
    net = nn.Linear(3, 3)
    net.forward = lambda x: 2 * F.linear(x, net.weight)  # type: ignore[method-assign]
    return net


twice = nn.Linear(3, 3)
OUTSIDE = "has weights that are used outside of its call"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another kind": (lambda: nn.Sequential(Odd(3, 3)), "layer '0' is a Odd"),
    "tied": (tied, "layer '1' shares weights with '0'"),
    "called twice": (lambda: nn.Sequential(twice, nn.Tanh(), twice), "layer '0' is called more than once"),
    "training": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).train()), "layer '1' mixes examples"
    ),
    "used in two ways": (
        lambda: Parts(lambda net, x: F.linear(x, net.a.weight)), f"layer 'a' {OUTSIDE}"
    ),
    "not called": (lambda: Parts(lambda net, x: F.linear(x, net.b.weight)), f"layer 'b' {OUTSIDE}"),
    "called by forward": (lambda: Parts(lambda net, x: net.b.forward(x)), f"layer 'b' {OUTSIDE}"),
    "called for nothing": (
        lambda: Parts(lambda net, x: net.b(x).detach() + F.linear(x, net.b.weight)), f"layer 'b' {OUTSIDE}"
    ),
    "differentiated twice": (lambda: Parts(inner_slope), f"layer 'b' {OUTSIDE}"),
    "differentiated twice, with positions": (
        lambda: Parts(lambda net, x: inner_slope(net, x[:, None].expand(-1, 2, -1)).sum(1)),
        f"layer 'b' {OUTSIDE}",
    ),
    "forward of its own": (own_forward, "layer '' is no plain Linear any more"),
    "other weights": (
        lambda: prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5),
        "layer '' is no plain Linear any more",
    ),
    "no batch": (lambda: nn.LayerNorm([4, 3]), "layer '' is given 2 dimensions, of which none"),
    "no statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), "layer '' mixes examples"),
    "rows": (
        lambda: nn.Sequential(
            *(nn.Unflatten(1, (3, 1)), nn.Flatten(0, 1), nn.Linear(1, 3), nn.Unflatten(0, (-1, 3)))
        ),
        "layer '2' gets 12 rows for 4 examples",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_so_is_named(name: str) -> None:
    build, why = REFUSED[name]
    net = build().double()
    net = net if name == "training" else net.eval()
    with pytest.raises(NotByLayer, match=why):
        example_norms(net, dict(net.named_parameters()), lambda: loss_of(net(randn(4, 3))))


def test_what_cannot_be_seen_shows_in_an_example() -> None:
    net, x = Transposed().double(), randn(4, 4, 3)
    parameters, said = dict(net.named_parameters()), list[str]()

    def logits_of(held: dict[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = functional_call(net, held, (x,))
        return found

    by_layer = fisher_trace(
        logits_of,
        parameters,
        x,
        generator=seeded(),
        module=net,
        refused=said.append,  # type: ignore[arg-type]
    )
    assert said == ["the gradient of an example is not the sum of what layers say"]
    assert by_layer == pytest.approx(fisher_trace(logits_of, parameters, x, generator=seeded()), rel=1e-12)  # type: ignore[arg-type]


def test_the_trace_is_the_same_either_way() -> None:
    torch.manual_seed(0)
    net = trained(NETS["convolution"][0]())
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    calls, said = [], list[str]()

    def logits_of(held: dict[str, Tensor], x: Tensor) -> Tensor:
        calls.append(len(x))
        found: Tensor = functional_call(net, held, (x,))
        return found

    x, parameters = randn(9, 3, 8, 9), dict(net.named_parameters())
    found = fisher_trace(logits_of, parameters, x, generator=seeded(), module=net, refused=said.append)  # type: ignore[arg-type]
    assert calls == [9, 1]  # all at once, and one to compare with
    assert not said
    assert found == pytest.approx(fisher_trace(logits_of, parameters, x, generator=seeded()), rel=1e-9)  # type: ignore[arg-type]


class InAList(nn.Module):
    """Has its weights in a list beside their registration, as code does that numbers them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [nn.Parameter(randn(3, 3) + number) for number in range(2)]
        for number, weight in enumerate(self.weights):
            self.register_parameter(f"weight{number}", weight)
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = (x @ weight).tanh()
        out: Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("detached", [False, True])
def test_weights_that_a_model_has_elsewhere_have_their_part(chunk: int | None, detached: bool) -> None:
    net, x = InAList(), randn(5, 3)
    own = dict(net.named_parameters())
    given = {name: p.detach() for name, p in own.items()} if detached else own

    def logits_of(held: Any, x: Tensor) -> Tensor:
        found: Tensor = functional_call(net, held, (x,))
        return found

    labels = draw_labels(net(x).detach(), seeded())
    squares = []
    for row, label in zip(x, labels, strict=True):
        loss = F.cross_entropy(net(row[None]), label[None])
        squares.append(sum(g.square().sum() for g in torch.autograd.grad(loss, list(own.values()))))
    found = fisher_trace(logits_of, given, x, generator=seeded(), chunk=chunk)
    assert found == pytest.approx(float(sum(squares)) / 5, rel=1e-12)


def test_weights_without_a_part_have_no_trace() -> None:
    net, other = nn.Linear(3, 3).double().requires_grad_(False), nn.Linear(3, 3).double()
    both = nn.ModuleDict({"net": net, "other": other})
    for module in (None, both):
        parameters = {"other.weight": other.weight}
        assert fisher_trace(lambda held, x: net(x), parameters, randn(4, 3), module=module) == 0
