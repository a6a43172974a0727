"""Each example's gradient norm from its layers, against a backward pass of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_aux.functional.example_norms import NotByLayer, example_norms
from lit_aux.functional.fisher_trace import fisher_trace


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
    "tokens": (Tokens, torch.randint(0, 5, (5, 7), generator=seeded())),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_norms_are_those_of_a_backward_pass_each(name: str) -> None:
    build, x = NETS[name]
    torch.manual_seed(0)
    net = trained(build())
    parameters = dict(net.named_parameters())
    found = example_norms(net, parameters, lambda: loss_of(net(x)))
    torch.testing.assert_close(found, by_autograd(net, x, parameters), rtol=1e-9, atol=0)
    assert not any(p.grad is not None for p in net.parameters())
    assert not any(layer._forward_hooks for layer in net.modules())
    some = dict(list(parameters.items())[:1])
    found = example_norms(net, some, lambda: loss_of(net(x)))
    torch.testing.assert_close(found, by_autograd(net, x, some), rtol=1e-9, atol=0)


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


class Used(nn.Module):
    """A layer whose weight has a second part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.layer.weight


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


twice = nn.Linear(3, 3)
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another kind": (lambda: nn.Sequential(Odd(3, 3)), "layer '0' is a Odd"),
    "tied": (tied, "layer '1' shares weights with '0'"),
    "called twice": (lambda: nn.Sequential(twice, nn.Tanh(), twice), "layer '0' is called more than once"),
    "training": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).train()), "layer '1' mixes examples"
    ),
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


@pytest.mark.parametrize("net", [Used(), Transposed()], ids=["used twice", "positions first"])
def test_what_cannot_be_seen_shows_in_an_example(net: nn.Module) -> None:
    net = net.double()
    x = randn(4, 4, 3) if isinstance(net, Transposed) else randn(4, 3)
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
    assert said == ["the gradient of an example is not the sum of what layers say: some are used twice"]
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
