"""Teachers of one's own: a class draws them, and its options span a grid and name runs by themselves."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.loader import generator_for
from lit_aux.data.relu_teacher import ReLUTeacher
from lit_aux.data.teacher_base import DTYPES, DType, TeacherDataModule
from lit_aux.data.teacher_draws import independent_rows
from lit_aux.data.teacher_grid import COMMON, as_list, given_seed, in_order, span, whole_number
from lit_aux.data.teacher_options import OwnOption, declared_options
from lit_aux.errors import ConfigurationError, one_line, unknown_name
from lit_aux.finite import all_finite

Teacher = Tensor | Callable[[Tensor], Tensor]
"""Coefficients (D,) of a linear teacher, or what takes inputs (n, D) to targets (n,)."""


class OwnTeacherDataModule(TeacherDataModule):
    """The base of teachers of one's own: write ``draw_teacher``, and the options that it reads.

    What a class's constructor takes beside the options below, and hands on by its name, are options of its
    own. Each enters the names of runs and the keys of stored phases, is written into ``measures.csv``
    (``overlap``, ``k_main``, ``correlation`` and ``magnitude`` into their columns of ``results.csv``), and is
    checked against its annotation: numbers, words, truth values. One whose annotation has a list
    (``float | list[float]``, or ``list[float]``) is an axis: lists of values span a grid together with those
    of ``seed`` and ``n_main``. Any other has one value for all replicas.

    The auxiliary teachers of a seed differ by those options alone that :meth:`draw_teacher` reads for them:
    replicas with equal ones are pretrained once.

    Args:
        seed: Of all that is drawn; by default that of ``seed_everything``, else 0.
        n_main: Training rows of the task ``main``.
        cells: The replicas, each a dict of ``seed``, ``n_main`` and the axes of the class, in place of every
            combination of them. What a cell leaves out is as the option says, which must be one value then.
        in_features: Number of inputs D.
        n_aux: Training rows of the task ``aux``.
        n_test: Test rows of each task.
        dtype: Of inputs and targets; inputs are drawn in float32 either way.
        blocks_per_epoch: How many blocks of training steps are an epoch to Lightning.
        **options: Those of the class.

    Raises:
        ConfigurationError: For options that cannot be satisfied, one that the class takes and does not hand
            on, or a name that the results table needs.
    """

    def __init__(
        self,
        seed: int | list[int] | None = None,
        n_main: int | list[int] = 128,
        cells: list[dict[str, Any]] | None = None,
        *,
        in_features: int = 15,
        n_aux: int = 1024,
        n_test: int = 10_000,
        dtype: DType = "float64",
        blocks_per_epoch: int = 1,
        **options: Any,
    ) -> None:
        given = dict(**options)  # in this form a command line sees that no base takes them
        known = declared_options(type(self), OwnTeacherDataModule)
        _check_handed_on(type(self), known, given)
        axes = {"seed": as_list(given_seed(seed)), "n_main": as_list(n_main)}
        axes |= {name: as_list(given[name]) for name, option in known.items() if option.spans}
        parsers = {**COMMON, **{name: option.parse for name, option in known.items()}}
        replicas = span(axes, parsers, cells)
        for name in known:
            _check_one_kind(name, [cell[name] for cell in replicas if name in cell])
        self._own = {n: option.parse_setting(given[n]) for n, option in known.items() if not option.spans}
        self._read: dict[int, tuple[object, ...]] = {}
        self._tried = False
        super().__init__(
            replicas=in_order(replicas, "cells"),
            in_features=whole_number("in_features", 1)(in_features),
            n_aux=n_aux,
            n_test=n_test,
            sampling="independent",
            dtype=dtype,
            blocks_per_epoch=blocks_per_epoch,
        )

    # What a class says

    @abstractmethod
    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Teacher:
        """Draw the teacher of a task.

        Args:
            task: ``aux`` or ``main``.
            options: A replica's values of the class's own options.
            generator: Of the replica's seed, and the same for both tasks at the beginning: what is drawn
                first, in the same shapes, both have in common.

        Returns:
            Coefficients (D,), a :class:`ReLUTeacher`, or any callable that takes inputs (n, D) in the data's
            dtype to targets (n,). Of the first two, networks of their kind are measured against the teacher.
        """

    def training_targets(
        self, task: str, targets: Tensor, options: Mapping[str, Any], generator: torch.Generator
    ) -> Tensor:
        """Return what a task is trained on in place of its teacher's answers: these. Override it for noise.

        Args:
            task: ``aux`` or ``main``.
            targets: The teacher's answers (n,) to the training inputs; test targets stay as they are.
            options: A replica's values of the class's own options.
            generator: Of the replica's seed and the task.

        Returns:
            Targets (n,).
        """
        return targets

    # What follows from it

    def own_options(self, replica: int) -> dict[str, Any]:
        """Return a replica's values of the class's own options."""
        cell = self.replicas[replica]
        return {name: cell[name] for name in cell if name not in ("seed", "n_main")} | self._own

    def teacher(self, replica: int, task: str) -> Any:
        """Return what :meth:`draw_teacher` draws for a replica, tensors in the data's dtype.

        Raises:
            ConfigurationError: For an unknown task, or what is no teacher.
        """
        self.check_task(task)
        return self._drawn_teacher(replica, task, self.own_options(replica))

    def apply_teacher(self, replica: int, task: str, x: Tensor) -> Tensor:
        """Return a teacher's targets (n,) for inputs (n, D).

        Raises:
            ConfigurationError: If they have another shape, or are not finite.
        """
        teacher = self.teacher(replica, task)
        try:
            found = x @ teacher if isinstance(teacher, Tensor) else teacher(x)
        except RuntimeError as error:
            inputs = f"inputs {tuple(x.shape)} in {self.dtype}"
            raise self._refused(f"the teacher of {task} cannot take {inputs}: {one_line(error)}") from error
        return self._checked_targets(f"the teacher of {task} gives", found, x)

    def settings(self) -> dict[str, object]:
        """Return the options that both tasks depend on, those of the class that are no axes among them."""
        return {**super().settings(), **self._own}

    def setup(self, stage: str | None = None) -> None:
        """Try the first replica's teachers: what they cannot do is said before anything is written."""
        for task in () if self._tried else self.tasks:
            x = independent_rows(0, "trial", 3, self.in_features).to(DTYPES[self.dtype])
            once, again = (self._targets("train", 0, task, x) for _ in range(2))
            if not torch.equal(once, again):
                raise self._refused(
                    f"two draws of the targets of {task} differ; draw from the generator that is given"
                )
        self._tried = True

    def _drawn_teacher(self, replica: int, task: str, options: Mapping[str, Any]) -> Any:
        drawn = self.draw_teacher(task, options, generator_for(self.replicas[replica]["seed"], "teacher"))
        dtype = DTYPES[self.dtype]
        if isinstance(drawn, ReLUTeacher):
            return replace(drawn, directions=drawn.directions.to(dtype), readout=drawn.readout.to(dtype))
        if isinstance(drawn, Tensor):
            if drawn.shape != (self.in_features,):
                raise self._refused(
                    f"the coefficients of {task} have the shape {tuple(drawn.shape)}; return "
                    f"({self.in_features},), one for each of in_features, or a function of the inputs"
                )
            return drawn.to(dtype)
        if not callable(drawn):
            raise self._refused(
                f"the teacher of {task} is {type(drawn).__name__}; return a tensor ({self.in_features},) "
                "or a function of the inputs"
            )
        return drawn

    def _targets(self, split: str, replica: int, task: str, x: Tensor) -> Tensor:
        targets = self.apply_teacher(replica, task, x)
        if split == "test":
            return targets
        found = self.training_targets(
            task, targets, self.own_options(replica), self._target_generator(replica, task)
        )
        return self._checked_targets(f"training_targets of {task} gives", found, x)

    def _target_generator(self, replica: int, task: str) -> torch.Generator:
        return generator_for(self.replicas[replica]["seed"], "targets", task)

    def _checked_targets(self, what: str, found: Any, x: Tensor) -> Tensor:
        """Return targets in the data's dtype; refuse those that are none."""
        if not isinstance(found, Tensor):
            raise self._refused(f"{what} {type(found).__name__} for inputs {tuple(x.shape)}; return a tensor")
        if found.shape == (len(x), 1):
            found = found[:, 0]
        if found.shape != (len(x),):
            raise self._refused(
                f"{what} {tuple(found.shape)} for inputs {tuple(x.shape)}; return one target for each row, "
                f"({len(x)},)"
            )
        targets: Tensor = found.detach().to(x.dtype)
        if not all_finite(targets):
            raise self._refused(f"{what} targets that are not finite")
        return targets

    def _refused(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"data: {type(self).__name__}: {text}")

    # What tells replicas apart

    def _scales(self, teachers: object) -> dict[str, object]:
        return {}

    def _decides(self, replica: int, task: str) -> tuple[object, ...]:
        if task == "main":
            return super()._decides(replica, task)
        if replica not in self._read:
            read = _Read(self.own_options(replica))
            self._drawn_teacher(replica, task, read)
            some = torch.ones(3, dtype=DTYPES[self.dtype])
            self.training_targets(task, some, read, self._target_generator(replica, task))
            names = sorted(name for name in read.names if name not in self._own)
            self._read[replica] = tuple((name, read[name]) for name in names)
        return self._read[replica]

    def _auxiliary_teachers(self) -> list[object]:
        return [(cell["seed"], *self._decides(replica, "aux")) for replica, cell in enumerate(self.replicas)]


class _Read(Mapping[str, Any]):
    """A mapping that knows which of its values were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self.names = values, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _check_handed_on(kind: type, known: Mapping[str, OwnOption], given: Mapping[str, Any]) -> None:
    """Refuse an option that a constructor keeps to itself, and one that none declares."""
    for name in known:
        if name not in given:
            raise ConfigurationError(
                f"data: {kind.__name__} does not hand on its option {name!r}, which would then name no run; "
                f"write super().__init__({name}={name}, **kwargs)"
            )
    for name in given:
        if name not in known:
            names = [*inspect.signature(OwnTeacherDataModule).parameters, *known]
            raise unknown_name("data", name, [n for n in names if n != "options"])


def _check_one_kind(name: str, values: list[Any]) -> None:
    """Refuse words beside numbers, which have no order."""
    kinds = {isinstance(value, str): value for value in values}
    if len(kinds) > 1:
        raise ConfigurationError(
            f"--data.{name}: {kinds[True]!r} stands beside {kinds[False]!r}; give words or numbers alone"
        )
