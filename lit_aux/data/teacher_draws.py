"""What teachers and their inputs are drawn from.

Two ways. ``published``: one generator a seed, seeded as torch's global one would be, from which everything is
drawn in one order, so that runs can be compared one to one with those behind the figures of Lippl & Lindsey,
"Inductive biases of multi-task learning and finetuning" (arXiv 2310.02396). ``independent``: a generator for
every seed and purpose, so that no number of rows moves any other row.

All numbers are drawn on the CPU in float32, whatever device and precision are wanted in the end, and never
from a global generator.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from lit_aux.data.loader import derive_seed, generator_for
from lit_aux.teachers import Sampling


def normalized(rows: Tensor) -> Tensor:
    """Scale every row of ``rows`` (n, D) so that the mean of its squares is 1."""
    return rows / rows.square().mean(dim=1, keepdim=True).sqrt()


def published_rows(generator: torch.Generator, sizes: Sequence[int], features: int) -> Tensor:
    """Draw sets of inputs one after another and return the last one.

    Args:
        generator: On the CPU; left behind the last set.
        sizes: Number of rows of every set.
        features: Number of inputs D.

    Returns:
        float32 (``sizes[-1]``, D), Gaussian, each row scaled so that its mean square is 1.
    """
    for size in sizes[:-1]:
        torch.empty(size, features, device="cpu").normal_(generator=generator)
    return normalized(torch.empty(sizes[-1], features, device="cpu").normal_(generator=generator))


def independent_rows(seed: int, purpose: str, size: int, features: int) -> Tensor:
    """Draw inputs from a generator of their own; fewer rows are the beginning of more.

    Args:
        seed: Of the teacher.
        purpose: What the rows are for, ``"aux"`` say.
        size: Number of rows n.
        features: Number of inputs D.

    Returns:
        float32 (n, D), Gaussian, each row scaled so that its mean square is 1.
    """
    # torch fills sixteen numbers at a time and draws an incomplete last sixteen anew: ask for whole ones
    count = -(-prod((size, features)) // 16) * 16
    numbers = torch.empty(count, device="cpu").normal_(generator=generator_for(seed, "rows", purpose))
    return normalized(numbers[: size * features].view(size, features))


def entries_and_signs(generator: torch.Generator, features: int, signs: int) -> tuple[Tensor, Tensor]:
    """Draw the order in which entries become active, and signs.

    Args:
        generator: On the CPU; the permutation is drawn first.
        features: Number of entries D.
        signs: How many signs.

    Returns:
        A permutation of the entries, int64 (D,), and signs, float32 (``signs``,), -1 or 1.
    """
    order = torch.randperm(features, generator=generator, device="cpu")
    return order, random_signs(generator, signs)


def random_signs(generator: torch.Generator, count: int) -> Tensor:
    """Draw float32 (``count``,) of -1 and 1, as the sign of a uniform number less a half."""
    return torch.where(torch.rand(count, generator=generator, device="cpu") < 0.5, -1.0, 1.0)


def orthogonal_directions(seed: int, sampling: Sampling, features: int) -> Tensor:
    """Draw a random rotation or reflection, uniformly, with scipy's ``ortho_group``.

    Args:
        seed: Below 2^32; with ``published`` it is that of the numpy generator.
        sampling: ``published`` or ``independent``.
        features: Number of directions and of inputs d.

    Returns:
        float64 (d, d) with orthonormal rows. Other versions of scipy may draw others.
    """
    from scipy.stats import ortho_group  # type: ignore[import-untyped]

    own = seed if sampling == "published" else derive_seed(seed, "directions") % 2**32
    drawn = np.atleast_2d(ortho_group.rvs(features, random_state=np.random.RandomState(own)))
    return torch.from_numpy(np.ascontiguousarray(drawn, dtype=np.float64))
