"""Low-rank finetuning on two gloo processes: ranks stay equal, no parameter is unused, a resume is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import together
from two_process_lora_script import build
from two_process_script import data

from lit_aux.models.low_rank import merged_state

LAYER = "net.backbone.0"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    together(Path(__file__).with_name("two_process_lora_script.py"), folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_ranks_hold_the_same_weights_and_train_adapters_and_readout(reports: list[dict[str, Any]]) -> None:
    first, second = (report["whole"] for report in reports)
    assert first["trains"] == [
        f"{LAYER}.lora_A.lit_aux.weight",
        f"{LAYER}.lora_B.lit_aux.weight",
        "net.readout.bias",
        "net.readout.weight",
    ]
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert float(first["state"][f"{LAYER}.lora_B.lit_aux.weight"].abs().max()) > 1e-4
    before, after = (first["phases"]["finetune"][when] for when in ("before", "after"))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name for name in changed if name.startswith("net.")} == set(first["trains"])


def test_each_step_is_that_of_both_shards(reports: list[dict[str, Any]]) -> None:
    """The metrics are those of the merged network in one process."""
    state = reports[0]["whole"]["state"]
    layers = {LAYER: {"scaling": 4.0, "transposed": False}}  # 8 over 2
    module = build().eval()
    module.load_state_dict(merged_state(state, layers, "it"))
    source = data()
    loader = source.samples("test", "main").loader(source.view.transform(), batch_size=1000, training=False)
    x, y = next(iter(loader))
    with torch.no_grad():
        loss = float(torch.nn.functional.cross_entropy(module(x, "main"), y))
    for report in reports:
        assert report["whole"]["metrics"]["finetune/main/test_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_resume_is_exact(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        whole, resumed = report["whole"], report["resumed"]
        assert report["cut"]["steps"] < whole["steps"] == resumed["steps"]
        for name, value in whole["state"].items():
            assert torch.equal(value, resumed["state"][name]), name
