"""A fixed sample of the walk over every option of every command; ``scripts/walk_options.py`` does it all."""

from pathlib import Path

import option_walk
import pytest
from option_cases import COMMANDS, SCENES, VALUES, Case, cases
from option_sense import sensible
from option_walk import Walk, judge

_EVERY = 71  # which has no factor in common with the number of values of an option


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("walk"))


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
    assert len(cases()) > 2500


_CASE = Case("ptft", "trainer/max_epochs", "-3")


@pytest.mark.parametrize(
    ("code", "text", "left", "amiss"),
    [
        (2, "lit-aux: error: --trainer.max_epochs: -3 must be at least 1\n", [], []),
        (2, "lit-aux: error: --trainer.max_epochs: must be at least 1\n", [], ["value not echoed"]),
        (2, "lit-aux: error: --trainer.max_steps: -3 is wrong\n", [], ["option not named"]),
        (2, "lit-aux: error: max_epochs: -3\nlit-aux: error: max_epochs: -3\n", [], ["2 lines"]),
        (2, "", [], ["0 lines", "option not named", "value not echoed"]),
        (2, "lit-aux: error: max_epochs: -3\n", ["runs"], ["left behind: ['runs']"]),
        (0, "", ["runs"], ["accepted"]),
        ("hang", "", [], ["hang"]),
        ("traceback: ValueError: x", "", [], ["traceback"]),
        (1, "Traceback (most recent call last):\n", [], ["traceback"]),
    ],
)
def test_what_counts_as_amiss(code: int | str, text: str, left: list[str], amiss: list[str]) -> None:
    assert judge(_CASE, code, text, left).amiss == amiss


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
