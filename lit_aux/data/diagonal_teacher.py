"""Sparse linear teachers for diagonal networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.loader import generator_for
from lit_aux.data.teacher_base import DTYPES, TeacherDataModule
from lit_aux.data.teacher_draws import entries_and_signs
from lit_aux.data.teacher_grid import COMMON, Cell, as_list, given_seed, in_order, span, whole_number
from lit_aux.errors import ConfigurationError
from lit_aux.teachers import Sampling


class DiagonalTeacherDataModule(TeacherDataModule):
    """Sparse linear teachers: the targets are x . beta, and the tasks share some of beta's active entries.

    The auxiliary beta has ``k_aux`` active entries of +-1/sqrt(k_aux). Of the main beta's ``k_main`` entries,
    +-1/sqrt(k_main), ``overlap`` are active in the auxiliary task too, with the same signs; ``output_scale``
    has other sizes. Lists of ``seed``, ``n_main``, ``overlap`` and ``k_main`` span a grid; see
    :class:`TeacherDataModule`.

    After Lippl & Lindsey (arXiv 2310.02396), whose numbers ``sampling="published"`` reproduces.

    Args:
        seed: Of all that is drawn; by default that of ``seed_everything``, else 0.
        n_main: Training rows of the task ``main``.
        overlap: Active entries that both tasks share.
        k_main: Active entries of the main task.
        cells: The replicas, each a dict of the four options above, in place of every combination of them.
            What a cell leaves out is as the option says, which must be one value then.
        k_aux: Active entries of the auxiliary task.
        in_features: Number of inputs D.
        sampling: See :class:`TeacherDataModule`.
        **kwargs: ``n_aux``, ``n_test``, ``output_scale``, ``dtype`` and ``blocks_per_epoch`` of
            :class:`TeacherDataModule`.

    Raises:
        ConfigurationError: For options that cannot be satisfied.
    """

    def __init__(
        self,
        seed: int | list[int] | None = None,
        n_main: int | list[int] = 128,
        overlap: int | list[int] = 40,
        k_main: int | list[int] = 40,
        cells: list[dict[str, Any]] | None = None,
        *,
        k_aux: int = 40,
        in_features: int = 1000,
        sampling: Sampling = "published",
        **kwargs: Any,
    ) -> None:
        k_aux = whole_number("k_aux", 1)(k_aux)
        in_features = whole_number("in_features", 1)(in_features)
        axes = {"seed": given_seed(seed), "n_main": n_main, "overlap": overlap, "k_main": k_main}
        parsers = {**COMMON, "overlap": whole_number("overlap", 0)}
        replicas = span({name: as_list(value) for name, value in axes.items()}, parsers, cells)
        for cell in replicas:
            _check_cell(cell, k_aux, in_features, sampling)
        super().__init__(
            replicas=in_order(replicas, "cells"),
            k_aux=k_aux,
            in_features=in_features,
            sampling=sampling,
            **kwargs,
        )

    def teacher(self, replica: int, task: str) -> Tensor:
        """Return the coefficients beta (D,) of a replica's task, in the data's dtype.

        Raises:
            ConfigurationError: For an unknown task.
        """
        self.check_task(task)
        cell = self.replicas[replica]
        order, signs = self._entries(cell["seed"])[1:]
        if task == "aux":
            active = order[: self.k_aux]
        else:
            fresh = self.k_aux + cell["k_main"] - cell["overlap"]
            active = torch.cat([order[: cell["overlap"]], order[self.k_aux : fresh]])
        beta = torch.zeros(self.in_features, dtype=DTYPES[self.dtype])
        beta[active] = signs[: len(active)].to(beta.dtype) / self.output_divisor(task, len(active))
        return beta

    def apply_teacher(self, replica: int, task: str, x: Tensor) -> Tensor:
        """Return x . beta for inputs (n, D)."""
        return x @ self.teacher(replica, task)

    def published_generator(self, cell: Mapping[str, Any], *, pretraining: bool) -> torch.Generator:
        """Return the generator behind the draw of entries and signs, which is the same in pretraining."""
        return self._entries(cell["seed"])[0]

    def _scales(self, teachers: Sequence[str]) -> dict[str, object]:
        """Return the option where it is not the usual one: keys of stored phases without it stay."""
        found = super()._scales(teachers)
        return {} if found["output_scale"] == "sqrt" else found

    def _entries(self, seed: int) -> tuple[torch.Generator, Tensor, Tensor]:
        """Draw which entries become active, and their signs; also return the generator, as it is then."""
        if self.sampling == "published":
            generator, signs = torch.Generator().manual_seed(seed), self.k_aux
        else:
            generator, signs = generator_for(seed, "teacher"), self.in_features
        return generator, *entries_and_signs(generator, self.in_features, signs)


def _check_cell(cell: Cell, k_aux: int, in_features: int, sampling: Sampling) -> None:
    """Refuse a main task that does not fit beside the auxiliary one."""
    overlap, k_main = cell["overlap"], cell["k_main"]
    for name, k in (("k_main", k_main), ("k_aux", k_aux)):
        if overlap > k:
            raise ConfigurationError(f"--data.overlap {overlap}: must be at most --data.{name}, which is {k}")
    if (needed := k_main + k_aux - overlap) > in_features:
        raise ConfigurationError(
            f"--data.in_features {in_features}: k_main {k_main} and k_aux {k_aux} with overlap {overlap} "
            f"need at least {needed}"
        )
    if sampling == "published" and k_main > k_aux:
        raise ConfigurationError(
            f"--data.k_main {k_main}: the published sampling draws k_aux signs, which is {k_aux}; "
            "give no more, or --data.sampling independent"
        )
