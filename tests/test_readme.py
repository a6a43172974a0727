"""The README's Python runs as it is printed, with fewer epochs."""

import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_aux.callbacks import RepresentationDimensionality

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def shortened(code: str) -> str:
    short, count = re.subn(r"max_epochs=\d+", "max_epochs=1", code)
    assert count >= 1
    return short


def own_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line and "import" not in line]


class YourModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_python_example(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = next(block for block in blocks() if "PhaseTrainer" in block)
    assert len(own_lines(code)) == 5
    exec(compile(shortened(code), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "pretrain" in printed
    assert "finetune" in printed
    assert "layer4" in printed
    assert len(list(tmp_path.glob("runs/version_0/*.png"))) >= 1
    assert (tmp_path / "runs/version_0/summary.json").is_file()
    assert {p.stem for p in tmp_path.glob("runs/version_0/checkpoints/*.ckpt")} == {"pretrain", "finetune"}


def test_callbacks_in_your_own_project() -> None:
    code = next(block for block in blocks() if "your_module" in block)
    assert len(own_lines(code)) <= 5
    x = torch.randn(32, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    space = {"your_module": YourModule(), "your_loader": loader}
    exec(compile(shortened(code), "README.md", "exec"), space)
    callbacks = space["trainer"].callbacks
    measure = next(c for c in callbacks if isinstance(c, RepresentationDimensionality))
    assert [row.layer for row in measure.results] == ["net.0", "net.1", "net.2"]


def test_the_readme_is_one_page() -> None:
    text = README.read_text()
    assert len(text) < 5500
    assert text.count("pip install uv && uv run ") == 2


def test_every_command_names_files_that_exist() -> None:
    root = README.parent
    for name in set(re.findall(r"configs/[\w/]+\.yaml", README.read_text())):
        assert (root / name).is_file(), name
    for name in set(re.findall(r"scripts/\w+\.\w+|docs/\w+\.\w+", README.read_text())):
        assert (root / name).is_file(), name
