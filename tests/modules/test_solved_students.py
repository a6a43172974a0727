"""Students that are solved instead of trained: the same phases, tables and callbacks, and the flow's end."""

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from toys import toy_trainer

from lit_aux.callbacks import StudentNorms
from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.functional import gradient_descent_probe, gradient_flow_limit
from lit_aux.integrators import Exact, GradientDescent, GradientFlow, Integrator
from lit_aux.models import DiagonalNet, ReLUNet
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseCheckpoint, PhaseSettings

D = 30
TASKS = {"main": 1, "aux": 1}


def data_of(**options: Any) -> DiagonalTeacherDataModule:
    chosen = {"seed": [0, 1], "n_main": [8, 20], "overlap": [0, 4], "k_main": 4, "k_aux": 4} | options
    return DiagonalTeacherDataModule(n_aux=60, n_test=50, in_features=D, **chosen)


def settings(integrator: Integrator | str, **options: Any) -> PhaseSettings:
    return PhaseSettings(integrator=integrator, stop_at_training_loss=1e-12, **options)


def ptft(integrator: Integrator | str, **options: Any) -> PretrainFinetuneModule:
    common = {"readout": "reset", "rescale": 0.5, "rescale_preset": "backbone"}
    own = options.pop("finetune_settings", None) or settings(integrator)
    return PretrainFinetuneModule(
        DiagonalNet(D, init_scale=0.05),
        TASKS,
        pretrain_settings=settings(integrator),
        finetune_settings=own,
        **(common | options),
    )


def fit(module: AuxiliaryModule, root: Path, data: Any = None, *callbacks: Callback, **options: Any) -> Any:
    torch.set_num_threads(1)
    seed_everything(0)
    data = data or data_of()
    trainer = toy_trainer(root, callbacks=list(callbacks), max_epochs=-1, phase_store=False)
    trainer.fit(module, datamodule=data, **options)
    assert module.students is not None
    rows = sorted(module.students.results[module.phases[-1].name], key=lambda row: int(row["replica"]))
    return data, module.students.net, rows


def pathways(net: Any, replica: int, task: str) -> dict[str, torch.Tensor]:
    place = net.task_slice(task).start
    return {
        "w_plus": net.first["plus"][replica].detach(),
        "w_minus": net.first["minus"][replica].detach(),
        "v_plus": net.readout["plus"][replica, place].detach(),
        "v_minus": net.readout["minus"][replica, place].detach(),
    }


def test_finetuning_ends_where_the_solution_says(tmp_path: Path) -> None:
    data, net, rows = fit(ptft("exact"), tmp_path, None, StudentNorms())
    fresh = torch.full((D,), 0.05, dtype=torch.float64)
    start = {name: fresh for name in ("w_plus", "v_plus", "w_minus", "v_minus")}
    assert [row["replica"] for row in rows] == list(range(8))
    for row in rows:
        replica = row["replica"]
        x, y = data.train_set(replica, "aux")
        before = gradient_flow_limit(x, y[:, 0], start).weights
        halved = {name: before[name] / 2 if name[0] == "w" else fresh for name in before}
        x, y = data.train_set(replica, "main")
        expected = gradient_flow_limit(x, y[:, 0], halved)
        found = net.coefficients("main")[replica, 0].detach()
        assert torch.allclose(found, expected.beta, rtol=0, atol=1e-11)
        x, y = data.test_set(replica, "main")
        test_loss = float((x @ expected.beta - y[:, 0]).square().mean())
        assert row["solver"] == "exact"
        assert row["converged"]
        assert row["loss_final"] == row["loss_best"] == pytest.approx(test_loss, rel=1e-8)
        assert row["train_loss"] < 1e-20
        assert row["steps"] == 0
        assert row["time"] == inf


@pytest.mark.parametrize("integrator", [GradientFlow(1e-4), GradientDescent(0.02)], ids=["flow", "descent"])
def test_trained_students_end_there_too(integrator: Integrator, tmp_path: Path) -> None:
    data = data_of(seed=0, n_main=8)
    _, solved, _ = fit(ptft("exact"), tmp_path / "solved", data)
    module = ptft("exact", finetune_settings=PhaseSettings(integrator=integrator, stop_at_training_loss=1e-8))
    _, trained, rows = fit(module, tmp_path / "trained", data)
    assert all(row["converged"] for row in rows)
    exact, found = (net.coefficients("main")[:, 0].detach() for net in (solved, trained))
    gap = (exact - found).norm(dim=1) / exact.norm(dim=1)
    assert float(gap.max()) < 5e-3
    assert float(gap.max()) > 0  # they are not the same computation


@pytest.mark.parametrize("lr", [None, 0.05])
def test_probes_end_at_the_clock(lr: float | None, tmp_path: Path) -> None:
    own = settings(Exact(lr), max_flow_time=40.0, test_every=5, test_unit=0.05, test_thinning=1.0)
    module = ptft("exact", finetune="probe", finetune_settings=own)
    data, net, rows = fit(module, tmp_path)
    for row in rows:
        replica, end = row["replica"], pathways(net, row["replica"], "main")
        start = {**end, "v_plus": torch.full((D,), 0.05).double(), "v_minus": torch.full((D,), 0.05).double()}
        x, y = data.train_set(replica, "main")
        u, v = data.test_set(replica, "main")
        best = inf
        for k in [*range(1, 801, 5), 800]:
            path = gradient_descent_probe(x, y[:, 0], start, 0.05, k)
            best = min(best, float((u @ path.beta - v[:, 0]).square().mean()))
        tolerance = 1e-7 if lr else 1e-2  # of the flow, steps of .05 are an approximation
        assert row["loss_best"] == pytest.approx(best, rel=tolerance)
        assert row["train_loss"] == pytest.approx(float(path.loss), rel=tolerance)
        assert row["steps"] == (800 if lr else 0)
        assert row["time"] == pytest.approx(40)
        assert not row["converged"]


def test_probes_end_at_the_threshold(tmp_path: Path) -> None:
    """At the first step whose loss is below it, as descent itself."""
    kinds: tuple[Integrator, ...] = (Exact(0.05), GradientDescent(0.05))
    found = []
    for number, integrator in enumerate(kinds):
        own = PhaseSettings(integrator=integrator, stop_at_training_loss=0.02, max_evaluations=20_000)
        module = ptft("exact", finetune="probe", finetune_settings=own)
        found.append(fit(module, tmp_path / str(number), data_of(seed=0))[2])
    solved, trained = found
    assert [row["steps"] for row in solved] == [row["steps"] for row in trained]
    assert max(row["steps"] for row in solved) > 20
    for one, other in zip(solved, trained, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
        assert one["loss_best"] == pytest.approx(other["loss_best"], rel=1e-6)
        assert one["converged"]
        assert other["converged"]


def test_flow_probes_end_at_the_threshold(tmp_path: Path) -> None:
    own = PhaseSettings(integrator=Exact(), stop_at_training_loss=0.02, test_every=None)
    _, _, rows = fit(ptft("exact", finetune="probe", finetune_settings=own), tmp_path)
    for row in rows:
        assert row["train_loss"] == pytest.approx(0.02, rel=1e-6)
        assert row["train_loss"] < 0.02


class Interrupt(Callback):
    """Ends the fit after a block of finetuning."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == "finetune":
            raise ZeroDivisionError


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    def module() -> PretrainFinetuneModule:
        return ptft("exact", finetune_settings=settings("exact", block=20))  # two replicas a block

    whole = fit(module(), tmp_path / "whole")[1].coefficients()
    with pytest.raises(ZeroDivisionError):
        fit(module(), tmp_path / "cut", None, PhaseCheckpoint(budget=1.0), Interrupt())
    _, net, rows = fit(module(), tmp_path / "cut", None, PhaseCheckpoint(budget=1.0), ckpt_path="last")
    assert torch.equal(net.coefficients(), whole)
    assert len(rows) == 8


def test_replicas_do_not_meet(tmp_path: Path) -> None:
    _, together, _ = fit(
        SingleTaskModule(DiagonalNet(D), TASKS, settings=settings("exact")), tmp_path / "all"
    )
    for replica, cell in enumerate(data_of().replicas):
        if replica % 3:
            continue
        data = data_of(**{name: cell[name] for name in ("seed", "n_main", "overlap")})
        _, alone, _ = fit(
            SingleTaskModule(DiagonalNet(D), TASKS, settings=settings("exact")), tmp_path / str(replica), data
        )
        a, b = together.coefficients("main")[replica], alone.coefficients("main")[0]
        assert np.allclose(a.detach(), b.detach(), rtol=0, atol=1e-10)


def test_what_cannot_be_solved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"one output at a time.*trains 2 \(main, aux\)"):
        fit(MultiTaskModule(DiagonalNet(D), TASKS, settings=settings("exact")), tmp_path)
    data = ReLUTeacherDataModule(0, 8, n_aux=12, in_features=D, k_aux=3, k_main=3, correlation="1|1|1")
    with pytest.raises(ConfigurationError, match="not a ReLUNet"):
        fit(SingleTaskModule(ReLUNet(D, hidden=8), TASKS, settings=settings("exact")), tmp_path, data)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="lr: -1"):
        Exact(-1)
    probe = settings(Exact(1e4), max_flow_time=1e6)
    with pytest.raises(ConfigurationError, match="descent diverges at 10000; it must be below"):
        fit(ptft("exact", finetune="probe", finetune_settings=probe), tmp_path)


def test_noise_that_no_coefficients_fit_is_refused(tmp_path: Path) -> None:
    class Noisy(DiagonalTeacherDataModule):
        def apply_teacher(self, replica: int, task: str, x: torch.Tensor) -> torch.Tensor:
            y = super().apply_teacher(replica, task, x)
            noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
            return y + 0.1 * noise

    data = Noisy(0, 8, 4, 4, k_aux=4, n_aux=60, n_test=50, in_features=D)
    with pytest.raises(ConfigurationError, match="exact has no interpolating limit"):
        fit(ptft("exact"), tmp_path, data)


def test_a_network_keeps_the_weights_that_it_was_given(tmp_path: Path) -> None:
    data = data_of(n_main=8)
    net = DiagonalNet(D, TASKS, seeds=[cell["seed"] for cell in data.replicas])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator, dtype=torch.float64))
    start = [pathways(net, replica, "main") for replica in range(net.replicas)]
    start = [{name: value.clone() for name, value in one.items()} for one in start]
    _, found, _ = fit(SingleTaskModule(net, TASKS, settings=settings("exact")), tmp_path, data)
    for replica, weights in enumerate(start):
        x, y = data.train_set(replica, "main")
        expected = gradient_flow_limit(x, y[:, 0], weights).beta
        assert torch.allclose(found.coefficients("main")[replica, 0], expected, rtol=0, atol=1e-11)
