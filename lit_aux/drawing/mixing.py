"""What mixtures of the weights before and after a fit reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import GREY, ordered_looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_aux.callbacks._measurements import MixingMeasurement

_SPLITS = {"test": "test", "val": "validation"}


def draw_mixing(results: Sequence["MixingMeasurement"], best: float | None = None) -> "Figure":
    """Draw each task's metric on test and validation data against the mixing weight.

    Args:
        results: As :class:`~lit_aux.callbacks.WiSEFT` has them.
        best: The mixing weight best on validation data, which a line marks; None for none.
    """
    names = [row.measure.partition("_")[2] for row in results]
    metric = next((name for name in names if name != "loss"), "loss")
    tasks = list(dict.fromkeys(row.task for row in results))
    curves, looks = [], {}
    for task, look in zip(tasks, ordered_looks(len(tasks)), strict=True):
        for split, word in _SPLITS.items():
            rows = [row for row in results if (row.task, row.measure) == (task, f"{split}_{metric}")]
            if rows:
                key = f"{task}, {word}"
                curves.append(Curve(key, tuple(r.mixing for r in rows), tuple(r.value for r in rows)))
                looks[key] = key, look._replace(hollow=split == "val", line=":" if split == "val" else "-")
    how: Any = {"x_scale": "linear", "y_scale": "linear"}
    how |= {} if best is None else {"marks": (_Best(best),)}
    label = "mixing weight (0: before the fit, 1: after)"
    panel = Panel(("mixing",), (0, 0), tuple(curves), label, metric.replace("_", " "), **how)
    line = "" if best is None else "best on validation"
    return draw(Layout((panel,), 0, looks, caption="", level_label=line, scale=1.4))


@dataclass(frozen=True)
class _Best:
    """A line upwards at a mixing weight."""

    mixing: float

    def draw(self, axes: "Axes") -> None:
        axes.axvline(self.mixing, color=GREY, linewidth=0.8, zorder=0, label="best on validation")
