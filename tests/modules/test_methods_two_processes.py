"""Multi-task methods on two gloo processes take the steps of one process on the joint batch."""

from pathlib import Path

import pytest
import torch
from method_helpers import batches, module_of
from process_helpers import together
from two_process_methods_script import RUNS, hollow, run, stopped, weighted

pytest.importorskip("torchjd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where each run's two processes wrote their weights."""
    target = tmp_path_factory.mktemp("methods")
    together(Path(__file__).with_name("two_process_methods_script.py"), target)
    return target


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_do_what_one_does(name: str, folder: Path, tmp_path: Path) -> None:
    first, second = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    module, _ = run(name, tmp_path, 1)
    start = module_of(**RUNS[name]).state_dict()
    moved = 0.0
    for key, value in module.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-6, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}")
        moved += float((value - start[key]).abs().nan_to_num().sum())
    assert moved > 0.1


def test_the_training_loss_of_two_processes_is_that_of_all_labels(folder: Path, tmp_path: Path) -> None:
    served = [batch["a"] for batch in hollow(batches(4, size=12))]
    x, y = (torch.cat(parts) for parts in zip(*served, strict=True))
    with torch.no_grad():
        loss = float(weighted(2).double()(module_of({"a": 2}).double()(x.double(), "a"), y))
    reason = f"training loss {loss:.3g} < 100 after 1 epoch"
    assert stopped(tmp_path, 1) == reason
    assert {(folder / f"stopped-{rank}.txt").read_text() for rank in (0, 1)} == {reason}
