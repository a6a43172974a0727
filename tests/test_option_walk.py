"""A fixed sample of the walk over every option of every command; ``scripts/walk_options.py`` does it all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import option_walk
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from option_cases import COMMANDS, SCENES, VALUES, Case, cases
from option_sense import sensible
from option_walk import Walk, dotted, judge, senseless
from torch import nn

from lit_aux import callbacks, data, integrators, models, modules
from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.integrators import Integrator
from lit_aux.modules import Scalarization

_EVERY = 101  # which has no factor in common with the number of values of an option


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with pytest.MonkeyPatch.context() as patch:
        yield Walk(tmp_path_factory.mktemp("walk"), patch.setattr)


@pytest.mark.parametrize("case", cases()[::_EVERY], ids=str)
def test_wrong_values_are_refused_in_one_line_or_make_sense(case: Case, walk: Walk) -> None:
    outcome = walk.try_case(case)
    assert not outcome.amiss, f"{outcome.kind}: {outcome.line}"


def test_the_walk_is_over_everything() -> None:
    walked = {case.scene for case in cases()}
    assert walked == {*SCENES, *COMMANDS}
    options = {(case.scene, case.option) for case in cases()}
    assert ("ptft", "trainer/gradient_clip_val") in options
    assert ("ptft", "model/init_args/finetune_settings/optimizer/init_args/lr") in options
    assert ("sweep", "sbatch") in options
    assert {case.value for case in cases()} >= {*VALUES}
    assert len(cases()) > 4000


def test_no_option_of_lightnings_parsers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested options are those of classes, which have scenes; the others are asked of the parsers."""

    class Seen(Exception):
        pass

    def look(self: AuxiliaryCLI, *_: object) -> None:
        parsers.update(self._subcommand_parsers)
        raise Seen

    parsers: dict[str, Any] = {}
    monkeypatch.setattr(AuxiliaryCLI, "parse_arguments", look)
    with pytest.raises(Seen):
        main(["fit"])
    assert {*parsers} == {"fit", "validate", "test", "predict", "export"}
    walked = {(case.scene.replace("ptft", "fit"), dotted(case.option)) for case in cases()}
    for command, parser in parsers.items():
        found = {action.dest for action in parser._actions if action.dest != "help"}
        of_trainer = {name for name in found if name.startswith("trainer.")}  # tried with fit
        assert not [n for n in found - of_trainer if (command, n) not in walked], command
        assert not [n for n in of_trainer if ("fit", n) not in walked]


def test_every_class_with_options_has_a_scene() -> None:
    kinds = {kind for _, places in SCENES.values() for _, kind in places}
    bases = (Callback, LightningDataModule, LightningModule, nn.Module, Integrator, Scalarization)
    for room in (callbacks, data, integrators, models, modules):
        for name in room.__all__:
            kind = getattr(room, name)
            if isinstance(kind, type) and issubclass(kind, bases) and name not in _BASES:
                assert f"{room.__name__}.{name}" in kinds, name


_BASES = {
    *(
        "ArraysDataModule",
        "AuxiliaryModule",
        "BatchTransform",
        "ClassesDataModule",
        "Scalarization",
        "Integrator",
        "SplitsDataModule",
        "StudentNet",
        "TaskDataModule",
        "OwnTeacherDataModule",
        "TeacherDataModule",
        "TextDataModule",
    ),
    *("LayerDimensionality", "MultiHeadNet", "TaskDiagnostic", "Descent"),
}
"""What is abstract, built by others, or has no options of its own beside those of a class with a scene."""
_CASE = Case("ptft", "trainer/max_epochs", "-3")


@pytest.mark.parametrize(
    ("code", "text", "left", "amiss"),
    [
        (2, "lit-aux: error: --trainer.max_epochs: -3 must be at least 1\n", [], []),
        (2, "lit-aux: error: --trainer.max_epochs: must be at least 1\n", [], ["value not echoed"]),
        (2, "lit-aux: error: --trainer.max_steps: -3 is wrong\n", [], ["option not named"]),
        (2, "lit-aux: error: --trainer.max_epochs: -3\n" * 2, [], ["2 lines"]),
        (2, "", [], ["0 lines", "option not named", "value not echoed"]),
        (2, "lit-aux: error: --trainer.max_epochs: -3\n", ["runs"], ["left behind: ['runs']"]),
        (2, "lit-aux: error: max_epochs: -3\n", [], ["option not named"]),
        (2, "lit-aux: error: --trainer.max_epochs: -35\n", [], ["value not echoed"]),
        (0, "", ["runs"], ["accepted"]),
        ("hang", "", [], ["hang"]),
        ("traceback: ValueError: x", "", [], ["traceback"]),
        (1, "Traceback (most recent call last):\n", [], ["traceback"]),
    ],
)
def test_what_counts_as_amiss(code: int | str, text: str, left: list[str], amiss: list[str]) -> None:
    assert judge(_CASE, code, text, left).amiss == amiss


def test_a_run_that_makes_none(tmp_path: Path) -> None:
    fit, table = _CASE, Case("table", "out", "abc")
    assert senseless(fit, tmp_path) == ["nothing was trained"]
    assert senseless(table, tmp_path) == ["no output"]
    (tmp_path / "abc").touch()
    assert senseless(table, tmp_path) == []
    content = {"global_step": 1, "state_dict": {"w": torch.ones(2)}}
    torch.save(content, tmp_path / "a.ckpt")
    assert senseless(fit, tmp_path) == []
    torch.save({**content, "state_dict": {"w": torch.tensor([1.0, float("nan")])}}, tmp_path / "b.ckpt")
    assert senseless(fit, tmp_path) == ["weights that are no numbers"]


def test_what_makes_sense() -> None:
    assert sensible("trainer.max_epochs", "9" * 20)
    assert sensible("trainer.max_epochs", "-1")
    assert not sensible("trainer.max_epochs", "0")
    assert not sensible("model.rescale", "9" * 20)
    assert not sensible("trainer.gradient_clip_val", "-1")


def test_a_case_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_ever(words: list[str]) -> int:
        while True:
            pass

    monkeypatch.setattr(option_walk, "main", wait_for_ever)
    monkeypatch.setattr(option_walk, "SECONDS", 1)
    outcome = Walk(tmp_path).try_case(Case("figures theory", "value", "abc"))
    assert outcome.amiss == ["hang"]
