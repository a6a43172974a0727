"""What stands for a run: its best checkpoints and its factors, and what is said of their change."""

from math import isnan
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
from trajectory_helpers import line, small_study, write_run

from lit_aux.errors import ConfigurationError
from lit_aux.trajectories.analysis import analyse
from lit_aux.trajectories.contrast import Contrast, judge
from lit_aux.trajectories.factors import FACTORS, summarize
from lit_aux.trajectories.reading import Series, Trajectory, read_trajectories
from lit_aux.trajectories.study import Study, study_of
from lit_aux.trajectories.transfer import higher_is_better, reached, selection


def run_of(folder: Path, **measures) -> Trajectory:
    (run,), _ = read_trajectories([write_run(folder, {"a": measures})])
    return run


def study(folder: Path) -> Study:
    return study_of(read_trajectories([folder])[0])


def values(numbers) -> list[tuple[int, float]]:
    return list(enumerate(numbers))


def test_the_ten_best_on_validation(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    val, test = draw.permutation(40) / 40, draw.random(40)
    run = run_of(
        tmp_path, val_accuracy=[9.0, *val], test_accuracy=[0.0, *test]
    )  # the first is before training
    best = sorted(range(40), key=lambda epoch: val[epoch])[-10:]
    assert reached(run, "a", "accuracy", "val_accuracy") == pytest.approx(test[best].mean())
    assert reached(run, "a", "accuracy", "last") == pytest.approx(test[-10:].mean())
    run = run_of(tmp_path, val_loss=[0.0, *val], test_accuracy=[0.0, *test])
    lowest = sorted(range(40), key=lambda epoch: val[epoch])[:10]
    assert reached(run, "a", "accuracy", "val_loss") == pytest.approx(test[lowest].mean())


def test_test_examples_do_not_choose(tmp_path: Path) -> None:
    val = np.linspace(0, 1, 31)
    test = np.sin(np.arange(31))
    one = reached(run_of(tmp_path, val_accuracy=val, test_accuracy=test), "a", "accuracy", "val_accuracy")
    assert one == pytest.approx(test[-10:].mean())
    test[:21] = 100
    assert reached(
        run_of(tmp_path, val_accuracy=val, test_accuracy=test), "a", "accuracy", "val_accuracy"
    ) == pytest.approx(one)


def test_what_chooses_checkpoints(tmp_path: Path) -> None:
    runs = study(small_study(tmp_path, {"a": 0.1, "b": 0.1}))
    assert selection(runs, "accuracy", None) == "val_accuracy"
    assert selection(runs, "accuracy", "last") == "last"
    with pytest.raises(ConfigurationError, match="--select: 'val_los' is unknown"):
        selection(runs, "accuracy", "val_los")
    with pytest.raises(ConfigurationError, match=r"--select test_accuracy: .* on validation examples"):
        selection(runs, "accuracy", "test_accuracy")
    for file in tmp_path.glob("*/trajectory.csv"):
        file.write_text("\n".join(row for row in file.read_text().splitlines() if "val_" not in row) + "\n")
    found = analyse(study(tmp_path))
    assert found.select == "last"
    assert "no run has val_accuracy: the last 10 checkpoints stand for the best ones" in found.notes


def test_which_metrics_are_better_when_higher() -> None:
    assert higher_is_better("accuracy")
    assert higher_is_better("val_f1")
    assert not higher_is_better("loss")
    assert not higher_is_better("val_mae")


def test_a_run_before_training_alone_has_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no test_accuracy of 'a'"):
        reached(run_of(tmp_path, test_accuracy=[0.5]), "a", "accuracy", "last")


@pytest.mark.parametrize("count", [5, 20, 57])
def test_factors_over_training(count: int) -> None:
    numbers = np.random.default_rng(count).random(count)
    epochs = np.arange(count + 1)
    series = Series(epochs, 7 * epochs, np.array([1e9, *numbers]))  # 1e9 is before training
    assert summarize(series, "last") == pytest.approx(np.mean(numbers[-20:]))
    assert summarize(series, "largest") == pytest.approx(np.mean(sorted(numbers)[::-1][:20]))
    assert summarize(series, "mean") == pytest.approx(np.mean(numbers))
    assert summarize(series.until(0), "mean") is None


def test_two_standard_deviations_and_what_is_significant() -> None:
    single, multi = [1.0, 2.0, 3.0], [5.5, 6.5, 7.5]  # standard deviations of 1: they touch at 4
    found = Contrast(values(single), values(multi))
    assert found.change == pytest.approx(4.5)
    assert found.single.two_sd == pytest.approx(2 * stdev(single))
    assert found.significant
    assert not Contrast(values(single), values([v - 0.6 for v in multi])).significant
    assert Contrast(values(multi), values(single)).significant
    assert found.paired_two_sd == pytest.approx(0)  # every seed moved by the same
    assert isnan(Contrast([(0, 1.0), (1, 2.0)], [(2, 1.0), (3, 2.0)]).paired_two_sd)
    shuffled = Contrast(values(single), values(multi)[::-1])
    assert shuffled.paired_two_sd == pytest.approx(0)  # paired by seed, not by place
    assert not Contrast(values([1.0]), values([9.0])).significant
    assert not Contrast(values([1.0] * 3), values([1.0] * 3)).significant
    assert Contrast(values([1.0] * 3), values([1.1] * 3)).significant
    two = Contrast(values([1.0] * 2), values([1.1] * 3))
    assert not two.known
    assert not two.significant, "a star for two runs"


LOW, HIGH = [0.0, 0.1, 0.0], [1.0, 1.1, 1.0]
UP, DOWN, SAME = (LOW, HIGH), (HIGH, LOW), ([0.0, 1.0, 0.0], [0.1, 1.1, 0.1])


@pytest.mark.parametrize(
    ("change", "moved", "sign", "expected"),
    [
        (UP, UP, 1, "explains"),
        (UP, UP, -1, "contradicts"),
        (UP, DOWN, -1, "explains"),
        (DOWN, UP, -1, "explains"),
        (DOWN, DOWN, -1, "contradicts"),
        (SAME, UP, 1, "insignificant"),
        (UP, SAME, 1, "insignificant"),
    ],
)
def test_verdicts(change, moved, sign: int, expected: str) -> None:
    change, moved = (Contrast(*map(values, pair)) for pair in (change, moved))
    assert judge(change, moved, sign, higher=True) == expected
    opposite = {"explains": "contradicts", "contradicts": "explains"}.get(expected, expected)
    assert judge(change, moved, sign, higher=False) == opposite
    assert judge(change, moved, -sign, higher=True) == opposite


def test_the_signs_are_those_that_were_claimed() -> None:
    claimed = {factor.measure: (factor.sign, factor.summary) for factor in FACTORS}
    assert claimed == {
        "sharpness": (-1, "last"),
        "gradient_variance": (-1, "last"),
        "gradient_norm": (0, "last"),
        "fisher_trace": (-1, "largest"),
        "conflict": (1, "mean"),
    }


def test_a_whole_study_with_known_answers(tmp_path: Path) -> None:
    factors = {"sharpness": (1.0, 2.0), "conflict": (0.9, 0.5), "fisher_trace": (3.0, 3.0)}
    shifts = {"up": 0.1, "down": -0.1, "same": 0.0}
    found = analyse(study(small_study(tmp_path, shifts, factors=factors, epochs=30)))
    losses = np.geomspace(2.0, 0.02, 31)[-10:]
    for result in found.results:
        shift = shifts[result.task]
        assert result.transfer.single.mean == pytest.approx(line(0)(np.log10(losses)).mean())
        assert result.transfer.change == pytest.approx(shift)
        assert result.transfer.single.two_sd == pytest.approx(0.02)
        assert result.gap_mean is not None
        assert result.gap_mean.change == pytest.approx(shift)
        assert result.factors["sharpness"].change == pytest.approx(1)
        assert result.factors["conflict"].change == pytest.approx(-0.4)
    assert {result.task: dict(result.verdicts) for result in found.results} == {
        "up": {"sharpness": "contradicts", "fisher_trace": "insignificant", "conflict": "contradicts"},
        "down": {"sharpness": "explains", "fisher_trace": "insignificant", "conflict": "explains"},
        "same": dict.fromkeys(("sharpness", "fisher_trace", "conflict"), "insignificant"),
    }
    assert "not measured in both kinds of runs: GradientCoherence (callbacks)" in found.notes


def test_a_task_without_a_common_loss_is_said_to_be_so(tmp_path: Path) -> None:
    small_study(tmp_path, {"a": 0.1, "b": 0.1})
    for file in tmp_path.glob("stl-a-*/trajectory.csv"):
        head, *rows = (row.split(",") for row in file.read_text().splitlines())
        for row in rows:
            if row[-2] == "train_loss":
                row[-1] = str(float(row[-1]) * 1000)
        file.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    found = analyse(study(tmp_path))
    assert {result.task: result.gap is None for result in found.results} == {"a": True, "b": False}
    (note,) = [note for note in found.notes if "no training loss that all runs pass through" in note]
    assert note.startswith("MTL, a: ")
    assert "a single 1.36e+03 to 20, a multi 1.36 to 0.02" in note


def test_a_factor_that_only_some_runs_measured(tmp_path: Path) -> None:
    small_study(tmp_path, {"a": 0.1, "b": 0.1}, methods=("MTL", "MGDA"), factors={"sharpness": (1.0, 2.0)})
    for name in ("stl-a-2", "stl-b-0", "stl-b-1", "stl-b-2"):
        file = tmp_path / name / "trajectory.csv"
        file.write_text("\n".join(r for r in file.read_text().splitlines() if "sharpness" not in r) + "\n")
    found = analyse(study(tmp_path))
    assert {(r.method, r.task) for r in found.results if r.factors} == {("MTL", "a"), ("MGDA", "a")}
    assert found.results[0].factors["sharpness"].single.seeds == 2
    assert found.notes.count("sharpness of a was measured in 2 of 3 single-task runs") == 1
    assert any("sharpness was not measured in both kinds of runs for 2 of 4" in note for note in found.notes)
