"""Two processes on arrays of one's own end where one does."""

from pathlib import Path

import pytest
import torch
from process_helpers import together
from two_process_arrays_script import NAMES, run


def test_two_processes_equal_one(tmp_path: Path) -> None:
    together(Path(__file__).with_name("two_process_arrays_script.py"), tmp_path)
    for name in NAMES:
        pair = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]
        assert pair[0]["metrics"] == pair[1]["metrics"], name
        trainer, module = run(name, 1, tmp_path)
        for key, value in module.state_dict().items():
            assert torch.equal(pair[0]["weights"][key], pair[1]["weights"][key]), (name, key)
            assert torch.allclose(pair[0]["weights"][key], value, atol=1e-6), (name, key)
        for mine, one in zip(pair[0]["metrics"], (p.metrics for p in trainer.phase_results), strict=True):
            assert mine.keys() == one.keys()
            assert [*mine.values()] == pytest.approx([*one.values()], abs=1e-4), name
