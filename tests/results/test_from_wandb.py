"""Runs of W&B's in a results table: through its own client from recorded answers, and one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb_server import serving

from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.results import from_wandb
from lit_aux.results.from_wandb import add, converted, fetch, parsed
from lit_aux.runs.reading import read_measures, read_rows
from lit_aux.runs.wandb_summary import rows_of, summary_of

COMMAND = """
import sys
from lit_aux.errors import ConfigurationError
from lit_aux.cli.table import run
try:
    run(sys.argv[1:])
except ConfigurationError as error:
    sys.exit(f"one line: {error}")
"""
LR = "model.finetune_settings.optimizer.init_args.lr"


def lit_aux_table(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own: W&B's client reads its settings once a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    kept |= {"HOME": str(Path.cwd()), "WANDB_SILENT": "true", "NETRC": str(Path.cwd() / "netrc"), **env}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        capture_output=True, text=True, check=False, timeout=120, env=kept, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_wandbs_own_client_on_recorded_answers() -> None:
    with serving("somebody/sharing") as (address, asked):
        account = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        words = ["--from-wandb", "somebody/sharing/sweeps/sw1", "--out", "results.csv"]
        done = lit_aux_table(*words, **account)
        assert done.returncode == 0, done.stderr
        first = Path("results.csv").read_bytes()
        again = lit_aux_table(*words, **account)
    assert done.stdout == (
        "5 runs of somebody/sharing/sweeps/sw1: 2 added, 1 added as failed, 1 still running (left out), "
        "1 without results of lit-aux fit (left out)\nresults: results.csv\n"
    )
    assert "3 were there already" in again.stdout
    assert Path("results.csv").read_bytes() == first
    assert [variables.get("cursor") for variables in asked] == [None, "cccc", None, "cccc"]
    assert json.loads(asked[0]["filters"]) == {"sweep": "sw1"}
    rows = {row["run"]: row for row in read_rows("results.csv")}
    assert list(rows) == ["0a1b2c3d4e5f", "wandb-ccc", "1" * 12, "2" * 12]
    digits = {k: v for k, v in rows["0a1b2c3d4e5f"].items() if v is not None}
    assert digits == {
        "run": "0a1b2c3d4e5f", "experiment": "digits-resnet18", "setup": "PT+FT", "seed": 3, "n_main": 20,
        "rescale": 0.25, "loss_final": 1 / 3, "train_loss": 1e-17, "steps": 12, "converged": True,
        "seconds": 31.5, "accuracy": 0.9166666865348816,
    }  # fmt: skip
    crashed = {k: v for k, v in rows["wandb-ccc"].items() if v is not None}
    assert crashed == {
        "run": "wandb-ccc", "setup": "PT+FT", "seed": 4, "n_main": 50, "rescale": 0.5, "converged": False,
        "error": "W&B: run amber-ccc crashed",
    }  # fmt: skip
    assert rows["2" * 12]["correlation"] == (0.0, 1.0)
    measures = [(m["run"], m["layer"], m["measure"], m["value"]) for m in read_measures("results.csv")]
    assert measures == [
        ("0a1b2c3d4e5f", "net.backbone.network.layer4", "pr_after", 2.618033988749895),
        ("0a1b2c3d4e5f", None, LR, 0.01),
        ("wandb-ccc", None, LR, 0.1),
    ]


def test_a_project_that_is_not_there() -> None:
    with serving("somebody/sharing") as (address, _):
        words = ["--from-wandb", "somebody/shairing", "--out", "results.csv"]
        done = lit_aux_table(*words, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40)
    assert done.stderr.splitlines()[-1] == (
        "one line: --from-wandb somebody/shairing: W&B has no project somebody/shairing, or your account "
        "cannot see it"
    )
    assert not Path("results.csv").exists()


def test_no_account() -> None:
    done = lit_aux_table("--from-wandb", "somebody/sharing")
    assert done.stderr.splitlines()[-1] == (
        "one line: --from-wandb somebody/sharing: W&B knows no account here; run wandb login, or set "
        "WANDB_API_KEY"
    )


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's client tries for its whole timeout; what it says then is what is tested."""
    wandb = pytest.importorskip("wandb")

    def unreachable(**kwargs: Any) -> None:
        raise wandb.errors.CommError("the service process\nis busy and did not respond in time.")

    monkeypatch.setattr(wandb, "Api", unreachable)
    with pytest.raises(ConfigurationError) as error:
        fetch("somebody/sharing", "results.csv")
    assert str(error.value) == (
        "--from-wandb somebody/sharing: W&B cannot be reached (the service process is busy and did not "
        "respond in time); is there a connection?"
    )


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("me/it", ("me/it", None)),
        ("me/it/sweeps/a1b2", ("me/it", "a1b2")),
        ("https://wandb.ai/me/it/sweeps/a1b2", ("me/it", "a1b2")),
        ("https://wandb.ai/me/it/workspace", ("me/it", None)),
        (" me/it/ ", ("me/it", None)),
    ],
)
def test_places(place: str, expected: tuple[str, str | None]) -> None:
    assert parsed(place) == expected


@pytest.mark.parametrize("place", ["", "it", "me/it/runs/a1b2", "me it/x", "me//it"])
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(ConfigurationError, match="write ENTITY/PROJECT"):
        parsed(place)


def run_of(state: str, summary: Any = None, config: Any = None, **more: Any) -> Any:
    """Return what ``wandb.Api`` gives for a run."""
    plain = {"id": "xyz", "name": "calm-1", "tags": [], "group": None}
    return SimpleNamespace(
        **{**plain, "state": state, "summary": summary or {}, "config": config or {}, **more}
    )


ROW = {"run": "abc", "setup": "STL", "seed": 0, "loss_best": 0.1}


def test_a_run_that_was_resumed_replaces_its_failure(tmp_path: Path) -> None:
    with ResultsTable(tmp_path / "results.csv") as table:
        assert add(table, converted(run_of("failed", config={"seed_everything": 7}))) == "failed"
        assert table.failed() == {"wandb-xyz"}
        assert add(table, converted(run_of("killed"))) == "there"
        assert add(table, converted(run_of("finished", summary_of([ROW], [])))) == "added"
        assert [(row["run"], row["error"]) for row in table.rows()] == [("abc", "")]


def test_a_run_that_failed_after_its_training_has_its_rows() -> None:
    assert converted(run_of("crashed", summary_of([ROW], []))).rows == [ROW]


@pytest.mark.parametrize("state", ["failed", "crashed", "killed", "preempted"])
def test_runs_that_failed(state: str) -> None:
    found = converted(
        run_of(state, tags=["laptop", "MTL"], config={"data.overlap": 20, "model.compile": True})
    )
    assert found.rows[0]["error"] == f"W&B: run calm-1 {state}"
    assert (found.rows[0]["setup"], found.rows[0]["overlap"]) == ("MTL", 20)
    assert found.measures == [{"run": "wandb-xyz", "measure": "model.compile", "value": "true"}]


@pytest.mark.parametrize("state", ["running", "pending", "preempting"])
def test_runs_that_are_under_way(state: str) -> None:
    assert converted(run_of(state)).kind == "running"


@pytest.mark.parametrize("text", ["no json", "3", '[["run"]]', "[3]"])
def test_a_summary_of_somebody_elses(text: str) -> None:
    assert converted(run_of("finished", {"lit_aux_rows": text})).kind == "other"


def test_rows_come_back_exactly() -> None:
    rows = [
        {
            "run": "a",
            "loss_best": 0.1 + 0.2,
            "correlation": "0.0|0.9",
            "rescale": None,
            "accuracy": float("nan"),
        },
        {"run": "b", "loss_best": 5e-324, "train_loss": float("inf"), "converged": False, "steps": 10**12},
    ]
    measures = [{"run": "b", "phase": "train", "step": 3, "layer": "", "measure": "l1", "value": 1 / 3}]
    found, measured = rows_of(json.loads(json.dumps(summary_of(rows, measures))))
    assert found == [{"run": "a", "loss_best": 0.1 + 0.2, "correlation": "0.0|0.9"}, rows[1]]
    assert measured == measures
    assert rows_of({"loss": 1}) == ([], [])


def test_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_wandb, "_runs", lambda *_: [])
    with pytest.raises(ConfigurationError, match="there are no runs"):
        fetch("me/it/sweeps/none", "results.csv")
    assert not Path("results.csv").exists()
