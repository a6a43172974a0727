"""The key of a run, from its configuration and the code that this names."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from lit_aux.identity.configuration import named_code, run_identity
from lit_aux.runs.table import run_hash
from lit_aux.teachers import RELU_DRAWS

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 3,
        "logger": "csv",
        "default_root_dir": "runs",
        "callbacks": [{"class_path": "lit_aux.callbacks.KMeansInertia", "init_args": {"layer": "a", "k": 2}}],
    },
    "model": {
        "class_path": "lit_aux.modules.SingleTaskModule",
        "init_args": {"backbone": {"class_path": "keyed_net.Net", "init_args": {"stride": 1}}},
    },
    "data": {
        "class_path": "lit_aux.data.CIFAR100DataModule",
        "init_args": {"root": "data", "n_main": 40, "augment": None},
    },
}
NET = "from keyed_parts import act\n\nclass Net:\n    def forward(self, x):\n        return act(x)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "keyed_net.py").write_text(NET)
    (tmp_path / "keyed_parts.py").write_text("def act(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(path: str, value: Any) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    *parents, last = path.split(".")
    part = config
    for name in parents:
        part = part[name]
    part[last] = value
    return config


def key(config: dict[str, Any]) -> str:
    return run_hash(run_identity(config))


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("trainer.logger", "wandb", True),
        ("trainer.default_root_dir", "elsewhere", True),
        ("open", True, True),
        ("trainer.callbacks", [], True),  # it measures only
        ("trainer.callbacks", None, True),
        ("trainer.profiler", "simple", True),
        ("data.init_args.root", "/mnt/data", True),
        ("data.init_args.num_workers", 8, True),
        ("data.init_args.new_option", None, True),  # as a later version adds it
        ("trainer.max_epochs", 4, False),
        ("trainer.callbacks", [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}], False),
        ("seed_everything", 1, False),
        ("data.init_args.n_main", 20, False),
        ("data.class_path", "lit_aux.data.ImageFolderDataModule", False),
        ("model.init_args.backbone.init_args.stride", 2, False),
        ("model.init_args.unknown", [1, 2], False),
    ],
)
def test_what_decides_no_number_names_no_other_run(path: str, value: Any, same: bool, folder: Path) -> None:
    assert (key(changed(path, value)) == key(CONFIG)) is same


def test_the_folder_of_ones_own_images_is_what_they_are(folder: Path) -> None:
    config = changed("data.class_path", "lit_aux.data.ImageFolderDataModule")
    other = deepcopy(config)
    other["data"]["init_args"]["root"] = "others"
    assert key(config) != key(other)


def test_code_that_is_named_counts_and_nothing_is_imported(folder: Path) -> None:
    before = key(CONFIG)
    assert sorted(named_code(CONFIG)) == ["keyed_net", "keyed_parts"]
    assert sorted(named_code(["--model.backbone=keyed_net.Net"])) == ["keyed_net", "keyed_parts"]
    assert "keyed_net" not in sys.modules
    (folder / "keyed_net.py").write_text(f"# a remark\n{NET}")
    assert key(CONFIG) == before
    (folder / "keyed_parts.py").write_text("def act(x):\n    return -x\n")
    assert key(CONFIG) != before


def test_configurations_of_the_project_alone_name_no_code() -> None:
    words = [
        "lit_aux.modules.MultiTaskModule",
        "torch.optim.SGD",
        "resnet18.a1_in1k",
        "nobody.knows.this",
        "a b.c",
    ]
    assert named_code(words) == {}


@pytest.mark.parametrize(
    "named", [{"class_path": "lit_aux.data.ReLUTeacherDataModule"}, ["--data=ReLUTeacherDataModule"]]
)
def test_data_that_were_drawn_otherwise_before_are_told_from_those(named: Any) -> None:
    assert named_code(named) == {"ReLUTeacherDataModule": f"draws {RELU_DRAWS}"}
    assert named_code({"class_path": "lit_aux.data.DiagonalTeacherDataModule"}) == {}
