"""Dimensionality of 1,000 images by 25,088 features: ours against PyPI's packages, and against NumPy by hand.

Everybody is given the same matrix in memory and returns the same number, which is compared:

* the participation ratio, unbiased in the images: ``lit_aux.metrics.ParticipationRatio``, ten batches of 100
  images and then the value, against ``dimensionality`` (its ``row``, which comes with three other estimates
  at no cost: all share their sums);
* the similarity of two networks, linear centred kernel alignment, which is the shared dimensions over the
  geometric mean of the two participation ratios: ``lit_aux.functional.shared_dimensionality`` against
  ``rsatoolbox`` (``cosine_cov`` of squared Euclidean distances), given float64 as ours computes in it; in
  float32 it is faster, and less exact;
* the dimensions that two networks share feature by feature, which no package computes: against NumPy, n x n
  matrices in float64.

Features are those of 200 hidden variables behind a rectified random projection, as float32. Importing is not
counted, making the matrices neither. ``netrep``, which compares networks too, is not on PyPI.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.silence import in_silence
from torch import Tensor

from .comparison import OURS, Clock, Outcome, Row, Way, compare

IMAGES, FEATURES, HIDDEN, BATCHES = 1000, 25_088, 200, 10
AGREEMENT = "<= 1.001"


def activations(images: int, features: int) -> tuple[Tensor, Tensor]:
    """Return float32 activations of two networks, (images, features) each; the second resembles the first."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(images, HIDDEN, generator=generator)
    first, change = (torch.randn(HIDDEN, features, generator=generator) for _ in range(2))
    return (hidden @ first).relu_(), (hidden @ first.add_(change, alpha=0.5)).relu_()


def timed(clock: Clock, measure: Callable[..., Any], *given: Tensor) -> Way:
    """Return a way that measures what is given, and says how long it took; first a corner, which imports."""

    def way(_: Path) -> Outcome:
        measure(*(tensor[:20, :40] for tensor in given))
        start = clock()
        value = float(measure(*given))
        return Outcome(clock() - start, value)

    return in_silence(way)


def metric(x: Tensor) -> Tensor:
    """Return the unbiased participation ratio, batch by batch."""
    from lit_aux.metrics import ParticipationRatio

    found = ParticipationRatio(num_samples=len(x), unbiased=True)
    for ids in torch.arange(len(x)).chunk(BATCHES):
        found.update(x[ids], ids)
    return found.compute()


def with_dimensionality(x: Tensor) -> float:
    """Return the same by ``dimensionality``."""
    every = import_module("dimensionality").participation_ratio(x.numpy(), return_all=True)
    return float(every["row"])


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Return linear centred kernel alignment."""
    from lit_aux.functional import shared_dimensionality

    found = shared_dimensionality(x, y, pairing="sample")
    return found.ensd / (found.pr_x * found.pr_y).sqrt()


def with_rsatoolbox(x: Tensor, y: Tensor, dtype: Any) -> float:
    """Return the same by ``rsatoolbox``."""
    data, rdm = import_module("rsatoolbox.data"), import_module("rsatoolbox.rdm")
    both = [rdm.calc_rdm(data.Dataset(a.numpy().astype(dtype)), method="euclidean") for a in (x, y)]
    return float(rdm.compare(*both, method="cosine_cov")[0, 0])


def shared(x: Tensor, y: Tensor) -> Tensor:
    """Return the dimensions that features share."""
    from lit_aux.functional import effective_shared_dimensions

    return effective_shared_dimensions(x, y)


def with_numpy(x: Tensor, y: Tensor) -> float:
    """Return the same by NumPy."""
    a, b = (v.numpy().astype(np.float64) for v in (x, y))
    a -= a.mean(0)
    b -= b.mean(0)
    across, first, second = a @ b.T, a @ a.T, b @ b.T
    traces = np.trace(first) * np.trace(second)
    return float((across**2).sum() * traces / ((first**2).sum() * (second**2).sum()))


def dimensionality(repetitions: int, clock: Clock, quick: bool) -> list[Row]:
    """Return seconds, ratios, and how far the numbers agree."""
    images, features = (60, 300) if quick else (IMAGES, FEATURES)
    x, y = activations(images, features)
    what = f"{images} x {features}"
    ways = {
        f"PR of {what}": {
            OURS: timed(clock, metric, x),
            "dimensionality": timed(clock, with_dimensionality, x),
        },
        f"CKA of {what}": {
            OURS: timed(clock, alignment, x, y),
            "rsatoolbox": timed(clock, partial(with_rsatoolbox, dtype=np.float64), x, y),
            "rsatoolbox, float32": timed(clock, partial(with_rsatoolbox, dtype=np.float32), x, y),
        },
        f"ENSD of {what}": {OURS: timed(clock, shared, x, y), "NumPy": timed(clock, with_numpy, x, y)},
    }
    packages = {
        name: name.partition(",")[0] for name in ("dimensionality", "rsatoolbox", "rsatoolbox, float32")
    }
    rows = []
    for subject, compared in ways.items():
        turns = 1 if "dimensionality" in compared else repetitions  # it takes more than a minute
        needs = {name: package for name, package in packages.items() if name in compared}
        targets = {"rsatoolbox, float32": "(less exact)"}
        rows += compare(subject, "s", compared, targets, turns, needs, ("values", AGREEMENT))
    return rows
