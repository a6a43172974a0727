import math
from pathlib import Path

import pytest

from lit_aux.callbacks import LayerDimensionality, verdict
from lit_aux.drawing.layers import draw_layers
from lit_aux.drawing.style import save


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ((6.80, 2.05, 2.62), "nested"),  # ResNet-18, last block, rescaled by 0.125
        ((6.90, 6.75, 6.70), "lazy"),  # the same, not rescaled
        ((23.7, 9.4, 6.7), "nested"),  # ViT, not rescaled
        ((23.7, 1.0, 0.07), "replaced"),  # ViT, rescaled by 0.125
        ((5.0, 9.0, 6.0), "lazy"),
        ((math.nan, 2.0, 1.0), "undefined"),
        ((2.0, math.nan, 1.0), "undefined"),
        ((2.0, 2.0, math.nan), "undefined"),
        ((0.0, 2.0, 1.0), "undefined"),
    ],
)
def test_verdicts_of_published_layers(published: tuple[float, float, float], expected: str) -> None:
    row = LayerDimensionality.compare("finetune", "layer4", *published)
    assert row.verdict == expected
    if expected != "undefined":
        before, after, shared = published
        assert (row.pr_ratio, row.ensd_ratio) == (after / before, shared / after)


def test_thresholds_are_options() -> None:
    assert verdict(0.9, 0.9) == "lazy"
    assert verdict(0.9, 0.9, nested_below=0.95) == "nested"
    assert verdict(0.9, 0.9, replaced_below=0.95) == "replaced"


@pytest.mark.parametrize("broken", [False, True])
def test_the_picture_is_written_whole_for_any_values(tmp_path: Path, broken: bool) -> None:
    rows = [
        LayerDimensionality.compare(phase, f"net.layer{i}", 40.0 / i, 30.0 / i, math.nan if broken else 1.0)
        for phase in ("pretrain", "finetune")
        for i in (1, 2, 3)
    ]
    rows.append(LayerDimensionality.compare("finetune", "head", *(3 * [math.nan if broken else 0.0])))
    path = save(draw_layers(rows), tmp_path / "new" / "folder" / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    ("measures", "word", "shown", "note"),
    [
        ((10.0, 7.5, 7.0), "nested", "(nested)", "borderline: PR ratio 0.75 is near 0.8"),
        ((10.0, 8.5, 8.0), "lazy", "(lazy)", "borderline: PR ratio 0.85 is near 0.8"),
        ((10.0, 5.0, 2.4), "replaced", "(replaced)", "borderline: ENSD/PR 0.48 is near 0.5"),
        ((10.0, 5.0, 2.6), "nested", "(nested)", "borderline: ENSD/PR 0.52 is near 0.5"),
        ((10.0, 7.9, 1.0), "replaced", "replaced", ""),  # that PR is near its threshold decided nothing
        ((10.0, 5.0, 4.0), "nested", "nested", ""),
        ((10.0, 9.5, 9.0), "lazy", "lazy", ""),
    ],
)
def test_verdicts_near_a_threshold_are_marked(
    measures: tuple[float, float, float], word: str, shown: str, note: str
) -> None:
    row = LayerDimensionality.compare("finetune", "layer", *measures)
    assert (row.verdict, row.shown_verdict, row.note, row.borderline) == (word, shown, note, bool(note))


def test_thresholds_of_ones_own_have_borders_of_their_own() -> None:
    row = LayerDimensionality.compare("", "layer", 10.0, 5.1, 5.0, nested_below=0.5)
    assert row.note == "borderline: PR ratio 0.51 is near 0.5"


def test_there_is_no_verdict_where_nothing_was_there_to_be_reused() -> None:
    row = LayerDimensionality.compare("train", "layer", 10.0, 2.0, 1.9, untrained=True)
    assert (row.verdict, row.shown_verdict, row.borderline) == ("undefined", "", False)
    assert (row.pr_ratio, row.ensd_ratio) == (0.2, 0.95)
    assert row.note.startswith("trained from random weights")
