"""Sweeps over tasks of every kind, their tables and figures."""

import sys
from pathlib import Path

import pytest
import yaml
from sweep_helpers import rows_of

from lit_aux.cli import main
from lit_aux.figures.images import _SCORES

HELPERS = Path(__file__).parents[1] / "modules"
NET = {"class_path": "kind_helpers.KindNet"}
SETTINGS = {
    "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}},
    "max_epochs": 2,
}
CONFIG = {
    "model": {
        "class_path": "lit_aux.modules.PretrainFinetuneModule",
        "init_args": {"backbone": NET, "pretrain_settings": SETTINGS, "finetune_settings": SETTINGS},
    },
    "data": {"class_path": "kind_helpers.KindData"},
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
}
KINDS = {"multilabel": "f1", "regression": "r2", "tokens": "accuracy", "dense": "accuracy"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> Path:
    """Sweep over kinds and rescale factors, each kind with a table of its own."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(HELPERS))
        patch.syspath_prepend(str(HELPERS))
        Path("kinds.yaml").write_text(yaml.safe_dump(CONFIG))
        for kind in KINDS:
            sweep = {
                "method": "grid",
                "command": ["lit-aux", "fit", "--config", "kinds.yaml", "--data.kind", kind, "${args}"],
                "metric": {"name": f"main/test_{KINDS[kind]}", "goal": "maximize"},
                "parameters": {"model.rescale": {"values": [1.0, 0.5]}},
            }
            Path(f"{kind}.yaml").write_text(yaml.safe_dump(sweep))
            assert main(["sweep", f"{kind}.yaml", "--out", kind, "--jobs", "2"]) == 0
        sys.modules.pop("kind_helpers", None)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_table_and_figures(swept: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(swept / kind / "results.csv")
    assert sorted(row["rescale"] for row in rows) == ["0.5", "1.0"]
    assert all(row["setup"] == "PT+FT" and row["loss_final"] and not row["error"] for row in rows)
    assert main(["table", str(swept / kind), "--value", f"main/test_{KINDS[kind]}"]) == 0
    assert f"main/test_{KINDS[kind]}" in capsys.readouterr().out
    for figure in ("accuracy", "accuracy-rescale"):
        picture = swept / f"{kind}-{figure}.svg"
        assert main(["figures", figure, "--results", str(swept / kind), "--out", str(picture)]) == 0
        assert f"test {_SCORES[KINDS[kind]]}" in picture.read_text()
