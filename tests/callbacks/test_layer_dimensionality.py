import math
from pathlib import Path

import pytest

from lit_aux.callbacks import LayerDimensionality, verdict
from lit_aux.callbacks.picture import plot


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
    path = plot(rows, tmp_path / "new" / "folder" / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
