"""The configuration on the page about unfreezing trains as it is printed, and mistakes in it are one line."""

import csv
import re
from pathlib import Path

import pytest

from lit_aux.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "schedules.md"
WORDS = [
    *("--data.n_aux=60", "--data.n_val=16", "--data.n_test=16", "--data.size=32"),
    *("--model.backbone.name=test_resnet", "--model.pretrain_settings.max_epochs=2"),
    *("--model.finetune_settings.max_epochs=11", "--trainer.limit_train_batches=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]
WRONG = {
    "--model.finetune_settings.unfreeze={0: [net.readout.*], 5: [net.body.*]}": "unfreeze: pattern",
    "--model.finetune_settings.unfreeze={0: [net.readout.*], 11: ['*']}": "epoch 11 is never reached",
    "--model.finetune_settings.unfreeze={-1: [net.readout.*], 0: ['*']}": "epoch -1: must be at least 0",
    "--model.finetune=probe": "give one of the two",
    "--model.pretrain_settings.restore_best=aux/val_los": "did you mean 'pretrain/aux/val_loss'",
    "--model.finetune_settings.restore_mode=most": "restore_mode",
    "--data.balance_batches=[mian]": "did you mean 'main'?",
    "--data.n_val=0": "see --data.n_val",
}


def written() -> list[str]:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    Path("page.yaml").write_text(block)
    return ["fit", "--config", "page.yaml", *WORDS]


def test_the_configuration_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    words = written()
    assert main(words) == 0, capsys.readouterr().err
    with Path("runs/version_0/measures.csv").open() as file:
        measured = {(row["phase"], row["measure"]) for row in csv.DictReader(file)}
    assert {("pretrain", "best_epoch"), ("finetune", "best_epoch")} <= measured
    # as saved, it is the same run
    saved = Path("runs/version_0/config.yaml")
    assert re.search(r"unfreeze:\s+'?0'?:\s+- net.readout", saved.read_text())
    assert main([*words, "--ckpt_path=runs/version_0/checkpoints/finetune.ckpt"]) == 0


@pytest.mark.parametrize("word", WRONG)
def test_a_mistake_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = written()
    capsys.readouterr()
    assert main([*words, word]) != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "lit-aux: error" in line]
    assert len(lines) == 1
    assert WRONG[word] in lines[0]
    assert not [*Path().rglob("*.ckpt")]
