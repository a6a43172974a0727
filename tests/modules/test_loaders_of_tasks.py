"""A loader for each task, combined by Lightning: what each step holds is what trains."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from method_helpers import Batch, batches, module_of, train, trainer_of
from torch.utils.data import DataLoader

LENGTHS = {"a": 5, "b": 2, "c": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "aggregator": {"aggregator": "MGDA"},
    "uncertainty": {"weighting": "uncertainty"},
}


class Loaders(pl.LightningDataModule):
    """A loader of its own length for each task."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.all = mode, batches(5)

    def own(self, task: str) -> list[Any]:
        return [batch[task] for batch in self.all[: LENGTHS[task]]]

    def train_dataloader(self) -> CombinedLoader:
        loaders = {task: DataLoader(self.own(task), batch_size=None) for task in LENGTHS}  # type: ignore[arg-type]
        return CombinedLoader(loaders, self.mode)

    def val_dataloader(self) -> CombinedLoader:
        return self.train_dataloader()

    def steps(self) -> list[Batch]:
        """Return what the combined steps hold."""
        count = min(LENGTHS.values()) if self.mode == "min_size" else max(LENGTHS.values())
        cycles = self.mode == "max_size_cycle"
        return [
            {task: self.own(task)[step % LENGTHS[task]] for task in LENGTHS if cycles or step < LENGTHS[task]}
            for step in range(count)
        ]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "min_size"])
def test_steps_of_combined_loaders(mode: str, option: str, tmp_path: Path) -> None:
    data = Loaders(mode)
    module, same = (module_of(**OPTIONS[option]) for _ in range(2))
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer_of(tmp_path).fit(module, datamodule=data)
    train(same, data.steps(), tmp_path)
    moved = 0.0
    for name, value in module.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
        moved += float((value - start[name]).abs().sum())
    assert moved > 0.1
