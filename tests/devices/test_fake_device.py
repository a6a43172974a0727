"""The device that no machine has: it refuses what a GPU refuses, and computes what the CPU computes."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import NAME, Ledger, MixedDevicesError, back, fake_device, same_on_both, there
from torch import Tensor, nn


@pytest.fixture
def device() -> Iterator[Ledger]:
    with fake_device() as noted:
        yield noted


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MIXES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sum": lambda x, y: x + y,
    "product": lambda x, y: x @ y.T,
    "joined": lambda x, y: torch.cat([x, y]),
    "stacked numbers": lambda x, y: torch.stack([x.sum(), y.sum()]),
    "mask": lambda x, y: torch.where(y > 0, x, x),
    "in place": lambda x, y: x.add_(y),
    "into a number of the CPU": lambda x, y: torch.zeros(()).add_(x.sum()),
    "rows": lambda x, y: x.index_select(0, torch.arange(2)),
    "indexed by the device's": lambda x, y: y[x > 0],
    "put": lambda x, y: x.__setitem__(torch.arange(3), y),
    "layer": lambda x, y: nn.Linear(4, 2)(x),
    "generator": lambda x, y: torch.rand(3, device=x.device, generator=torch.Generator()),
    "generator in place": lambda x, y: x.normal_(generator=torch.Generator()),
    "loss": lambda x, y: nn.functional.mse_loss(x, y),
}


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_devices_is_refused(device: Ledger, name: str) -> None:
    with pytest.raises(MixedDevicesError):
        MIXES[name](there(draw(3, 4)), draw(3, 4, seed=1))


def test_numpy_does_not_see_it(device: Ledger) -> None:
    x = there(draw(3))
    for convert in (lambda: x.numpy(), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="numpy"):
            convert()


def test_what_a_gpu_allows_is_allowed(device: Ledger) -> None:
    x, two = there(draw(3, 4)), torch.tensor(2.0)
    list_of_two = x.new_tensor([2])
    found = [x * two, two * x, x[torch.arange(2)], x.clone().fill_(two), torch.where(x > 0, two, x)]
    found += [torch.tensor([1.0], device=x.device) + x, torch.as_tensor([1, 2], device=x.device)]
    found += [torch.zeros(2, device=x.device), x.new_zeros(2), list_of_two]
    x[0] = torch.tensor(1.0)
    assert {tensor.device.type for tensor in (x, *found)} == {NAME}
    assert back(x).device.type == torch.zeros(2).copy_(x[0, :2]).device.type == "cpu"
    assert back(list_of_two).tolist() == [2]


def test_waiting_for_values_is_counted(device: Ledger) -> None:
    x = there(draw(3))
    x += 1
    before = device.syncs
    assert [type(float(x.sum())), type(bool((x > 0).any())), type(x.tolist()), x.cpu().device.type] == [
        float,
        bool,
        list,
        "cpu",
    ]
    assert device.syncs == before + 4


def test_shapes_are_the_cpus() -> None:
    same_on_both(lambda x, y: [y @ x, x @ x.T, x.clone().t_(), y.clone().unsqueeze_(0)], draw(3, 4), draw(3))


def test_gradients_and_copies_are_the_cpus() -> None:
    def train(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        parts = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)]
        net = nn.Sequential(*parts).to(x.device)
        optimizer = torch.optim.AdamW(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        return dict(net.state_dict())

    same_on_both(train, draw(6, 4), draw(6, 1, seed=1))


def test_it_is_gone_outside(device: Ledger) -> None:
    assert torch.get_device_module(NAME).device_count() == 1
    device.inside = False
    assert torch.get_device_module(NAME).device_count() == 0
    assert not torch.accelerator.is_available()
