"""Strategies that train in processes of their own: what was measured comes back to the caller."""

from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import launch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("started")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        launch(Path(__file__).with_name("started_processes_script.py"), folder)
    return {"left": [*(folder / "temporary").glob("lit_aux_*")]} | torch.load(
        folder / "found.pt", weights_only=False
    )  # type: ignore[no-any-return]


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_what_was_measured_comes_back_to_the_callers_callbacks(found: dict[Any, Any], strategy: str) -> None:
    here, there = found["plain", "ddp"], found["plain", strategy]
    count = 4 if strategy == "ddp_fork" else 2
    assert [len(rows) > 0 for rows in there["rows"][:count]] == [True] * count
    assert there["rows"][:count] == here["rows"][:count]
    assert (there["rescaled"], there["reason"]) == (here["rescaled"], here["reason"])
    assert "training loss" in there["reason"]
    if strategy == "ddp_fork":
        assert there["best"] == here["best"] is not None


def test_a_run_of_one_phase_has_its_summary(found: dict[Any, Any]) -> None:
    here, there = found["phased", "ddp"], found["phased", "ddp_fork"]
    assert there == here
    assert there["result"]["epochs"] == 2
    assert there["result"]["metrics"]["main/test_accuracy"] > 0
    assert there["measures"] == 1
    assert there["checkpoint"]


def test_nothing_is_left_in_the_folder_for_temporary_files(found: dict[Any, Any]) -> None:
    assert found["left"] == []
