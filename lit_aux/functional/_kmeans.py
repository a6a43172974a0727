"""Directions of hidden units and their clusters, one replica at a time."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError

Array = NDArray[np.float64]

_LARGEST_SEED = 2**32 - 1
STARTS = 10
"""Random starts of k-means, of which the best counts; a few units, where that is cheap, get more."""


class Units(NamedTuple):
    """The living units of one network: unit vectors (H', d), and how much each counts (H',), mean 1."""

    directions: Array
    weights: Array


def replicas_of(option: str, tensor: Tensor, ndim: int, shape: str) -> tuple[Tensor, bool]:
    """Return a float64 copy on the CPU with a leading replica axis, and whether it had one.

    Raises:
        ConfigurationError: If the number of dimensions is neither ``ndim`` nor one more, or a value is not
            finite.
    """
    tensor = torch.as_tensor(tensor).detach()
    if tensor.ndim not in (ndim, ndim + 1) or tensor.is_complex() or tensor.numel() == 0:
        raise ConfigurationError(
            f"{option}: {tensor.dtype} of shape {tuple(tensor.shape)}; give real {shape}"
        )
    values = tensor.to("cpu", torch.float64)
    if not bool(values.isfinite().all()):
        raise ConfigurationError(f"{option}: has NaN or infinite values; give finite ones")
    return (values, True) if tensor.ndim == ndim + 1 else (values[None], False)


def counts_of(k: int | Sequence[int]) -> tuple[list[int], bool]:
    """Return the numbers of clusters as a list, and whether they came as one.

    Raises:
        ConfigurationError: If one is no integer of at least 1, or there is none.
    """
    several = isinstance(k, Sequence)
    try:
        numbers = [operator.index(count) for count in (k if isinstance(k, Sequence) else [k])]
    except TypeError:  # a fraction, or the letters of a word
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigurationError(f"k: {k!r} is no number of clusters; give integers of at least 1")
    return numbers, several


def check_seed(seed: int) -> None:
    """Raise `ConfigurationError` for a seed that k-means does not take."""
    try:
        known = 0 <= operator.index(seed) <= _LARGEST_SEED
    except TypeError:
        known = False
    if not known:
        raise ConfigurationError(
            f"seed: {seed!r} is no seed of k-means; give an integer from 0 to {_LARGEST_SEED}"
        )


def answer(rows: list[list[float]], several: bool, stacked: bool, device: torch.device) -> Tensor:
    """Make a float64 tensor of one row a replica, one value a k, without the axes that were not asked for."""
    found = torch.tensor(rows, dtype=torch.float64)
    found = found if several else found[:, 0]
    found = found if stacked else found[0]
    return found if device.type == "mps" else found.to(device)  # MPS has no float64


def living_units(weights: Tensor, unit_weights: Tensor | None, min_norm: float, replica: str = "") -> Units:
    """Drop the dead units of one (H, d) network and normalise the others.

    Dead are units at the origin, shorter than ``min_norm``, or of weight 0.

    Raises:
        ConfigurationError: If none is left.
    """
    rows = weights.numpy()
    counts = np.ones(len(rows)) if unit_weights is None else unit_weights.numpy()
    safe, largest = over_largest(rows)
    norms = np.linalg.norm(safe, axis=1)
    with np.errstate(over="ignore"):  # infinite is long enough
        alive = (norms > 0) & (norms * largest[:, 0] >= min_norm) & (counts > 0)
    if not alive.any():
        raise ConfigurationError(
            f"weights: no unit{replica} is alive (norm above 0, at least min_norm={min_norm:g}, and a weight "
            "above 0); nothing can be clustered"
        )
    directions = safe[alive] / norms[alive, None]
    counts = counts[alive] / counts[alive].max()  # their sum could overflow
    return Units(directions, counts / counts.mean())


def over_largest(rows: Array) -> tuple[Array, Array]:
    """Return rows over their largest entries, and those (n, 1): else squares could vanish or overflow."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1), largest


def cluster(units: Units, k: int, seed: int, replica: str = "") -> NDArray[Any]:
    """Return the cluster (0 to k - 1) of each unit by weighted k-means, the best of several starts.

    Raises:
        ConfigurationError: If there are fewer than ``k`` different directions.
    """
    if k == 1:
        return np.zeros(len(units.directions), dtype=np.int64)
    distinct = len(np.unique(np.round(units.directions, 10), axis=0))
    if k > distinct:
        raise ConfigurationError(
            f"k: {k} clusters of {distinct} distinct living units{replica}; give at most {distinct}"
        )
    # Here and not above: importing lit_aux.functional must not load scikit-learn.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    search = KMeans(k, n_init=max(STARTS, 500 // len(units.directions)), random_state=seed, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: NDArray[Any] = search.fit(units.directions, sample_weight=units.weights).labels_
    return found


def centres(units: Units, labels: NDArray[Any], k: int) -> Array:
    """Return the weighted mean (k, d) of each cluster; an empty one gets NaN."""
    member = (labels[None] == np.arange(k)[:, None]) * units.weights
    with np.errstate(invalid="ignore"):
        mean: Array = member @ units.directions / member.sum(1, keepdims=True)
    return mean
