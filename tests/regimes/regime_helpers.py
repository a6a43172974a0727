"""Small runs of students, fitted once for several tests."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_aux.cli import AuxiliaryCLI, main


def settings(tolerance: float, max_evaluations: int) -> dict[str, Any]:
    """Return the settings of a phase."""
    flow = {"class_path": "lit_aux.integrators.GradientFlow", "init_args": {"tolerance": tolerance}}
    end = {"stop_at_training_loss": 1e-9, "max_evaluations": max_evaluations}
    return {"integrator": flow, "test_every": None, **end}


ENDS: dict[str, dict[str, Any]] = {
    "diagonal": {
        "net": {
            "class_path": "lit_aux.models.DiagonalNet",
            "init_args": {"in_features": 20, "init_scale": 0.05},
        },
        "settings": settings(1e-5, 40_000),
        "data": {"n_main": 12, "overlap": [0, 3], "in_features": 20, "k_main": 3, "k_aux": 3},
    },
    "relu": {
        "net": {
            "class_path": "lit_aux.models.ReLUNet",
            "init_args": {"in_features": 6, "hidden": 16, "init_scale": 0.05},
        },
        "settings": settings(1e-3, 3_000),
        "data": {"n_main": 16, "correlation": ["1|1"], "in_features": 6, "k_main": 2, "k_aux": 2},
    },
}


def config_of(kind: str, root: Path, **options: Any) -> dict[str, Any]:
    """Return the configuration of a small run."""
    phases = dict.fromkeys(("pretrain_settings", "finetune_settings"), ENDS[kind]["settings"])
    data = "DiagonalTeacherDataModule" if kind == "diagonal" else "ReLUTeacherDataModule"
    trainer = {"default_root_dir": str(root), "devices": 1, "max_epochs": -1, "accelerator": "cpu"}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    model = {"backbone": ENDS[kind]["net"], "readout": "reset", "rescale_preset": "backbone"}
    return {
        "seed_everything": 0,
        "trainer": trainer,
        "model": {
            "class_path": "lit_aux.modules.PretrainFinetuneModule",
            "init_args": {**model, **phases, **options},
        },
        "data": {
            "class_path": f"lit_aux.data.{data}",
            "init_args": {"seed": [0, 1], "n_aux": 40, "n_test": 20, **ENDS[kind]["data"]},
        },
    }


def fit_run(kind: str, root: Path, **options: Any) -> Path:
    """Fit a small run and return its folder."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / "fit.yaml"
    file.write_text(yaml.safe_dump(config_of(kind, root, **options)))
    with only_fit():
        assert main(["fit", "--config", str(file)]) == 0
    return max(root.glob("version_*"), key=lambda path: path.stat().st_mtime)


def only_fit() -> Any:
    """Leave out the other parsers, which take a while to build, and the words of the test's own command."""
    patch = pytest.MonkeyPatch()
    patch.setattr("sys.argv", ["lit-aux"])
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    patch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))

    class _Undo:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            patch.undo()

    return _Undo()
