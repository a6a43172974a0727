"""What the commands of the walk over all options read: tables, a run, a sweep file, a study, a checkpoint."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lit_aux.cli import main
from lit_aux.data import wordnet

sys.path += [str(Path(__file__).parent / room) for room in ("regimes", "tables", "trajectories")]
from regime_helpers import fit_run
from table_helpers import row, table
from test_configs import make_cifar, make_fashion, make_folder
from trajectory_helpers import small_study
from wordnet_files import write_noun


def make_files(folder: Path, patch: Callable[..., None]) -> None:
    """Make small files of every kind that data modules read."""
    for make in (make_cifar, make_fashion):
        name = make.__name__.removeprefix("make_")
        (folder / name).mkdir()
        make(folder / name / "data", patch)
    make_folder(folder / "images" / "data")
    (folder / "text").mkdir()
    write_noun(folder / "text", large=12, small=6)
    patch(wordnet, "DEBIAN_FOLDER", folder / "none")


def make_inputs(folder: Path, fits: Path, config: dict[str, Any], patch: Callable[..., None]) -> None:
    """Make every input.

    Args:
        folder: Where they stand in the end.
        fits: A folder for the runs that some of them come from.
        config: Of a short run.
        patch: Sets an attribute: data modules are told of files that are smaller than theirs.
    """
    folder.mkdir(exist_ok=True)
    make_files(folder, patch)
    rows = [
        row(setup, seed, n, 0.1 * (seed + 1) / n, experiment="diagonal-overlap", overlap=overlap)
        for setup in ("STL", "PT+FT", "MTL")
        for seed in (0, 1)
        for n in (16, 64)
        for overlap in (0, 40)
    ]
    table(folder / "results.csv", rows)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    sweep = {
        "method": "grid",
        "parameters": {"model.rescale": {"values": [0.5, 1.0]}},
        "command": ["${env}", "lit-aux", "fit", "--config", str(file), "${args}"],
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    small_study(folder / "study", {"main": 0.02, "aux": -0.02})
    grid = ["--setups=[PT+FT]", "--seeds=0", "--n-main=4", "--overlap=1", "--jobs=1", "--max-steps=4"]
    main(["reproduce", "diagonal-overlap", *grid, f"--out={folder / 'solved.csv'}"])
    shutil.copytree(fit_run("diagonal", fits / "student"), folder / "run", dirs_exist_ok=True)
    main(["fit", "--config", str(file), f"--trainer.default_root_dir={fits / 'deep'}"])
    shutil.copy(next((fits / "deep").rglob("finetune.ckpt")), folder / "a.ckpt")
