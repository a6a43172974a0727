"""What a fit of students tells: rows of the results table, means by cell, a picture."""

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from lightning.pytorch import seed_everything
from toys import toy_trainer

from lit_aux.data import DiagonalTeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.experiments.fit_rows import student_rows, write_rows
from lit_aux.experiments.student_report import student_table
from lit_aux.figures import draw_students, save
from lit_aux.integrators import GradientFlow
from lit_aux.models import DiagonalNet
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseSettings
from lit_aux.phases.phased import setup_of
from lit_aux.results.means import TIMES
from lit_aux.results.selection import spelled
from lit_aux.results.sheet import Sheet

TASKS = {"main": 1, "aux": 1}


def settings(**options: Any) -> PhaseSettings:
    return PhaseSettings(integrator=GradientFlow(), max_evaluations=20, **options)


def trained(root: Path, ckpt_path: str | None = None, **options: Any) -> AuxiliaryModule:
    seed_everything(0)
    small: dict[str, Any] = {"in_features": 10, "k_aux": 2, "k_main": 2, "n_aux": 8, "n_test": 8}
    data = DiagonalTeacherDataModule([0, 1], [4, 6], [0, 2], **small)
    net, given = DiagonalNet(10, init_scale=0.3), {"finetune_settings": settings(), **options}
    model = PretrainFinetuneModule(net, TASKS, pretrain_settings=settings(test_every=None), **given)
    trainer = toy_trainer(root, max_epochs=-1, logger=False, phase_store=False)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AuxiliaryModule:
    return trained(tmp_path_factory.mktemp("runs"), rescale=[1.0, 0.5] * 4)


def printed(table: Sheet) -> str:
    return table.render("text", 120)


def row(seed: int, n_main: int, loss: float, **options: Any) -> dict[str, Any]:
    plain = {"setup": "STL", "seed": seed, "n_main": n_main, "overlap": 0, "k_main": 2, "converged": True}
    return plain | {"loss_best": loss, "loss_final": 2 * loss, "evaluations": 1500} | options


def test_the_table_holds_means_and_errors_by_cell() -> None:
    rows = [row(seed, 16, loss) for seed, loss in enumerate((1.0, 2.0, 6.0))]
    rows += [row(0, 8, 0.5, converged=False)]
    lines = [line.split() for line in printed(student_table(rows)).splitlines()]
    # losses of students span decades: the geometric mean of 1, 2, 6 is the cube root of 12, 2.289; the
    # standard error of log10 of them is .3912 / sqrt(3) = .2259, a factor of 1.68
    assert ["16", "2.29", f"{TIMES}1.68", "4.58", f"{TIMES}1.68", "3/3", "1,500"] in lines
    assert ["8", "0.5", "1", "0/1", "1,500"] in lines
    assert ["n_main", "best", "final", "converged", "gradients"] in lines  # overlap does not vary


def test_the_picture_and_the_table_have_the_same_means() -> None:
    rows = [row(0, 8, 0.01), row(1, 8, 0.04), row(0, 16, 0.5), row(0, 32, float("nan"))]
    (axes,) = draw_students(rows).axes
    ((line, _, (bars,)),) = axes.containers
    # sqrt(.01 * .04) = .02; log10 has the standard error log10(2), so that the bar is from .02 / 4 to .02 * 4
    np.testing.assert_allclose(line.get_xydata(), [[8, 0.02], [16, 0.5]])
    np.testing.assert_allclose(bars.get_segments()[0], [[8, 0.005], [8, 0.08]])
    assert "geometric mean" in axes.get_ylabel()
    assert f"8 0.02 {TIMES}2.00 0.04 {TIMES}2.00" in " ".join(printed(student_table(rows)).split())


def test_correlations_are_read_easily() -> None:
    assert [spelled("1.0|1.0"), spelled("1.0|0.5"), spelled(0.10), spelled(16)] == ["1", "1|0.5", "0.1", "16"]


def test_rows_of_a_fit(model: AuxiliaryModule, tmp_path: Path) -> None:
    files = write_rows(model, model.trainer, tmp_path)
    assert "overlap" in student_table(student_rows(model)).render("text")
    with ResultsTable(files["results"]) as table:
        rows, measures = table.rows(), table.measures()
    assert len(rows) == len({r["run"] for r in rows}) == 8
    assert {r["run"] for r in measures} == {r["run"] for r in rows}
    assert model.students is not None
    cells = model.students.data.replicas
    results = sorted(model.students.results["finetune"], key=lambda r: int(r["replica"]))
    for found, cell, result, factor in zip(rows, cells, results, [1.0, 0.5] * 4, strict=True):
        assert [int(found[axis]) for axis in cell] == list(cell.values())
        assert (found["setup"], found["experiment"]) == ("PT+FT", "diagonal")
        assert (float(found["rescale"]), float(found["loss_best"])) == (factor, result["loss_best"])
    assert sum(float(r["seconds"]) for r in rows) <= max(r["seconds"] for r in results) * 1.001
    before = Path(files["results"]).read_bytes()
    write_rows(model, model.trainer, tmp_path)
    assert Path(files["results"]).read_bytes() == before, "runs that have their row got another"


def test_a_file_of_another_kind_is_left_as_it_is(model: AuxiliaryModule, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("name,score\n")
    with pytest.raises(ConfigurationError, match="name another file"):
        write_rows(model, model.trainer, tmp_path)
    assert (tmp_path / "results.csv").read_text() == "name,score\n"


def test_runs_are_told_apart_by_all_they_depend_on(model: AuxiliaryModule, tmp_path: Path) -> None:
    names = {r["run"] for r in student_rows(model)}
    same = trained(tmp_path / "same", rescale=[1.0, 0.5] * 4)
    assert {r["run"] for r in student_rows(same)} == names
    other = trained(
        tmp_path / "other", rescale=[1.0, 0.5] * 4, finetune_settings=settings(stop_at_training_loss=1e-3)
    )
    assert not names & {r["run"] for r in student_rows(other)}


def test_a_run_that_had_ended_is_told_again(tmp_path: Path) -> None:
    first = student_rows(trained(tmp_path))
    again = student_rows(trained(tmp_path, ckpt_path="last"))
    assert [{**r, "seconds": 0} for r in again] == [{**r, "seconds": 0} for r in first]
    assert len(first) == 8


@pytest.mark.parametrize(
    ("module", "setup"),
    [
        (lambda net: SingleTaskModule(net, TASKS), "STL"),
        (lambda net: MultiTaskModule(net, TASKS), "MTL"),
        (lambda net: PretrainFinetuneModule(net, TASKS), "PT+FT"),
        (lambda net: PretrainFinetuneModule(net, TASKS, finetune="probe"), "PT+FT (LP)"),
        (lambda net: PretrainFinetuneModule(net, TASKS, finetune="probe", pretrain_tasks=[]), "STL (LP)"),
        (lambda net: PretrainFinetuneModule(net, TASKS, finetune="probe_then_full"), "PT+FT"),
        (
            lambda net: PretrainFinetuneModule(net, TASKS, finetune="probe_then_full", pretrain_tasks=[]),
            "STL",
        ),
    ],
)
def test_setups(module: Any, setup: str) -> None:
    assert setup_of(module(DiagonalNet(4))) == setup


def test_the_picture_has_a_curve_for_each_cell(tmp_path: Path) -> None:
    rows = [row(s, n, 1e-6 + s, overlap=o) for s in (0, 1) for n in (8, 16) for o in (0, 2)]
    figure = draw_students([*rows, row(0, 32, 0.1, overlap=2)])
    (axes,) = figure.axes
    assert {c.get_label() for c in axes.containers} == {"overlap 0", "overlap 2"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["overlap 0", "overlap 2"]
    assert matplotlib.image.imread(save(figure, tmp_path / "students.png")).std() > 0.02
