"""Classes of the user's own, in the folder where the command is given."""

import sys
from pathlib import Path

import pytest

from lit_aux.cli import main

ROOT = Path(__file__).parents[1]
MODULE = """
from lit_aux.data import DigitsDataModule

class OwnDigits(DigitsDataModule):
    made = 0

    def setup(self, stage=None):
        OwnDigits.made += 1
        super().setup(stage)
"""


def test_a_class_in_the_working_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    (tmp_path / "own_digits_of_this_test.py").write_text(MODULE)
    config = str(ROOT / "configs" / "digits" / "stl.yaml")
    words = ["--data", "own_digits_of_this_test.OwnDigits", "--data.size", "8", "--trainer.fast_dev_run", "1"]
    assert main(["fit", "--config", config, *words]) == 0
    assert sys.modules["own_digits_of_this_test"].OwnDigits.made > 0


def test_modules_that_are_installed_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    config = str(ROOT / "configs" / "digits" / "stl.yaml")
    assert main(["fit", "--config", config, "--data.size", "8", "--trainer.fast_dev_run", "1"]) == 0
    assert sys.path.index(str(tmp_path)) == len(sys.path) - 1
