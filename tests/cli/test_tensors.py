"""Options that take a tensor, as lists of numbers: from files and the command line, saved and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lit_aux.cli import main
from lit_aux.identity.configuration import flat_options, run_identity
from lit_aux.modules import AuxiliaryModule, MultiTaskModule
from lit_aux.phases import PhaseTrainer
from lit_aux.phases.identity import describe_run

CONFIG = Path(__file__).parents[2] / "configs/digits/stl.yaml"
BASE = ["fit", "--config", str(CONFIG), "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
LOSS = ["--model.losses", "torch.nn.CrossEntropyLoss"]


COSTS = torch.tensor([[0, 0.1], [2, 0]])


class Scaled(nn.Module):
    """A loss of somebody's own with tensors as options, one of them a matrix with a default."""

    def __init__(self, scale: Tensor, costs: Tensor = COSTS) -> None:
        super().__init__()
        self.scale, self.costs = scale, costs


def built(words: list[str], monkeypatch: pytest.MonkeyPatch) -> AuxiliaryModule:
    """Return the module that a command line builds."""
    found: list[AuxiliaryModule] = []
    monkeypatch.setattr(PhaseTrainer, "fit", lambda self, model, **_: found.append(model))
    monkeypatch.setattr("lit_aux.cli.AuxiliaryCLI.after_fit", lambda self: None)
    assert main([*BASE, *words]) == 0
    return found[0]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the configuration that a command line resolves to."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*BASE, *words, "--print_config="])
    assert not ended.value.code
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_a_weight_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = built([*LOSS, "--model.losses.weight", "[1, 5]"], monkeypatch).evaluation.loss("main")
    assert isinstance(loss, nn.CrossEntropyLoss)
    assert loss.weight is not None
    assert loss.weight.dtype == torch.float32
    assert loss.weight.tolist() == [1, 5]


def test_tensors_in_a_file_of_a_loss_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"class_path": f"{__name__}.Scaled", "init_args": {"scale": [0.1, 1e-8], "costs": [[1], [2]]}}
    file = tmp_path / "loss.yaml"
    file.write_text(yaml.safe_dump({"model": {"init_args": {"losses": options, "metrics": {}}}}))
    loss = built(["--config", str(file)], monkeypatch).evaluation.loss("main")
    assert isinstance(loss, Scaled)
    assert torch.equal(loss.scale, torch.tensor([0.1, 1e-8]))
    assert torch.equal(loss.costs, torch.tensor([[1.0], [2.0]]))


def test_what_is_saved_is_a_list_and_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model.losses", f"{__name__}.Scaled", "--model.losses.scale", "[0.1, 5, 1e-9, 16777217]"]
    saved = printed(words, capsys)
    options = saved["model"]["init_args"]["losses"]["init_args"]
    assert options == {"scale": [0.1, 5.0, 1e-9, 16777216.0], "costs": [[0.0, 0.1], [2.0, 0.0]]}
    file = tmp_path / "saved.yaml"
    file.write_text(yaml.safe_dump(saved))
    assert printed(["--config", str(file)], capsys) == saved


def test_two_weights_are_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    one, same, other = (
        printed([*LOSS, "--model.losses.weight", weight], capsys)
        for weight in ("[1, 5]", "[1.0, 5]", "[1, 6]")
    )
    assert run_identity(one) == run_identity(same) != run_identity(other)
    assert flat_options(one)["--model.losses.weight"] != flat_options(other)["--model.losses.weight"]


def test_two_weights_are_two_runs_to_those_who_resume() -> None:
    def described(weight: list[float]) -> dict[str, Any]:
        loss = nn.CrossEntropyLoss(weight=torch.tensor(weight))
        module = MultiTaskModule(nn.Linear(3, 4), {"main": 2, "aux": 2}, num_features=4, losses=loss)
        trainer = PhaseTrainer(accelerator="cpu", logger=False)
        return describe_run(trainer, module, module.phases, None, [])

    assert described([1, 5]) == described([1, 5]) != described([1, 6])


@pytest.mark.parametrize("given", ["5", "five", "[a, 5]", "[[1], [2, 3]]", "[]", "[[]]", "[true, false]"])
def test_what_is_no_list_of_numbers(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, *LOSS, "--model.losses.weight", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-aux: error: --model.losses.weight: ")
    assert line.endswith("is not a list of numbers")
    assert given in line


def test_a_learning_rate_is_still_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    option = "--model.settings.optimizer"
    assert main([*BASE, option, "torch.optim.Adam", f"{option}.lr", "fast"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"lit-aux: error: {option}.lr: 'fast' is not a number"
