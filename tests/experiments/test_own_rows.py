"""Fits of a teacher of one's own, and of a network of one's own: rows, measures, and who shares a run."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from toys import toy_trainer

from lit_aux import PhaseSettings, report
from lit_aux.cli import main
from lit_aux.data import OwnTeacherDataModule, ReLUTeacher, ReLUTeacherDataModule
from lit_aux.experiments.fit_rows import found_rows
from lit_aux.integrators import GradientDescent, GradientFlow
from lit_aux.models import DiagonalNet, Problems, ReLUNet, StudentNet
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.runs.table import COLUMNS
from lit_aux.runs.typed import Row


class Rotated(OwnTeacherDataModule):
    """Linear teachers, the main one turned away from the auxiliary one."""

    def __init__(self, rotation: float | list[float] = 0.0, noise: float = 0.0, **kwargs: Any) -> None:
        small = {"seed": [0, 1], "n_main": 4, "in_features": 6, "n_aux": 8, "n_test": 10}
        super().__init__(rotation=rotation, noise=noise, **{**small, **kwargs})

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
        shared, fresh = torch.randn(2, self.in_features, generator=generator)
        if task == "aux":
            return shared
        angle = options["rotation"] * math.pi / 2
        return math.cos(angle) * shared + math.sin(angle) * fresh

    def training_targets(
        self, task: str, targets: Tensor, options: Mapping[str, Any], generator: torch.Generator
    ) -> Tensor:
        return targets + options["noise"] * torch.randn(targets.shape, generator=generator)


class Shared(OwnTeacherDataModule):
    """ReLU teachers that share some units; its options are columns of the results table."""

    def __init__(
        self, overlap: int | list[int] = 1, kind_of_unit: str = "relu", k_main: int = 2, **kwargs: Any
    ):
        small = {"seed": 0, "n_main": 4, "in_features": 6, "n_aux": 8, "n_test": 10}
        names: dict[str, Any] = {"overlap": overlap, "kind_of_unit": kind_of_unit, "k_main": k_main}
        super().__init__(**names, **{**small, **kwargs})

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
        first = 0 if task == "aux" else options["k_main"] - options["overlap"]
        return ReLUTeacher(torch.eye(6)[first : first + options["k_main"]], torch.ones(options["k_main"]))


class Attribute(Rotated):
    """Keeps an option and something else as attributes."""

    def __init__(self, rotation: float | list[float] = 0.0, power: int = 1, **kwargs: Any) -> None:
        super().__init__(rotation=rotation, power=power, **kwargs)
        self.rotation, self.extra = rotation, 3


class TanhNet(StudentNet):
    """A small network of one's own: tanh units, of which some are left out."""

    def __init__(self, in_features: int = 6, *args: Any, units: int = 5, gain: float = 1.0, **kwargs: Any):
        self.number, self.gain = units, gain
        super().__init__(in_features, *args, **kwargs)

    def _drawn(self, *shape: int) -> nn.Parameter:
        drawn = [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=self.dtype)
            for seed in self.seeds
        ]
        return nn.Parameter(torch.stack(drawn) * self.scales.to(self.dtype)[:, None, None])

    def _draw(self) -> None:
        self.first["weight"] = self._drawn(self.number, self.in_features)
        self.readout["weight"] = self._drawn(self.outputs, self.number)

    @torch.no_grad()
    def reset_readout(self, scale: float | Sequence[float] = 1.0, tasks: Iterable[str] | None = None) -> None:
        drawn = self._drawn(self.outputs, self.number) * self.factors(scale)[:, None, None]
        for task in tasks or self.tasks:
            where = self.task_slice(task)
            self.readout["weight"][:, where] = drawn[:, where].to(self.dtype)

    def _outputs(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.gain * x.to(self.dtype) @ self.first["weight"].transpose(1, 2))
        self._show(lambda replica: hidden[replica])
        found: Tensor = hidden @ self.readout["weight"].transpose(1, 2)
        return found


class AutogradReLU(ReLUNet):
    """The ReLU network with the gradients that a class of one's own has."""

    def objective(self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int = 0) -> Any:
        return StudentNet.objective(self, problems, rows, names, chunk)


def fitted(
    root: Path,
    net: StudentNet,
    data: Any,
    kind: Any = PretrainFinetuneModule,
    store: str | bool = False,
    **given: Any,
) -> Any:
    """Return a module after a short fit."""
    seed_everything(0)
    options: dict[str, Any] = {"integrator": GradientFlow(), "max_evaluations": 30, **given}
    settings = PhaseSettings(**options)
    named = (
        ("pretrain_settings", "finetune_settings")
        if issubclass(kind, PretrainFinetuneModule)
        else ("settings",)
    )
    module = kind(net, data.num_classes, **dict.fromkeys(named, settings))
    trainer = toy_trainer(root, max_epochs=-1, logger=False, phase_store=store)
    trainer.fit(module, datamodule=data)
    return module


def rows_of(module: Any) -> tuple[list[Row], list[Row]]:
    return found_rows(module, module.trainer)


def runs_of(root: Path, net: StudentNet, data: Any) -> list[str]:
    return [row["run"] for row in rows_of(fitted(root, net, data, SingleTaskModule))[0]]


def options_in(measures: Sequence[Row], run: str) -> dict[str, Any]:
    """Return what belongs to no phase."""
    return {m["measure"]: m["value"] for m in measures if m["run"] == run and not m["phase"]}


def test_rows_and_measures_of_a_grid(tmp_path: Path) -> None:
    module = fitted(tmp_path, DiagonalNet(6), Rotated([0, 0.5], 0.1))
    rows, measures = rows_of(module)
    assert len({row["run"] for row in rows}) == 4
    assert all({*row} <= {*COLUMNS} for row in rows)
    assert {row["experiment"] for row in rows} == {"diagonal-rotated"}
    found = [(row["seed"], options_in(measures, row["run"])) for row in rows]
    assert found == [(s, {"rotation": r, "noise": 0.1}) for s in (0, 1) for r in (0.0, 0.5)]
    layers = {(m["layer"], m["measure"]) for m in measures}
    assert {("student", "l1"), ("teacher", "l1"), ("student", "aux_share")} <= layers


def test_a_pretraining_that_options_do_not_touch_is_trained_once(tmp_path: Path) -> None:
    counts = []

    class Counting(PretrainFinetuneModule):
        def on_train_end(self) -> None:
            counts.append(len(self.students.run.chosen))  # type: ignore[union-attr]

    fitted(tmp_path, DiagonalNet(6), Rotated([0, 0.5]), Counting)
    assert counts == [2, 4]


def test_a_stored_pretraining_is_found_by_the_options_that_it_depends_on(tmp_path: Path) -> None:
    found, store = [], str(tmp_path / "phases")
    for data in (Rotated([0.5]), Rotated([0.25]), Rotated([0.5], noise=0.1)):
        module = fitted(tmp_path, DiagonalNet(6), data, store=store)
        found.append(module.trainer.phase_results[0].reused)
    assert found == [False, True, False]


def test_options_that_are_columns_are_written_there(tmp_path: Path) -> None:
    module = fitted(tmp_path, ReLUNet(6, hidden=8), Shared([0, 1]))
    rows, measures = rows_of(module)
    assert [(row["overlap"], row["k_main"], row["experiment"]) for row in rows] == [
        (0, 2, "relu-shared"),
        (1, 2, "relu-shared"),
    ]
    assert options_in(measures, rows[0]["run"]) == {"kind_of_unit": "relu"}
    assert ("teacher", "F_1") in {(m["layer"], m["measure"]) for m in measures}
    assert ("student", "alignment_k2") in {(m["layer"], m["measure"]) for m in measures}


def test_who_shares_a_run(tmp_path: Path) -> None:
    usual = runs_of(tmp_path, DiagonalNet(6), Rotated([0, 0.5]))
    assert runs_of(tmp_path, DiagonalNet(6), Rotated([0.5], seed=0)) == [usual[1]]  # of any grid
    assert not {*runs_of(tmp_path, DiagonalNet(6), Rotated([0, 0.5], noise=0.1))} & {*usual}
    assert not {*runs_of(tmp_path, DiagonalNet(6), Rotated([0.25]))} & {*usual}
    own = runs_of(tmp_path, DiagonalNet(6), Attribute([0, 0.5]))
    assert runs_of(tmp_path, DiagonalNet(6), Attribute([0.5], seed=0)) == [own[1]]
    assert not {*runs_of(tmp_path, DiagonalNet(6), Attribute([0, 0.5], power=2))} & {*own}


def test_the_report_tells_options_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = fitted(tmp_path, DiagonalNet(6), Rotated([0, 0.5], n_main=[4, 5]))
    folder = report(module.trainer)
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if "n_main" in line)
    assert line.split()[:2] == ["rotation", "n_main"]
    cells = [line.split()[:2] for line in text.splitlines() if line.strip().startswith("0")]
    assert cells[-4:] == [["0", "4"], ["0", "5"], ["0.5", "4"], ["0.5", "5"]]
    with (folder / "measures.csv").open() as file:
        values = [row["value"] for row in csv.DictReader(file) if row["measure"] == "rotation"]
    assert [float(value) for value in values] == [0.0, 0.5] * 4
    assert main(["table", str(folder), "--by", "rotation", "--where", "rotation=0.5"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[:2] for words in printed if words[1:2] in (["setup"], ["PT+FT"])] == [
        ["rotation", "setup"],
        ["0.5", "PT+FT"],
    ]


# Networks of one's own


def test_gradients_by_autograd_are_those_by_hand(tmp_path: Path) -> None:
    """The same network, once with gradients by hand and once without: two ways to one gradient."""
    data = ReLUTeacherDataModule([0, 1], [4, 6], in_features=6, k_aux=2, k_main=2, n_aux=8, n_test=5)
    tasks = {"main": 1, "aux": 1}
    nets = [
        kind(6, tasks, hidden=7, init_scale=0.5, seeds=[0] * 2 + [1] * 2) for kind in (ReLUNet, AutogradReLU)
    ]

    def key(replica: int, task: str) -> Any:
        return data.inputs_key("train", replica, task)

    rows = torch.tensor([0, 1, 3])
    for names, chosen in (
        (["first.weight", "readout.weight"], ["aux", "main"]),
        (["readout.weight"], ["main"]),
    ):
        problems = Problems(chosen, key, data.train_set, {"aux": 0.3, "main": 1.0})
        theta = nets[0].pack(rows, names)
        found = []
        for net in nets:
            objective: Any = net.objective(problems, rows, names, 0)
            out = torch.empty_like(theta)
            losses = objective.value_and_gradient(theta, out)
            some, keep = objective.select(torch.tensor([0, 2])), torch.tensor([0, 2])
            torch.testing.assert_close(some.value(theta[keep]), losses[keep])
            found.append((losses, out))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("integrator", [GradientFlow(), GradientDescent(0.1, batch_size=3)])
@pytest.mark.parametrize("kind", [SingleTaskModule, MultiTaskModule, PretrainFinetuneModule])
def test_a_network_of_ones_own(kind: Any, integrator: Any, tmp_path: Path) -> None:
    data = Rotated([0, 0.5])
    module = fitted(tmp_path, TanhNet(init_scale=0.5), data, kind, integrator=integrator, max_evaluations=60)
    rows, measures = rows_of(module)
    assert [row["experiment"] for row in rows] == ["tanh-rotated"] * 4
    assert all(row["train_loss"] < 2.0 and row["loss_best"] <= row["loss_final"] for row in rows)
    assert {m["measure"] for m in measures} >= {"rotation", "evaluations"}
    x, y = data.test_set(3, "main")
    output = module.net(x, "main")[3].detach()
    assert float((output - y).square().mean()) == pytest.approx(rows[3]["loss_final"], rel=1e-9)


def test_options_of_a_network_of_ones_own_name_the_run(tmp_path: Path) -> None:
    usual = runs_of(tmp_path, TanhNet(), Rotated())
    assert runs_of(tmp_path, TanhNet(), Rotated()) == usual
    assert not {*runs_of(tmp_path, TanhNet(units=6), Rotated())} & {*usual}
    assert not {*runs_of(tmp_path, TanhNet(gain=2.0), Rotated())} & {*usual}
    assert runs_of(tmp_path, TanhNet(), Rotated(seed=1)) == [usual[1]]


def test_outputs_of_the_wrong_shape(tmp_path: Path) -> None:
    class Flat(TanhNet):
        def _outputs(self, x: Tensor) -> Tensor:
            return super()._outputs(x)[..., 0]

    with pytest.raises(ValueError, match=r"--model.backbone Flat: _outputs gives \(1, 4\).*\(1, 4, 2\)"):
        fitted(tmp_path, Flat(), Rotated(), SingleTaskModule)
