"""Files of runs as trajectories, and which runs make a study."""

from pathlib import Path

import numpy as np
import pytest
from trajectory_helpers import STEPS, small_study, write_run

from lit_aux.errors import ConfigurationError
from lit_aux.trajectories.reading import read_trajectories, trajectory_files
from lit_aux.trajectories.study import study_of


def test_a_run_as_it_was_written(tmp_path: Path) -> None:
    tasks = {"a": {"train_loss": [2.0, 1.0]}, "b": {"train_loss": [3.0, 4.0], "sharpness": [0.5]}}
    file = write_run(tmp_path, tasks, method="PCGrad", seed=3, first={"sharpness": 1})
    (run,), notes = read_trajectories([file])
    assert notes == []
    assert (run.method, run.seed, run.trained, run.phase, run.single) == (
        "PCGrad",
        3,
        ("a", "b"),
        "train",
        False,
    )
    assert run.tasks == ("a", "b")
    assert set(run.series) == {("a", "train_loss"), ("b", "train_loss"), ("b", "sharpness")}
    assert run.series["b", "train_loss"].value.tolist() == [3.0, 4.0]
    sharpness = run.series["b", "sharpness"]
    assert (sharpness.epoch.tolist(), sharpness.step.tolist()) == ([1], [STEPS])
    assert run.last_step == STEPS


def test_files_are_found_in_folders_and_taken_once(tmp_path: Path) -> None:
    one = write_run(tmp_path / "deep" / "er", {"a": {"train_loss": [1]}})
    two = write_run(tmp_path / "other", {"a": {"train_loss": [1]}})
    assert trajectory_files([tmp_path, one, two.parent]) == [one, two]


def test_the_last_phase_counts_unless_another_is_named(tmp_path: Path) -> None:
    before = [("pretrain", 0, 0, "a", "train_loss", 9.0), ("pretrain", 1, 5, "a", "train_loss", 8.0)]
    file = write_run(tmp_path, {"a": {"train_loss": [2.0, 1.0]}}, phase="finetune", before=before)
    assert read_trajectories([file])[0][0].series["a", "train_loss"].value.tolist() == [2.0, 1.0]
    (run,), _ = read_trajectories([file], "pretrain")
    assert run.series["a", "train_loss"].value.tolist() == [9.0, 8.0]
    with pytest.raises(ConfigurationError, match=r"--phase: 'pretrian' is unknown; did you mean 'pretrain'"):
        read_trajectories([file], "pretrian")


def test_values_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    file = write_run(tmp_path, {"a": {"train_loss": [2.0, float("nan"), 1.0, float("inf")]}})
    (run,), notes = read_trajectories([file])
    assert run.series["a", "train_loss"].value.tolist() == [2.0, 1.0]
    assert notes == [f"{file}: 2 values are not finite and left out (train_loss)"]


def test_rows_in_any_order_and_the_later_of_two(tmp_path: Path) -> None:
    file = write_run(tmp_path, {"a": {"train_loss": [3.0, 2.0, 1.0]}})
    header, *rows = file.read_text().splitlines()
    again = rows[1].replace("2.0", "2.5")
    file.write_text("\n".join([header, *rows[::-1], again]) + "\n")
    (run,), _ = read_trajectories([file])
    assert run.series["a", "train_loss"].value.tolist() == [3.0, 2.5, 1.0]
    assert run.series["a", "train_loss"].epoch.tolist() == [0, 1, 2]


def test_a_study_is_sorted_whatever_the_order_of_its_runs(tmp_path: Path) -> None:
    small_study(tmp_path, {"b": 0.1, "a": 0.0}, methods=("PCGrad", "MTL", "MGDA"))
    runs, _ = read_trajectories([tmp_path])
    study = study_of(runs)
    assert study.tasks == ("b", "a")  # as the runs have them
    assert list(study.multi) == ["MTL", "MGDA", "PCGrad"]
    assert {task: [run.seed for run in members] for task, members in study.single.items()} == {
        "b": [0, 1, 2],
        "a": [0, 1, 2],
    }
    mixed = [runs[i] for i in np.random.default_rng(0).permutation(len(runs))]
    other = study_of(mixed)
    assert [run.path for run in other.runs] == [run.path for run in study.runs]
    assert (other.tasks, list(other.multi), other.notes) == (study.tasks, list(study.multi), ())


def test_runs_that_were_cut_short_are_named_and_all_are_cut(tmp_path: Path) -> None:
    values = {"train_loss": np.geomspace(2, 0.1, 9)}
    for seed in (0, 1):
        write_run(tmp_path / f"s{seed}", {"a": values}, seed=seed)
        write_run(tmp_path / f"t{seed}", {"b": values}, seed=seed)
        write_run(tmp_path / f"m{seed}", {"a": values, "b": values}, method="MTL", seed=seed)
    short = write_run(tmp_path / "s1", {"a": {"train_loss": values["train_loss"][:6]}}, seed=1)
    study = study_of(read_trajectories([tmp_path])[0])
    assert {run.last_step for run in study.runs} == {5 * STEPS}
    (note,) = study.notes
    assert f"1 of 6 runs took fewer than {8 * STEPS} steps: {short} ({5 * STEPS})" in note


def test_seeds_that_are_missing_are_named(tmp_path: Path) -> None:
    small_study(tmp_path, {"a": 0.0, "b": 0.0})
    (tmp_path / "stl-a-2" / "trajectory.csv").unlink()
    study = study_of(read_trajectories([tmp_path])[0])
    assert study.notes == ("single-task a has no run of seed 2; its mean is over 2",)


def test_runs_without_a_seed_count_one_by_one(tmp_path: Path) -> None:
    values = {"train_loss": [1.0, 0.5]}
    for number in (0, 1):
        write_run(tmp_path / f"s{number}", {"a": values}, seed="")
        write_run(tmp_path / f"t{number}", {"b": values}, seed="")
        write_run(tmp_path / f"m{number}", {"a": values, "b": values}, method="MTL", seed="")
    study = study_of(read_trajectories([tmp_path])[0])
    assert len(study.single["a"]) == len(study.multi["MTL"]) == 2
    assert study.notes == ("6 runs say no seed; each counts as one of its own",)


def test_several_task_sets_of_a_method_are_told_apart(tmp_path: Path) -> None:
    values = {"train_loss": [1.0, 0.5]}
    write_run(tmp_path / "s", {"a": values})
    for other in ("b", "c"):
        write_run(tmp_path / other, {"a": values, other: values}, method="MTL")
    study = study_of(read_trajectories([tmp_path])[0], ["a"])
    assert list(study.multi) == ["MTL (a|b)", "MTL (a|c)"]
    assert study.tasks == ("a",)
