"""The pictures of ``lit-aux trajectories``, read back from what was drawn."""

from pathlib import Path

import numpy as np
import pytest
from trajectory_helpers import line, small_study

from lit_aux.cli import main

FACTORS = {"sharpness": (1.0, 2.0), "fisher_trace": (1.0, 100.0)}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return a list that fills with the figures that are saved; the files have nothing in them."""
    kept: list = []

    def keep(figure: object, path: Path) -> Path:
        kept.append(figure)
        path.touch()
        return path

    monkeypatch.setattr("lit_aux.drawing.style.save", keep)
    return kept


def curves(axes) -> dict[str, np.ndarray]:
    return {drawn.get_label(): drawn.get_xydata() for drawn in axes.lines if drawn.get_label()[0] != "_"}


def test_pictures_show_what_was_measured(
    tmp_path: Path, figures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path / "runs", {"up": 0.1, "same": 0.0}, factors=FACTORS)
    assert main(["trajectories", "runs", "--format", "svg"]) == 0
    named = [row.split()[1] for row in capsys.readouterr().out.splitlines() if row.startswith("picture: ")]
    assert named == [f"trajectories/{name}.svg" for name in ("gap", "sharpness", "fisher_trace", "change")]
    assert all(Path(name).is_file() for name in named)
    gap, sharpness, fisher, change = figures

    up, same = gap.axes
    assert [axes.get_title("left") for axes in gap.axes] == ["up", "same"]
    ends = [2 * 0.01 ** (1 / 12), 0.02]  # from the first checkpoint on
    for name, shift in (("single-task", 0.0), ("MTL", 0.1)):
        loss, accuracy = curves(up)[name].T
        assert (loss[0], loss[-1]) == pytest.approx(ends)
        np.testing.assert_allclose(accuracy, line(shift)(np.log10(loss)), rtol=1e-9)
    assert up.get_xscale() == "log"
    assert up.get_xlim()[0] > up.get_xlim()[1]  # losses fall to the right
    assert curves(up)["clear MTL"][:, 0] == pytest.approx(ends)  # significant throughout
    assert "clear MTL" not in curves(same)
    band = up.collections[0].get_paths()[0].vertices
    at_one = band[np.isclose(band[:, 0], 0.02)][:, 1]
    assert np.ptp(at_one) == pytest.approx(0.04)  # two standard deviations of .01 to either side

    epochs, values = curves(sharpness.axes[0])["MTL"].T
    assert epochs.tolist() == list(range(13))
    np.testing.assert_allclose(values, 2.0)
    assert sharpness.axes[0].get_yscale() == "linear"
    assert fisher.axes[0].get_yscale() == "log"
    np.testing.assert_allclose(curves(fisher.axes[0])["MTL"][:, 1], np.exp(np.log([99, 100, 101]).mean()))

    points = {
        (axes.get_title("left"), container.get_label()): container.lines[0].get_xydata()[0].tolist()
        for axes in change.axes
        for container in axes.containers
    }
    assert points["sharpness", "MTL up"] == pytest.approx([1.0, 0.1])
    assert points["fisher trace".replace("f", "F", 1), "MTL same"] == pytest.approx([99, 0.0], abs=1e-12)
    filled = {c.get_label(): c.lines[0].get_markerfacecolor() != "white" for c in change.axes[0].containers}
    assert filled == {"MTL up": True, "MTL same": False}


def test_panels_of_many_tasks_and_methods_do_not_touch(
    tmp_path: Path, figures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    shifts = {f"a task with a long name {number}": 0.01 * number for number in range(7)}
    small_study(
        tmp_path / "runs", shifts, methods=("MTL", "PCGrad"), factors={"conflict": (0.9, 0.5)}, epochs=4
    )
    assert main(["trajectories", "runs", "--format", "svg"]) == 0
    for figure in figures:
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        width, height = figure.canvas.get_width_height()
        panels = [axes for axes in figure.axes if axes.axison]
        boxes = [axes.get_window_extent(renderer) for axes in panels]
        key = figure.legends[0].get_window_extent(renderer)
        assert all(not key.overlaps(axes.get_tightbbox(renderer)) for axes in panels)
        assert all(not one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
        assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert len(figures[0].axes) == 8  # one of them empty
    numbers = {text.get_text() for text in figures[-1].axes[0].texts}
    assert numbers == {str(number) for number in range(1, 8)}


def test_one_run_of_each_has_no_bands(
    tmp_path: Path, figures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1})
    for folder in (tmp_path / "runs").glob("*-[12]"):
        (folder / "trajectory.csv").unlink()
    assert main(["trajectories", "runs", "--format", "svg"]) == 0
    assert "one run only" in capsys.readouterr().out
    (gap,) = figures
    assert not gap.axes[0].collections
    assert gap.legends[0].get_title().get_text() == "One run of each"


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_pictures_are_files_of_their_format(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path / "runs", {"a": 0.1, "b": 0.1}, epochs=3)
    assert main(["trajectories", "runs", "--format", kind]) == 0
    content = Path(f"trajectories/gap.{kind}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])
    assert not list(Path("trajectories").glob(".*"))
