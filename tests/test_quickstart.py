"""What the README's picture and caption say holds for whoever runs the first command."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lit_aux.cli import main

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs/quickstart.yaml"
NESTED = ["layer2", "layer3", "layer4", "global_pool"]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tutorial.md"])
def test_pages_name_the_factor_of_the_configuration(page: str) -> None:
    factor = yaml.safe_load(QUICKSTART.read_text())["model"]["init_args"]["rescale"]
    text = (ROOT / page).read_text()
    assert f"multiplied by {factor}," in text or f"**rescale factor** of {factor}," in text


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_caption_holds_for_any_seed_and_number_of_threads(seed: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert main(["fit", "--config", str(QUICKSTART), f"--seed_everything={seed}"]) == 0
    finally:
        torch.set_num_threads(before)
    summary = json.loads(Path("runs/version_0/summary.json").read_text())
    rows = {r["layer"].rpartition(".")[2]: r for r in summary["layers"] if r["phase"] == "finetune"}
    assert rows["maxpool"]["verdict"] == rows["layer1"]["verdict"] == "lazy"
    assert rows["maxpool"]["note"] == ""
    assert {layer: (rows[layer]["verdict"], rows[layer]["note"]) for layer in NESTED} == dict.fromkeys(
        NESTED, ("nested", "")
    )
    assert all(1 <= rows[layer]["pr_after"] <= 4 for layer in NESTED)
    assert rows["readout"]["verdict"] == "replaced"
