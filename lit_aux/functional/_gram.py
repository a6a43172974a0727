"""Inner products of second-moment matrices, accumulated in float64 without ever forming the larger one.

With centred activations X and Y (n, D), the n x n Gram matrices ``Kx = X X'``, ``Ky = Y Y'``, ``G = X Y'``
and the D x D moments ``Cx = X'X``, ``Cy = Y'Y``, ``M = X'Y`` are two views of the same traces: ``<Kx, Kx> =
<Cx, Cx>``, ``<Kx, Ky> = <M, M>``, ``<G, G> = <Cx, Cy>`` and ``<G, G'> = <M, M'>``. Whichever is smaller is
formed.
"""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**21
"""Numbers that are held in float64 at a time while a matrix is accumulated: 16 MiB."""

ROUNDING = (16 * torch.finfo(torch.float64).eps) ** 2
"""A variance below this share of the mean square is what subtracting the mean of a constant leaves."""


class Matrices(NamedTuple):
    """Kx, Ky, G if ``gram``, else Cx, Cy, M; and per sample ``|x_i|^2``, ``|y_i|^2``, ``x_i . y_i``.

    Vectors of length 0 and a mixed matrix of size 0 stand for what was not asked for.
    """

    gram: bool
    samples: int
    first: Tensor
    second: Tensor
    mixed: Tensor
    x_norms: Tensor
    y_norms: Tensor
    dots: Tensor
    x_square: Tensor
    """Sum of the squares of X before centering; what its variance is compared with."""
    y_square: Tensor


class Products(NamedTuple):
    """Traces for X and Y scaled so that ``tr Kx = tr Ky = 1``; meaningless where not asked for."""

    samples: int
    xx: Tensor
    """<Kx, Kx>."""
    yy: Tensor
    xy: Tensor
    """<Kx, Ky>, the numerator of the sample pairing."""
    gg: Tensor
    """<G, G> = <Cx, Cy>, the numerator of the feature pairing."""
    gg_transposed: Tensor
    """<G, G'>."""
    x_norms: Tensor
    y_norms: Tensor
    dots: Tensor


def matrices(
    x: Tensor, y: Tensor, scales: tuple[Tensor, Tensor], *, mixed: bool, center: bool, per_sample: bool
) -> Matrices:
    """Accumulate the Gram matrices of ``x`` and ``y`` (n, D) if either D > n, else their second moments.

    Args:
        x: Activations of any real dtype.
        y: The other activations; ``x`` itself is recognised and not computed twice.
        scales: What each is divided by first, 0-dim float64; no measure depends on it.
        mixed: Whether the feature-paired trace <G, G> will be read (False: only <Kx, Ky>).
        center: Subtract the mean over samples first.
        per_sample: Also keep what the unbiased estimators need: the per-sample norms and <G, G'>.
    """
    if max(x.shape[1], y.shape[1]) > x.shape[0]:
        return _gram_matrices(x, y, scales, mixed, center)
    return _moment_matrices(x, y, scales, mixed, center, per_sample)


def products(m: Matrices) -> Products:
    """Reduce ``m`` to traces, with X and Y scaled to trace one so that no power overflows."""
    same = m.second is m.first
    x_scale = _inverse_trace(m.first, m.x_square, "x")
    y_scale = x_scale if same else _inverse_trace(m.second, m.y_square, "y")
    first = m.first * x_scale
    second = first if same else m.second * y_scale
    mixed = m.mixed * (x_scale * y_scale).sqrt()
    xx = first.square().sum()
    nan = xx.new_tensor(math.nan)
    across = xx if same else (first * second).sum() if first.shape == second.shape else nan
    square = mixed.square().sum()
    return Products(
        samples=m.samples,
        xx=xx,
        yy=xx if same else second.square().sum(),
        xy=across if m.gram or same else square,
        gg=square if m.gram else across,
        gg_transposed=(mixed * mixed.T).sum() if mixed.shape[0] == mixed.shape[1] else nan,
        x_norms=m.x_norms * x_scale,
        y_norms=m.y_norms * y_scale,
        dots=m.dots * (x_scale * y_scale).sqrt(),
    )


def _gram_matrices(
    x: Tensor, y: Tensor, scales: tuple[Tensor, Tensor], mixed: bool, center: bool
) -> Matrices:
    """Return the n x n matrices, summed over blocks of features."""
    n, same = x.shape[0], y is x
    first = x.new_zeros((n, n), dtype=torch.float64)
    second = first if same else torch.zeros_like(first)
    cross = torch.zeros_like(first) if mixed else first.new_zeros(0, 0)
    squares = first.new_zeros(2)
    for columns in _blocks(max(x.shape[1], y.shape[1]), n):
        a = _centred_columns(x[:, columns], scales[0], center, squares[0])
        _add_symmetric(first, a)
        if not same:
            b = _centred_columns(y[:, columns], scales[1], center, squares[1])
            _add_symmetric(second, b)
            if mixed:
                cross.addmm_(a, b.T)
    _mirror(first)
    if not same:
        _mirror(second)
    norms = first.diagonal(), second.diagonal(), cross.diagonal()
    return Matrices(True, n, first, second, cross, *norms, squares[0], squares[0] if same else squares[1])


def _moment_matrices(
    x: Tensor, y: Tensor, scales: tuple[Tensor, Tensor], mixed: bool, center: bool, per_sample: bool
) -> Matrices:
    """Return the D x D matrices, summed over blocks of samples."""
    (n, dx), dy, same = x.shape, y.shape[1], y is x
    first = x.new_zeros((dx, dx), dtype=torch.float64)
    second = first if same else first.new_zeros(dy, dy)
    # <Kx, Ky> is read by the sample pairing and by the unbiased estimators, <G, G'> by the latter.
    cross = first.new_zeros(dx, dy) if not same and (per_sample or not mixed) else first.new_zeros(0, 0)
    norms: list[tuple[Tensor, Tensor, Tensor]] = []
    x_mean, x_square = _mean_and_square(x, scales[0], center)
    y_mean, y_square = (x_mean, x_square) if same else _mean_and_square(y, scales[1], center)
    for rows in _blocks(n, max(dx, dy)):
        a = x[rows].to(torch.float64) / scales[0] - x_mean
        b = a if same else y[rows].to(torch.float64) / scales[1] - y_mean
        _add_symmetric(first, a.T)
        if not same:
            _add_symmetric(second, b.T)
        if cross.numel():
            cross.addmm_(a.T, b)
        if per_sample:
            dots = (a * b).sum(1) if dx == dy else a.new_zeros(0)
            norms.append((a.square().sum(1), b.square().sum(1), dots))
    _mirror(first)
    if not same:
        _mirror(second)
    empty = first.new_zeros(0)
    x_norms, y_norms, dots = (torch.cat(v) for v in zip(*norms, strict=True)) if norms else (empty,) * 3
    return Matrices(False, n, first, second, cross, x_norms, y_norms, dots, x_square, y_square)


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Cut ``length`` into slices of about ``BLOCK_ELEMENTS / width``."""
    step = max(64, BLOCK_ELEMENTS // max(width, 1))
    return (slice(start, start + step) for start in range(0, length, step))


def _centred_columns(block: Tensor, scale: Tensor, center: bool, square: Tensor) -> Tensor:
    """Return ``block / scale`` in float64, centred, and add the sum of its means' squares to ``square``."""
    block = block.to(torch.float64, copy=True).div_(scale)
    if center:
        mean = block.mean(0)
        block -= mean
        square += block.shape[0] * mean.square().sum()
    return block


def _mean_and_square(x: Tensor, scale: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    """Return the mean of ``x / scale`` in float64 (zeros unless ``center``) and n times its squared norm."""
    mean = x.new_zeros(x.shape[1], dtype=torch.float64)
    if center:
        for rows in _blocks(x.shape[0], x.shape[1]):
            mean += (x[rows].to(torch.float64) / scale).sum(0)
        mean /= x.shape[0]
    return mean, x.shape[0] * mean.square().sum()


def _row_blocks(size: int) -> Iterator[tuple[int, int]]:
    """Cut the rows of a symmetric matrix in eight, in less where the products would get too small."""
    step = max(144, math.ceil(size / 8)) if size >= 256 else max(size, 1)
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _add_symmetric(out: Tensor, a: Tensor) -> None:
    """Add ``a @ a.T`` to the lower blocks of ``out``: little more than half of the work."""
    for start, stop in _row_blocks(out.shape[0]):
        out[start:stop, :stop].addmm_(a[start:stop], a[:stop].T)


def _mirror(out: Tensor) -> None:
    """Fill the upper blocks of ``out`` from the lower ones, in place."""
    for start, stop in _row_blocks(out.shape[0]):
        out[:start, start:stop] = out[start:stop, :start].T


def _inverse_trace(matrix: Tensor, mean_square: Tensor, name: str) -> Tensor:
    """Return 1 / tr, or NaN with a warning where the trace is nothing but rounding."""
    trace = matrix.diagonal().sum()
    if trace.item() <= ROUNDING * mean_square.item():
        warnings.warn(f"{name} does not vary over the samples: its dimensionality is NaN", stacklevel=6)
        return trace.new_tensor(math.nan)
    return 1 / trace
