"""ReLU teachers for ReLU networks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lit_aux.data import teacher_grid as grid
from lit_aux.data.loader import generator_for
from lit_aux.data.teacher_base import DTYPES, TeacherDataModule, is_pretraining
from lit_aux.data.teacher_draws import orthogonal_directions, published_rows, random_signs
from lit_aux.errors import ConfigurationError
from lit_aux.teachers import RELU_DRAWS, Sampling


@dataclass(frozen=True, eq=False)
class ReLUTeacher:
    """One layer of ReLU units without biases, and a linear readout of it.

    Attributes:
        directions: The units' input weights (J, d), each of length 1.
        readout: The units' output weights (J,).
    """

    directions: Tensor
    readout: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (n,) for inputs (n, d)."""
        return torch.relu(x @ self.directions.T) @ self.readout


def fresh_directions(correlations: Sequence[float]) -> int:
    """Return how many main units need a direction that no auxiliary unit has."""
    return sum(abs(correlation) < 1 for correlation in correlations)


def correlated_directions(basis: Tensor, k_aux: int, correlations: Sequence[float]) -> Tensor:
    """Turn auxiliary directions towards fresh ones.

    Main unit j lies in the plane of its auxiliary unit, row j of the basis, and of the fresh row
    ``k_aux + j``: c_j W[j] + sqrt(1 - c_j^2) W[k_aux + j]. Where the basis ends before that row, the first
    that no other unit takes is fresh.

    Args:
        basis: Orthonormal rows W (d, d).
        k_aux: How many of the rows, from the first on, are auxiliary units.
        correlations: c_j of every main unit, between -1 and 1; 0 where there is no auxiliary unit j.

    Returns:
        (k_main, d), rows of length 1 whose product with auxiliary unit j is c_j.

    Raises:
        ValueError: If the basis has too few rows.
    """
    rows = len(basis)
    if k_aux + fresh_directions(correlations) > rows:
        raise ValueError(f"{rows} directions are too few")
    own = {j: k_aux + j for j, c in enumerate(correlations) if abs(c) < 1}
    left = iter([row for row in range(k_aux, rows) if row not in own.values()])
    directions = []
    for j, c in enumerate(correlations):
        direction = torch.zeros_like(basis[0]) if c == 0 else c * basis[j]
        if j in own:
            row = own[j] if own[j] < rows else next(left)
            direction = direction + (1 - c * c) ** 0.5 * basis[row]
        directions.append(direction)
    return torch.stack(directions)


class ReLUTeacherDataModule(TeacherDataModule):
    """Small ReLU networks as teachers, whose main units are correlated with the auxiliary ones.

    Unit directions are rows of a random orthogonal matrix; main unit j has the product c_j with auxiliary
    unit j. Output weights have random signs and equal size, drawn for each task. Lists of ``seed``,
    ``n_main``, ``k_main``, ``correlation`` and ``magnitude`` span a grid; see :class:`TeacherDataModule`.

    After Lippl & Lindsey (arXiv 2310.02396), whose runs ``sampling="published"`` draws again: the signs of
    all units, then ``aux``, ``main`` and test inputs, then the network, all from one generator, so that
    ``k_main`` and ``n_main`` move what follows; in pretraining (``aux`` alone) the auxiliary signs, ``aux``
    and test inputs and the network. Directions are those of scipy 1.10 and later.

    Args:
        seed: Of all that is drawn; by default that of ``seed_everything``, else 0.
        n_main: Training rows of the task ``main``.
        correlation: One number for all units, a list of one for each main unit, or the same as
            ``"1.0|0.9|..."``. A list that holds strings or lists is an axis of the grid.
        k_main: Units of the main teacher.
        magnitude: Multiplies the main teacher's output weights.
        cells: The replicas, each a dict of the five options above, in place of every combination of them.
            What a cell leaves out is as the option says, which must be one value then.
        k_aux: Units of the auxiliary teacher.
        in_features: Number of inputs d.
        sampling: See above, and :class:`TeacherDataModule`.
        **kwargs: ``n_aux``, ``n_test``, ``output_scale``, ``dtype`` and ``blocks_per_epoch`` of
            :class:`TeacherDataModule`.

    Raises:
        ConfigurationError: For options that cannot be satisfied.
    """

    def __init__(
        self,
        seed: int | list[int] | None = None,
        n_main: int | list[int] = 128,
        correlation: float | list[float] | list[str | float | list[float]] | str = 1.0,
        k_main: int | list[int] = 6,
        magnitude: float | list[float] = 1.0,
        cells: list[dict[str, Any]] | None = None,
        *,
        k_aux: int = 6,
        in_features: int = 15,
        sampling: Sampling = "published",
        **kwargs: Any,
    ) -> None:
        k_aux = grid.whole_number("k_aux", 1)(k_aux)
        in_features = grid.whole_number("in_features", 2)(in_features)
        axes = {
            "seed": grid.as_list(grid.given_seed(seed)),
            "n_main": grid.as_list(n_main),
            "k_main": grid.as_list(k_main),
        }
        axes |= {"correlation": _correlation_axis(correlation), "magnitude": grid.as_list(magnitude)}
        parsers = {**grid.COMMON, "correlation": _correlation, "magnitude": grid.positive_number("magnitude")}
        replicas = [_resolve(cell, k_aux, in_features) for cell in grid.span(axes, parsers, cells)]
        replicas = grid.in_order(replicas, "correlation" if cells is None else "cells")
        super().__init__(
            replicas=[{**cell, "correlation": "|".join(map(repr, cell["correlation"]))} for cell in replicas],
            k_aux=k_aux,
            in_features=in_features,
            sampling=sampling,
            **kwargs,
        )

    def teacher(self, replica: int, task: str) -> ReLUTeacher:
        """Return the teacher of a replica's task, in the data's dtype.

        Raises:
            ConfigurationError: For an unknown task.
        """
        self.check_task(task)
        cell = self.replicas[replica]
        basis = orthogonal_directions(cell["seed"], self.sampling, self.in_features)
        if task == "aux":
            directions, magnitude = basis[: self.k_aux], 1.0
        else:
            correlations = [float(c) for c in cell["correlation"].split("|")]
            directions, magnitude = correlated_directions(basis, self.k_aux, correlations), cell["magnitude"]
        size = magnitude / self.output_divisor(task, len(directions))
        dtype = DTYPES[self.dtype]
        return ReLUTeacher(directions.to(dtype), (size * self._signs(cell, task).double()).to(dtype))

    def _signs(self, cell: Mapping[str, Any], task: str) -> Tensor:
        if self.sampling == "published":
            return self._published_signs(cell, ["aux"] if task == "aux" else ["aux", "main"])[1]
        # as many signs for every teacher: those of fewer units are the first of more
        most = random_signs(generator_for(cell["seed"], "signs", task), self.in_features)
        return most[: self.k_aux if task == "aux" else cell["k_main"]]

    def apply_teacher(self, replica: int, task: str, x: Tensor) -> Tensor:
        """Return the teacher's outputs for inputs (n, d)."""
        return self.teacher(replica, task)(x)

    def published_generator(self, cell: Mapping[str, Any], *, pretraining: bool) -> torch.Generator:
        """Return the generator behind the draw of signs, which in pretraining are the auxiliary ones."""
        return self._published_signs(cell, ["aux"] if pretraining else ["aux", "main"])[0]

    def _published_signs(
        self, cell: Mapping[str, Any], tasks: Sequence[str]
    ) -> tuple[torch.Generator, Tensor]:
        """Draw the signs of tasks one after another; return the generator as it is then, and the last."""
        generator = torch.Generator().manual_seed(cell["seed"])
        signs = [random_signs(generator, self.k_aux if task == "aux" else cell["k_main"]) for task in tasks]
        return generator, signs[-1]

    def stream(self, cell: Mapping[str, Any], *, pretraining: bool) -> tuple[object, ...]:
        """Return what moves the published draws of inputs: pretraining, else the number of main units."""
        return ("pretraining",) if pretraining else ("k_main", cell["k_main"])

    def network_generator(self, replica: int, tasks: Sequence[str]) -> torch.Generator | None:
        """Return the generator behind the draws of inputs; None where they are ``independent``."""
        if self.sampling != "published":
            return None
        cell, pretraining = self.replicas[replica], is_pretraining(tasks)
        generator = self.published_generator(cell, pretraining=pretraining)
        own = [] if pretraining else [int(cell["n_main"])]
        published_rows(generator, [self.n_aux, *own, self.n_test], self.in_features)
        return generator

    def settings(self) -> dict[str, object]:
        """Return the options that both tasks depend on."""
        return super().settings() | ({"draws": RELU_DRAWS} if self.sampling == "published" else {})


def _correlation_axis(value: object) -> list[object]:
    """Return the values of the axis; a list of numbers is a single value, a number for each unit."""
    values = grid.as_list(value)
    whole = isinstance(value, list | tuple) and value and all(isinstance(entry, Real) for entry in value)
    return [value] if whole else values


def _correlation(value: object) -> float | tuple[float, ...]:
    """Read one value: a number is for all units, a tuple has one for each."""
    entries: list[Any] = value.split("|") if isinstance(value, str) else grid.as_list(value)
    numbers = []
    for entry in entries:
        number = nan
        with suppress(TypeError, ValueError):
            number = float(entry)
        if not -1 <= number <= 1:
            raise ConfigurationError(
                f"--data.correlation {value}: {entry!r} must be a number from -1 to 1; give one, or one for "
                "each main unit"
            )
        numbers.append(number + 0.0)  # -0.0 is 0.0
    alone = isinstance(value, Real) or (isinstance(value, str) and len(numbers) == 1)
    return numbers[0] if alone else tuple(numbers)


def _resolve(cell: grid.Cell, k_aux: int, in_features: int) -> grid.Cell:
    """Give every main unit its correlation, and refuse more units than fit."""
    k_main, value = cell["k_main"], cell["correlation"]
    correlations = value if isinstance(value, tuple) else (value,) * k_main
    if len(correlations) != k_main:
        raise ConfigurationError(
            f"--data.correlation {'|'.join(map(repr, correlations))}: {len(correlations)} numbers for k_main "
            f"{k_main}; give one for each main unit, or one for all"
        )
    for j, correlation in enumerate(correlations[k_aux:], k_aux + 1):
        if correlation != 0:
            raise ConfigurationError(
                f"--data.correlation {correlation}: main unit {j} has no auxiliary unit, k_aux is {k_aux}; "
                "it can only have 0"
            )
    fresh = fresh_directions(correlations)
    if k_aux + fresh > in_features:
        raise ConfigurationError(
            f"--data.in_features {in_features}: {k_aux} auxiliary units and {fresh} main units that are not "
            f"among them need {k_aux + fresh} orthogonal directions; give at least as many"
        )
    return {**cell, "correlation": correlations}
