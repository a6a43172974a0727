"""What one layer's dimensionality says about the features it kept."""

import math
from dataclasses import dataclass
from typing import Literal

BORDERLINE = "borderline"
UNTRAINED = "trained from random weights: no features were there to be reused"
NEAR = 0.1
"""A ratio that is off its threshold by less than this share of it may be on the other side another time."""
Verdict = Literal["nested", "lazy", "replaced", "undefined"]


@dataclass(frozen=True)
class LayerDimensionality:
    """Dimensionality of one layer before and after a fit.

    Attributes:
        phase: The phase of the run, empty outside of phases.
        layer: The layer's name.
        pr_before: Participation ratio of its activations at the start of the fit.
        pr_after: Participation ratio now.
        ensd: Effective number of dimensions that both share.
        pr_ratio: ``pr_after / pr_before``.
        ensd_ratio: ``ensd / pr_after``; may exceed 1.
        verdict: See :func:`verdict`.
        note: What there is to say of the numbers: why there are none, or which weights they are of; mostly
            empty.
    """

    phase: str
    layer: str
    pr_before: float
    pr_after: float
    ensd: float
    pr_ratio: float
    ensd_ratio: float
    verdict: Verdict
    note: str = ""

    @property
    def borderline(self) -> bool:
        """Whether the verdict could be another with other seeds or threads; the note says why."""
        return BORDERLINE in self.note

    @property
    def shown_verdict(self) -> str:
        """The verdict as tables and pictures have it: in brackets if borderline, empty if none is due."""
        if UNTRAINED in self.note:
            return ""
        return f"({self.verdict})" if self.borderline else self.verdict

    @classmethod
    def compare(
        cls,
        phase: str,
        layer: str,
        pr_before: float,
        pr_after: float,
        ensd: float,
        *,
        nested_below: float = 0.8,
        replaced_below: float = 0.5,
        note: str = "",
        untrained: bool = False,
    ) -> "LayerDimensionality":
        """Build a row from the three measures.

        Args:
            phase: As in the row.
            layer: As in the row.
            pr_before: As in the row.
            pr_after: As in the row.
            ensd: As in the row.
            nested_below: See :func:`verdict`.
            replaced_below: See :func:`verdict`.
            note: What there is to say beside that.
            untrained: Whether the weights at the start were random: no features were there to be reused, and
                there is no verdict.
        """
        pr_ratio = pr_after / pr_before if pr_before else math.nan
        ensd_ratio = ensd / pr_after if pr_after else math.nan
        word = verdict(pr_ratio, ensd_ratio, nested_below=nested_below, replaced_below=replaced_below)
        notes = [note] if note else []
        if untrained:
            word, notes = "undefined", [*notes, UNTRAINED]
        elif word != "undefined":
            notes += _near(pr_ratio, ensd_ratio, nested_below, replaced_below)
        text = "; ".join(notes)
        return cls(phase, layer, pr_before, pr_after, ensd, pr_ratio, ensd_ratio, word, text)


def verdict(
    pr_ratio: float, ensd_ratio: float, *, nested_below: float = 0.8, replaced_below: float = 0.5
) -> Verdict:
    """Name what happened to a layer's features.

    * ``"replaced"``: ``ensd_ratio < replaced_below``. Most dimensions in use now were not in use before.
    * ``"nested"``: otherwise, ``pr_ratio < nested_below``. Fewer dimensions than before, and those were there
      before: the signature of nested feature selection (Lippl & Lindsey).
    * ``"lazy"``: otherwise. The representation is about as it was, or it has grown.
    * ``"undefined"``: a ratio is not a number (constant activations, or an unbiased estimate at or below 0).

    A row whose deciding ratio is within a tenth of its threshold is *borderline*: seeds, threads and machines
    may give the other verdict. Where the weights at the start were random there is no verdict.

    The published work gives no thresholds. The defaults tell its examples apart: ResNet-18's last block with
    PR 6.80, then 2.05, and ENSD 2.62 is nested; 6.90, 6.75, 6.70 is lazy; a ViT with 23.7, 9.4, 6.7 nested.

    Example:
        >>> from lit_aux.callbacks import verdict
        >>> verdict(pr_ratio=0.3, ensd_ratio=0.9)
        'nested'
        >>> verdict(pr_ratio=1.0, ensd_ratio=1.0)
        'lazy'
    """
    if not (math.isfinite(pr_ratio) and math.isfinite(ensd_ratio)):
        return "undefined"
    if ensd_ratio < replaced_below:
        return "replaced"
    return "nested" if pr_ratio < nested_below else "lazy"


def _near(pr_ratio: float, ensd_ratio: float, nested_below: float, replaced_below: float) -> list[str]:
    """Name the ratio that is near the threshold that decided, if one is."""
    decided = [("ENSD/PR", ensd_ratio, replaced_below)]
    if ensd_ratio >= replaced_below:
        decided.append(("PR ratio", pr_ratio, nested_below))
    return [
        f"{BORDERLINE}: {name} {value:.2f} is near {threshold:g}"
        for name, value, threshold in decided
        if abs(value - threshold) < NEAR * threshold
    ][:1]
