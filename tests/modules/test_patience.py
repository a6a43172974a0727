"""When a replica is given up that no longer improves on the test set, and when that is looked at."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_students_fit import data_of
from torch import Tensor
from toys import toy_trainer

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import Exact, GradientDescent, GradientFlow, Step
from lit_aux.models import ReLUNet
from lit_aux.modules import MultiTaskModule
from lit_aux.modules.student_phase import BestTestLoss, StudentPhase
from lit_aux.phases import Phase, PhaseSettings, identity


class Told:
    """The test loss of replica r at look i is entry i of its list; parameters hold r and the epoch."""

    def __init__(self, losses: Sequence[Sequence[float]], every: int) -> None:
        self.losses, self.every = losses, every

    def value(self, theta: Tensor) -> Tensor:
        pairs = [(int(r), (int(epoch) - 1) // self.every) for r, epoch in theta.tolist()]
        return torch.tensor([self.losses[r][look] for r, look in pairs], dtype=torch.float64)

    def select(self, keep: Tensor) -> "Told":
        return self


def end_by_the_rule(losses: Sequence[float], every: int, patience: int) -> int | None:
    """The epoch after which it is over, look by look from the words of the rule."""
    lowest, since = losses[0], 1
    for look, loss in enumerate(losses):
        epoch = 1 + every * look
        if loss < lowest - lowest / 200:
            lowest, since = loss, epoch
        without = epoch - since
        if without >= since and without >= patience:
            return epoch
    return None


CURVES: dict[str, list[float]] = {
    "early": [1.0, 0.5, *[0.6] * 40],
    "late": [*np.linspace(1, 0.1, 12), *[0.2] * 40],
    "creeping": [0.999**i for i in range(60)],  # five looks together are an improvement
    "noise": [1.0, *[0.996, 1.0] * 30],
    "to the end": [0.9**i for i in range(60)],
    "again": [1.0, *[0.9] * 3, *[0.5] * 20, *[0.1] * 30],
}


@pytest.mark.parametrize("patience", [1, 30, 100])
@pytest.mark.parametrize("curve", CURVES)
def test_it_is_tired_when_the_rule_says(curve: str, patience: int) -> None:
    every, lr = 10, 0.3
    losses = CURVES[curve]
    best = BestTestLoss(Told([losses], every), 1, lr, lr * every, 1.0, patience)
    found = None
    for epoch in range(1, 10 * len(losses) - 8):
        theta = torch.tensor([[0.0, float(epoch)]], dtype=torch.float64)
        times = np.array([lr * (epoch - 1)]), np.array([lr * epoch])
        best.observe(Step(np.array([0]), *times, theta, theta))
        if best.tired(np.array([0]))[0]:
            found = epoch
            break
    assert found == end_by_the_rule(losses, every, patience)
    assert best.best[0] == min(losses[: None if found is None else (found - 1) // every + 1])


def test_who_begins_anew_has_its_patience_again() -> None:
    best = BestTestLoss(Told([[1.0] * 90], 1), 1, 0.5, 0.5, 1.0, 5)

    def pass_epochs(number: int, lr: float) -> list[bool]:
        tired = []
        for epoch in range(1, number + 1):
            theta = torch.tensor([[0.0, float(epoch)]], dtype=torch.float64)
            best.observe(Step(np.array([0]), np.array([0.0]), np.array([epoch * lr]), theta, theta))
            tired.append(bool(best.tired(np.array([0]))[0]))
        return tired

    assert pass_epochs(7, 0.5) == [False] * 5 + [True] * 2
    best.restart(np.array([0]))
    assert pass_epochs(7, 0.05) == [False] * 5 + [True] * 2


# In a phase


def phase_of(patience: int | None, batch_size: int | None, **options: Any) -> Phase:
    descent = GradientDescent(0.02, batch_size=batch_size)
    given = {"max_evaluations": 400, "test_every": 10} | options
    return Phase(name="train", tasks=["aux", "main"], integrator=descent, patience=patience, **given)


def students(phase: Phase) -> StudentPhase:
    data = data_of("relu", [9, 10], [0, 3])
    seeds = [int(cell["seed"]) for cell in data.replicas]
    net = ReLUNet(6, {"aux": 1, "main": 1}, hidden=12, init_scale=1.0, seeds=seeds)
    return StudentPhase(net, data, phase, list(net.weights()))


class Looking(BestTestLoss):
    """Keeps when it looked at what."""

    looks: list[tuple[float, float]]

    def test(self, replicas: NDArray[np.int64] | Sequence[int], theta: Tensor) -> NDArray[np.float64]:
        losses = super().test(replicas, theta)
        if 0 in replicas:
            self.looks.append((float(self.next_time(np.array([0]))[0]), float(losses[0])))
        return losses


@pytest.mark.parametrize("batch_size", [None, 7])  # 36 rows: six batches
def test_a_phase_ends_by_the_rule(batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_aux.modules.student_phase.BestTestLoss", Looking)
    monkeypatch.setattr(Looking, "looks", [], raising=False)
    batches = 1 if batch_size is None else 6
    whole = students(phase_of(None, batch_size, max_evaluations=400 * batches))
    whole.advance(10**6)
    looks = Looking.looks[:-1]  # without the end
    np.testing.assert_allclose([when / 0.02 for when, _ in looks], batches * (1 + 10 * np.arange(40)))
    expected = end_by_the_rule([loss for _, loss in looks], 10, 50)
    assert expected is not None
    assert 60 < expected < 390
    ends = []
    for block in (10**6, 137):
        run = students(phase_of(50, batch_size, max_evaluations=400 * batches))
        while not run.finished:
            saved = run.state_dict()
            run = students(run.phase)
            run.load_state_dict(saved)
            run.advance(block)
        assert run.state is not None
        assert run.state.counts.accepted[0] == expected * batches
        assert not run.state.counts.converged.any()
        ends.append(run.results())
        for row in ends[-1]:
            row.pop("seconds")
    assert str(ends[0]) == str(ends[1])  # NaN of the curvature included
    best = min(loss for _, loss in looks[: (expected - 1) // 10 + 1])
    assert ends[0][0]["loss_best"] == pytest.approx(best, rel=1e-12)


def test_the_reason_says_how_many(tmp_path: Path) -> None:
    data = data_of("relu", [0, 1], [0, 3])
    settings = PhaseSettings(
        integrator=GradientDescent(0.02), stop_at_training_loss=0.02, patience=40, test_every=20, block=500
    )
    net = ReLUNet(6, hidden=12, init_scale=1.0)
    module = MultiTaskModule(net, data.num_classes, settings=settings)
    trainer = toy_trainer(tmp_path, max_epochs=-1, phase_store=False)
    trainer.fit(module, datamodule=data)
    assert module.students is not None
    rows = next(iter(module.students.results.values()))
    converged = sum(row["converged"] for row in rows)
    assert converged < len(rows) == 4
    assert module.stop_reason == (f"{converged} of 4 replicas converged, {4 - converged} no longer improved")


# As an option


@pytest.mark.parametrize("options", [{}, {"integrator": GradientFlow()}, {"integrator": Exact()}])
def test_only_descent_has_patience(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^patience: 5 .*gradient_descent$"):
        PhaseSettings(patience=5, **options)


def test_it_needs_looks() -> None:
    with pytest.raises(ConfigurationError, match=r"^patience: 5 needs test_every"):
        PhaseSettings(patience=5, integrator="gradient_descent", test_every=None)
    with pytest.raises(ConfigurationError, match="patience: 0"):
        PhaseSettings(patience=0, integrator="gradient_descent")
    PhaseSettings(patience=5, optimizer=partial(torch.optim.SGD, lr=0.1))


@pytest.mark.parametrize("patience", [None, 7])
def test_a_phase_without_it_is_the_same_as_ever(patience: int | None) -> None:
    encoder = identity.Encoder()
    identity._add_phase(encoder, phase_of(patience, 7))
    assert ("phase train.patience" in encoder.tree) == (patience is not None)
    assert "phase train.test_thinning" in encoder.tree
