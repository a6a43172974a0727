"""What happened to a layer's features, named: plain numbers, for those who measure and those who read."""

import math
from typing import Literal

BORDERLINE = "borderline"
UNTRAINED = "trained from random weights: no features were there to be reused"
NEAR = 0.1
"""A ratio that is off its threshold by less than this share of it may be on the other side another time."""
Verdict = Literal["nested", "lazy", "replaced", "undefined"]


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


def near(
    pr_ratio: float, ensd_ratio: float, nested_below: float = 0.8, replaced_below: float = 0.5
) -> list[str]:
    """Name the ratio that is near the threshold that decided, if one is; see :func:`verdict`."""
    decided = [("ENSD/PR", ensd_ratio, replaced_below)]
    if ensd_ratio >= replaced_below:
        decided.append(("PR ratio", pr_ratio, nested_below))
    return [
        f"{BORDERLINE}: {name} {value:.2f} is near {threshold:g}"
        for name, value, threshold in decided
        if abs(value - threshold) < NEAR * threshold
    ][:1]
