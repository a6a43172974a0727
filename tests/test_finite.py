"""What is finite is what `torch.isfinite` says of every value."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed
from process_helpers import together
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lit_aux.finite import all_finite

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.complex64]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("place", [0, 17, 999])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_one_odd_value_is_found_wherever_it_is(dtype: torch.dtype, place: int, odd: float) -> None:
    values = torch.linspace(-100, 100, 1000).to(dtype)
    assert all_finite(values)
    values[place] = torch.tensor(odd).to(dtype)
    assert not all_finite(values)
    assert not all_finite(values.view(10, 100).T)


def test_an_odd_imaginary_part_is_found() -> None:
    values = torch.tensor([complex(1, float("inf"))]).conj()
    assert not all_finite(values)


@pytest.mark.parametrize("values", [torch.tensor([True, False]), torch.arange(3), torch.arange(3).byte()])
def test_whole_numbers_are_finite(values: torch.Tensor) -> None:
    assert all_finite(values)


def test_an_empty_tensor_has_no_odd_value() -> None:
    assert all_finite(torch.zeros(0, 3))


def test_the_largest_numbers_are_finite() -> None:
    assert all_finite(torch.tensor([torch.finfo(torch.float64).max] * 2, dtype=torch.float64))


def test_weights_that_learn_are_looked_at_without_their_gradient() -> None:
    assert all_finite(torch.nn.Parameter(torch.ones(3)))


def test_a_tensor_in_pieces_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    together(Path(__file__), tmp_path)


def _on_two_processes() -> None:
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for place in 0, 63:  # of the first process, of the second
        values = torch.randn(64, generator=torch.Generator().manual_seed(0))
        assert all_finite(distribute_tensor(values, mesh, [Shard(0)]))
        values[place] = torch.nan
        assert not all_finite(distribute_tensor(values, mesh, [Shard(0)]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _on_two_processes()
