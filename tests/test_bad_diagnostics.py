"""Diagnostics and methods that are asked wrongly: one line, before training, and nothing is left behind."""

from typing import Any

import pytest
from test_bad_input import Config, base, configured, refused  # noqa: F401

SHARPNESS = "--trainer.callbacks=lit_aux.callbacks.Sharpness"
METHOD = "--model.aggregator"


def joint() -> Config:
    """A correct multi-task run on the digits."""
    config = base()
    settings = config["model"]["init_args"]["finetune_settings"]
    backbone = config["model"]["init_args"]["backbone"]
    config["model"] = {
        "class_path": "lit_aux.modules.MultiTaskModule",
        "init_args": {"backbone": backbone, "settings": settings},
    }
    return config


CASES = {
    "rho": ([SHARPNESS, "--trainer.callbacks.rho=-1"], ["rho: -1.0", "above 0"]),
    "epochs": ([SHARPNESS, "--trainer.callbacks.every_n_epochs=-2"], ["every_n_epochs: -2", "at least 1"]),
    "steps": (
        ["--trainer.callbacks=lit_aux.callbacks.GradientConflict", "--trainer.callbacks.every_n_steps=0"],
        ["every_n_steps: 0", "at least 1"],
    ),
    "task": ([SHARPNESS, "--trainer.callbacks.tasks=[mian]"], ["tasks: 'mian'", "did you mean 'main'"]),
    "shared": ([SHARPNESS, "--trainer.callbacks.shared=[net.bckbone.*]"], ["shared: 'net.bckbone.*'"]),
    "examples": (
        [
            "--trainer.callbacks=lit_aux.callbacks.GradientCoherence",
            "--trainer.callbacks.batch_size=64",
        ],
        ["batch_size", "'main' has 20"],
    ),
    "aggregator": ([f"{METHOD}=PCGrd"], ["--model.aggregator", "'PCGrd'", "'PCGrad'"]),
    "fit": (
        [f"{METHOD}=torchjd.aggregation.NashMTL", f"{METHOD}.n_tasks=3"],
        ["--model.aggregator: NashMTL refuses 2 tasks"],
    ),
    "both": ([f"{METHOD}=PCGrad", "--model.weighting=random"], ["aggregator", "weighting", "one of them"]),
    "published": ([f"{METHOD}=PCGrad", "--model.schedule=published"], ["schedule: published", "interleaved"]),
    "noise": (["--data.label_noise={main: 2}"], ["--data.label_noise.main 2", "between 0 and 1"]),
    "classes": (
        ["--data=lit_aux.data.CIFAR100DataModule", "--data.n_main=20", "--data.classes=superclases"],
        ["--data.classes", "superclases"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_wrong(name: str, refused: Any) -> None:  # noqa: F811
    words, expected = CASES[name]
    message = refused(*words, config=joint())
    assert all(part in message for part in expected), message


def test_students_have_no_tasks_to_diagnose(refused: Any) -> None:  # noqa: F811
    config = joint()
    config["model"]["init_args"] = {"backbone": {"class_path": "lit_aux.models.DiagonalNet"}}
    config["model"]["init_args"]["settings"] = {"max_evaluations": 5}
    sizes: Config = {
        "k_main": 3,
        "k_aux": 3,
        "overlap": 1,
        "n_aux": 6,
        "n_test": 6,
        "in_features": 8,
        "n_main": 6,
    }
    config["data"] = {"class_path": "lit_aux.data.DiagonalTeacherDataModule", "init_args": sizes}
    config["model"]["init_args"]["backbone"]["init_args"] = {"in_features": 8}
    assert "students train replicas, not tasks" in refused(SHARPNESS, config=config)
