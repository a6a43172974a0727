import math

import pytest
import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet

TASKS = {"main": 2, "aux": 5, "third": 3}


class TinyBackbone(nn.Module):
    """Counts its passes, and has batch normalization so that it matters who shares one."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return torch.relu(self.norm(self.linear(x)))


@pytest.fixture
def net() -> MultiHeadNet:
    torch.manual_seed(0)
    return MultiHeadNet(TinyBackbone(), TASKS)


def test_slices_are_the_tasks_in_order(net: MultiHeadNet) -> None:
    assert net.task_slices == {"main": slice(0, 2), "aux": slice(2, 7), "third": slice(7, 10)}
    assert net.tasks == TASKS
    assert net.readout.weight.shape == (10, 6)


def test_each_task_equals_a_separate_head(net: MultiHeadNet) -> None:
    net.eval()
    x = torch.randn(3, 4)
    features = net.backbone(x).double()
    together = net(x)
    start = 0
    for task, size in TASKS.items():
        head = nn.Linear(6, size).double()
        weight, bias = list(net.readout.weight)[start : start + size], net.readout.bias.tolist()
        head.load_state_dict(
            {"weight": torch.stack(weight), "bias": torch.tensor(bias[start : start + size])}
        )
        expected = head(features).float()
        torch.testing.assert_close(net(x, task), expected)
        torch.testing.assert_close(together[task], expected)
        start += size
    assert list(together) == list(TASKS)


def test_unused_rows_get_a_gradient_of_exactly_zero(net: MultiHeadNet) -> None:
    net(torch.randn(8, 4), "aux").square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    used = net.readout.weight.grad.abs().sum(dim=1) > 0
    assert used.tolist() == [False] * 2 + [True] * 5 + [False] * 3
    assert net.readout.bias.grad[:2].tolist() == [0.0, 0.0]


def test_forward_tasks_is_one_pass_over_the_mixed_batch(net: MultiHeadNet) -> None:
    main, aux = torch.randn(3, 4), torch.randn(5, 4) + 2
    mixed = net.forward_tasks({"aux": aux, "main": main})
    assert net.backbone.sizes == [8]
    joint = net(torch.cat([main, aux]))
    torch.testing.assert_close(mixed["main"], joint["main"][:3])
    torch.testing.assert_close(mixed["aux"], joint["aux"][3:])
    assert list(mixed) == ["aux", "main"]
    alone = net.forward_tasks({"main": main})["main"]
    assert not torch.allclose(alone, mixed["main"], atol=1e-2), "batch norm should see the mixed batch"


def test_forward_tasks_takes_inputs_of_different_shapes() -> None:
    class Mean(nn.Module):
        num_features = 3

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    net = MultiHeadNet(Mean(), {"small": 2, "large": 2})
    inputs = {"small": torch.randn(2, 3, 4, 4), "large": torch.randn(3, 3, 8, 8)}
    logits = net.forward_tasks(inputs)
    for task, x in inputs.items():
        torch.testing.assert_close(logits[task], net(x, task))


@pytest.mark.parametrize("scale", [1.0, 0.25, 0.0])
def test_reset_touches_only_the_chosen_rows(net: MultiHeadNet, scale: float) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.reset_readout(scale, tasks=["aux"])
    after = net.state_dict()
    changed = (after["readout.weight"] != before["readout.weight"]).all(dim=1)
    assert changed.tolist() == [False] * 2 + [True] * 5 + [False] * 3
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("readout"))
    assert after["readout.weight"][2:7].abs().max() <= scale / math.sqrt(6)


def test_reset_is_the_default_initialisation_of_linear_layers() -> None:
    net = MultiHeadNet(nn.Flatten(), {"a": 300, "b": 200}, num_features=100)
    net.reset_readout(0.5)
    bound = 0.5 * 100**-0.5
    for tensor in (net.readout.weight, net.readout.bias):
        assert tensor.abs().max() <= bound
        # The deviation of a uniform variable is its bound over the root of 3.
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_parameters_are_split_without_overlap(net: MultiHeadNet) -> None:
    readout, backbone = net.readout_parameters(), net.backbone_parameters()
    assert {id(p) for p in readout}.isdisjoint({id(p) for p in backbone})
    assert {id(p) for p in readout + backbone} == {id(p) for p in net.parameters()}
    assert [tuple(p.shape) for p in readout] == [(10, 6), (10,)]


def test_state_dict_round_trip(net: MultiHeadNet) -> None:
    other = MultiHeadNet(TinyBackbone(), TASKS)
    other.load_state_dict(net.state_dict())
    x = torch.randn(3, 4)
    torch.testing.assert_close(other.eval()(x, "third"), net.eval()(x, "third"), rtol=0, atol=0)


def test_compiled_network_gives_the_same(net: MultiHeadNet) -> None:
    plain = MultiHeadNet(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), TASKS, num_features=6)
    x = torch.randn(3, 4)
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, "aux"), plain(x, "aux"))
    torch.testing.assert_close(compiled(x)["main"], plain(x)["main"])


def test_hooks_on_the_readout_fire_for_one_task(net: MultiHeadNet) -> None:
    shapes: list[torch.Size] = []
    net.readout.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    net(torch.randn(3, 4), "main")
    assert shapes == [(3, 10)]


def _width(backbone: nn.Module, **kwargs: int) -> MultiHeadNet:
    return MultiHeadNet(backbone, {"main": 2}, **kwargs)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda net: net(torch.randn(2, 4), "mian"), ["task", "'mian'", "'main'"]),
        (lambda net: net.forward_tasks({"auxx": torch.randn(2, 4)}), ["task", "'auxx'", "'aux'"]),
        (lambda net: net.reset_readout(tasks=["ax"]), ["task", "'ax'", "'aux'"]),
        (lambda net: net.reset_readout(scale=-1.0), ["scale", "-1"]),
        (lambda net: net.reset_readout(scale=math.nan), ["scale", "nan"]),
        (lambda net: MultiHeadNet(net.backbone, {}), ["tasks", "empty"]),
        (lambda net: MultiHeadNet(net.backbone, {"main": 0}), ["tasks", "'main'", "0"]),
        (lambda net: MultiHeadNet(net.backbone, {"main": 2.0}), ["tasks", "2.0"]),
        (lambda net: _width(nn.Sequential(nn.Linear(4, 7), nn.ReLU())), ["num_features", "Sequential", "7"]),
        (lambda net: _width(net.backbone, num_features=0), ["num_features", "0"]),
        (
            lambda net: _width(nn.Flatten(), num_features=9)(torch.randn(2, 4)),
            ["num_features", "(2, 4)", "9"],
        ),
    ],
)
def test_wrong_use_is_one_clear_line(net: MultiHeadNet, action, words) -> None:
    weights = net.readout.weight.clone()
    with pytest.raises(ConfigurationError) as caught:
        action(net)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert torch.equal(net.readout.weight, weights)
