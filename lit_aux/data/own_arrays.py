"""Tasks in arrays of a user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.data import tasks as of_tasks
from lit_aux.data.inputs import inputs_of, mean_and_deviation, scale_of, scaled, standardized
from lit_aux.data.loader import InMemoryLoader, TaskLoader, generator_for, unchanged
from lit_aux.data.multi_task_loader import Order
from lit_aux.data.splits import SplitsDataModule
from lit_aux.data.targets import Given, given_targets, known_targets, targets_for, task_of
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.identity.encoder import Encoder
from lit_aux.ranges import Range
from lit_aux.tasks import Task, described, outputs_of
from lit_aux.trees import count_rows, form_of, mapped, selected

Arrays = Mapping[str, tuple[Any, Any]]
"""``{task: (x, y)}``."""


@dataclass
class ArraySamples:
    """The samples of one task in one split.

    Attributes:
        inputs: A tensor, or a dict or tuple of tensors, with a row a sample.
        labels: Targets, with a row a sample.
        rows: Their numbers among the rows that were given, int64 (N,).
    """

    inputs: Any
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> "ArraySamples":
        """Take some rows."""
        return ArraySamples(selected(self.inputs, rows), self.labels[rows], self.rows[rows])

    def to(self, device: torch.device) -> "ArraySamples":
        """Move to a device; nothing is copied where it is there already."""
        inputs = mapped(self.inputs, lambda x: x.to(device))
        return ArraySamples(inputs, self.labels.to(device), self.rows)

    def loader(self, transform: Any, **options: Any) -> TaskLoader:
        """Return the loader of these samples; see ``TaskLoader`` for the options."""
        loader = InMemoryLoader(self.inputs, self.labels, transform, **options)
        loader.names = self.rows.numpy()
        return loader

    def digest(self) -> str:
        """Return a hash of inputs and targets."""
        return Encoder().add("inputs", self.inputs).add("labels", self.labels).key()


class ArraysDataModule(SplitsDataModule[ArraySamples]):
    """Tasks in arrays: tensors, numpy arrays, data frames and series, lists.

    A batch is ``{task: (x, y)}``. What each task is, is told by its targets: whole numbers, truth values or
    names (N,) are classes, floats (N,) or (N, C) values, zeros and ones (N, C) several labels a row. Where
    they may mean several things, an error says so, and ``tasks`` what is meant. Missing are -100 among whole
    numbers, NaN among floats, None among names; rows without any target neither train nor validate.

    A fifth of the rows is held out for testing, unless there are ``test`` arrays; tasks of equally many rows,
    which may be the same ones, hold out the same. Validation rows are drawn likewise where ``n_val`` says how
    many; by default they are what training leaves. All is drawn by the seed, and a smaller number of training
    rows is part of a larger one.

    Args:
        arrays: Of each task the pair of inputs and targets. Inputs are an array with a row a sample, or a
            dict of such, which the backbone takes by name, or a tuple, which it takes in order. Floats become
            torch's default type, whole numbers stay whole.
        tasks: What tasks are, a :class:`~lit_aux.Task` or a number of outputs; those that are left out are
            told by their targets.
        val: Validation arrays of tasks that have some of their own.
        test: Test arrays, likewise.
        test_fraction: Part of the rows held out for testing, of tasks without arrays for it; 0 for none.
        n_main: Training rows of the task ``main``; all that are left by default.
        n_aux: Training rows of the task ``aux``.
        n: Training rows of any task, by name.
        n_val: Validation rows of each task; by default what is left, 1000 at most, and so none where a task
            trains on everything; 0 for none.
        n_test: Test rows of each task at most; all by default.
        standardize: Give every column of floats among the inputs mean 0 and deviation 1, over all rows that
            may train, of all tasks whose inputs are alike.
        standardize_targets: The same for the targets of regressions, task by task; :meth:`in_units` goes
            back. Metrics, but for R2, are in deviations then.
        batch_size: Training rows of a task per step and process.
        eval_batch_size: The same in validation, test and prediction.
        seed: Of the draws and the order of batches; by default that of ``seed_everything``, else 0.
        balanced: Draw the classes of a classification in turn, so that few rows still hold every class.
        balance_batches: Draw training batches such that every class of a task is equally likely, with
            replacement: true for all tasks, or a list of some. An epoch has as many rows as before.

    Attributes:
        task_types: What each task is.
        label_names: Of tasks whose targets are names, the names in the order of their numbers.

    Raises:
        ConfigurationError: For arrays or options that do not fit together.

    Example:
        >>> import torch
        >>> from lit_aux.data import ArraysDataModule
        >>> x = torch.randn(50, 4)
        >>> data = ArraysDataModule({"main": (x, x.sum(1)), "aux": (x, x[:, 0] > 0)})
        >>> {name: (task.kind, task.outputs) for name, task in data.task_types.items()}
        {'main': ('regression', 1), 'aux': ('classification', 2)}
        >>> [len(data.samples(split, "main")) for split in ("train", "val", "test")]
        [40, 0, 10]
    """

    def __init__(
        self,
        arrays: Arrays,
        tasks: Mapping[str, Task | int] | None = None,
        *,
        val: Arrays | None = None,
        test: Arrays | None = None,
        test_fraction: float = 0.2,
        n_main: int | None = None,
        n_aux: int | None = None,
        n: Mapping[str, int] | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        standardize: bool = False,
        standardize_targets: bool = False,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        seed: int | None = None,
        balanced: bool = True,
        balance_batches: bool | list[str] | None = None,
    ) -> None:
        super().__init__(
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            balanced=balanced,
            balance_batches=balance_batches,
        )
        if test_fraction not in Range(least=0, below=1):
            raise ConfigurationError(f"--data.test_fraction {test_fraction}: must be at least 0 and below 1")
        self.test_fraction = test_fraction
        self.standardize, self.standardize_targets = standardize, standardize_targets
        given = _pairs(arrays, "arrays")
        if not given:
            raise ConfigurationError("arrays: {} is empty; give {task: (x, y)}")
        found = {name: given_targets(y, f"arrays: targets of {name!r}") for name, (_, y) in given.items()}
        self.label_names = {name: one.names for name, one in found.items() if one.names is not None}
        self.task_types = _task_types(found, tasks)
        self._check_balance()
        self._pool = {name: self._samples(name, x, found[name], "arrays") for name, (x, _) in given.items()}
        self._own = {"val": self._own_split("val", val), "test": self._own_split("test", test)}
        self.n = of_tasks.resolve_counts(list(given), n_main, n_aux, n)
        self._rows = {name: self._split(name) for name in given}
        self._target_scales: dict[str, tuple[Tensor, Tensor]] = {}
        self._scaled = False

    # What there is

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of outputs of each task."""
        return outputs_of(self.task_types)

    def fingerprint(self, tasks: Sequence[str], order: Order = "interleaved") -> str:
        """Return a hash of all that training on ``tasks`` depends on: inputs, targets and batches.

        Other tasks, and how many rows they have, do not matter (but for their share in the mean and deviation
        of standardized inputs).
        """
        return self._training_digest(tasks, order)

    def options(self) -> dict[str, Any]:
        """Return the options that are kept under other names than they are given under, and all arrays."""
        return {**super().options(), "arrays": self._digests}

    def names_of_classes(self, task: str) -> Sequence[str] | None:
        """Return the names of a task's classes by their numbers, where its targets are names."""
        check_known("task", task, self.tasks)
        return self.label_names.get(task)

    def in_units(self, task: str, values: Tensor) -> Tensor:
        """Return outputs or targets of a task in the units of its arrays, where targets are standardized."""
        check_known("task", task, self.tasks)
        self._standardize()
        if task not in self._target_scales:
            return values
        mean, deviation = (part.to(values) for part in self._target_scales[task])
        return values * deviation + mean

    # Beneath

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Hashes of all arrays, as they are given."""
        return {
            f"{split} of {name}": samples.digest()
            for split, held in {"arrays": self._pool, **self._own}.items()
            for name, samples in held.items()
        }

    def _samples(self, name: str, x: Any, given: Given, option: str) -> ArraySamples:
        """Return the samples of a task's arrays."""
        inputs, y = inputs_of(x, f"{option}: inputs of {name!r}"), targets_for(self.task_types[name], given)
        if count_rows(inputs) != len(y):
            raise ConfigurationError(
                f"{option}: task {name!r} has {count_rows(inputs)} rows of inputs and {len(y)} targets; give "
                "a target for each row, one that is missing as -100 or NaN"
            )
        return ArraySamples(inputs, y, torch.arange(len(y)))

    def _own_split(self, split: str, arrays: Arrays | None) -> dict[str, ArraySamples]:
        """Return the samples of arrays that are a split of their own."""
        found = {}
        for name, (x, y) in _pairs(arrays or {}, split).items():
            check_known(split, name, self.task_types)
            given = given_targets(y, f"{split}: targets of {name!r}", self.label_names.get(name))
            if (given.names is not None) != (name in self.label_names):
                raise ConfigurationError(f"{given.what} are not named as those of the training arrays are")
            found[name] = self._samples(name, x, given, split)
            here, there = form_of(found[name].inputs), form_of(self._pool[name].inputs)
            if here != there:
                raise ConfigurationError(
                    f"{split}: inputs of {name!r} are not like those of the training arrays: "
                    f"{_formed(found[name].inputs)} beside {_formed(self._pool[name].inputs)}"
                )
        return found

    def _split(self, name: str) -> dict[str, Tensor]:
        """Return the rows of a task that train, validate, test, and all that may train, ``pool``."""
        held, task = self._pool[name], self.task_types[name]
        total = len(held)
        # by the number of rows, not by the task: the same rows of several tasks stay on one side
        order = torch.randperm(total, generator=generator_for(self.seed, "rows", total))
        apart = 0 if name in self._own["test"] else round(self.test_fraction * total)
        test, rest = order[:apart], order[apart:]
        rest = rest[known_targets(held.labels, task).reshape(total, -1).any(1)[rest]]
        if not len(rest):
            raise ConfigurationError(f"arrays: task {name!r} has no row with a target to train on")
        n_val = 0 if name in self._own["val"] else self.n_val
        first, second = of_tasks.split_sizes(name, self.n[name], n_val, len(rest), "rows")
        val, pool = (rest[:second], rest[second:]) if n_val is not None else (rest[:0], rest)
        drawn = self._drawn(name, pool)
        train = drawn[:first]
        val = drawn[first : first + second] if n_val is None else val
        return {"train": train, "val": val.sort().values, "test": test[: self.n_test].sort().values} | {
            "pool": pool
        }

    def _drawn(self, name: str, pool: Tensor) -> Tensor:
        """Return rows in the order in which they are drawn: classes in turn, where that is wanted."""
        task, labels = self.task_types[name], self._pool[name].labels[pool]
        generator = generator_for(self.seed, "pool", name)
        numbers = task.kind == "classification" and labels.ndim == 1 and not labels.is_floating_point()
        if not numbers or int(labels.min()) < 0 or int(labels.max()) >= task.outputs:  # of a loss of its own
            return pool[torch.randperm(len(pool), generator=generator)]
        of_tasks.check_classes_covered(name, self.n[name], task.outputs, self.balanced)
        return pool[of_tasks.draw_samples(labels, range(task.outputs), None, generator, self.balanced)]

    def setup(self, stage: str | None = None) -> None:
        """Draw the rows of a stage, once."""
        self._standardize()
        super().setup(stage)

    def _standardize(self) -> None:
        """Standardize inputs and targets, once, if that is wanted."""
        if self._scaled:
            return
        self._scaled = True
        if self.standardize or self.standardize_targets:
            _ = self._digests  # which are of the arrays before
        if self.standardize:
            self._standardize_inputs()
        for name, task in self.task_types.items():
            if self.standardize_targets and task.kind == "regression":
                scale = mean_and_deviation(self._pool[name].labels[self._rows[name]["pool"]].double())
                self._target_scales[name] = scale
                for samples in self._all(name):
                    samples.labels = standardized(samples.labels, scale)

    def _standardize_inputs(self) -> None:
        """Standardize inputs, those of all tasks that are alike by the same numbers."""
        alike: dict[Any, list[str]] = {}
        for name, samples in self._pool.items():
            alike.setdefault(form_of(samples.inputs), []).append(name)
        for names in alike.values():
            pools = [selected(self._pool[name].inputs, self._rows[name]["pool"]) for name in names]
            scale = scale_of(pools)
            for samples in (one for name in names for one in self._all(name)):
                samples.inputs = scaled(samples.inputs, scale)

    def _all(self, name: str) -> list[ArraySamples]:
        """Return the samples of all arrays of a task."""
        held = [self._pool, *self._own.values()]
        return [samples[name] for samples in held if name in samples]

    def _draw_pool(self) -> tuple[dict[str, ArraySamples], dict[str, ArraySamples]]:
        self._tell_unlabelled()
        train = {name: self._pool[name].select(rows["train"]) for name, rows in self._rows.items()}
        return train, self._apart("val", self.n_val)

    def _draw_test(self) -> dict[str, ArraySamples]:
        return self._apart("test", self.n_test)

    def _apart(self, split: str, most: int | None) -> dict[str, ArraySamples]:
        """Return the samples of a split that is not for training."""
        found = {}
        for name, rows in self._rows.items():
            own = self._own[split].get(name)
            found[name] = self._pool[name].select(rows[split]) if own is None else own
            if own is not None and most is not None and len(own) > most:
                drawn = torch.randperm(len(own), generator=generator_for(self.seed, split, name))[:most]
                found[name] = own.select(drawn.sort().values)
        return found

    def _tell_unlabelled(self) -> None:
        """Say how many rows cannot train."""
        for name, samples in self._pool.items():
            known = known_targets(samples.labels, self.task_types[name]).reshape(len(samples), -1).any(1)
            if count := int((~known).sum()):
                rank_zero_warn(
                    f"arrays: {count} of {len(samples)} rows of task {name!r} have no target and do not train"
                )

    def _transform(self, training: bool) -> Any:
        return unchanged


def _formed(inputs: Any) -> str:
    """Return the shape of inputs, without their rows."""
    shapes: list[str] = []
    mapped(inputs, lambda x: shapes.append(f"(N, {', '.join(map(str, x.shape[1:]))}) {x.dtype}"))
    names = [f"{key}: " for key in inputs] if isinstance(inputs, Mapping) else [""] * len(shapes)
    found = ", ".join(f"{name}{shape}" for name, shape in zip(names, shapes, strict=True))
    return found.replace("(N, )", "(N,)").replace("torch.", "")


def _pairs(arrays: Any, option: str) -> dict[str, tuple[Any, Any]]:
    """Return tasks and their pairs of inputs and targets, checked for that form."""
    if not isinstance(arrays, Mapping):
        raise ConfigurationError(f"{option}: a {type(arrays).__name__}; give {{task: (x, y)}}")
    found = {}
    for name, pair in arrays.items():
        of_tasks.check_task_name(f"{option}:", name)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigurationError(
                f"{option}: {name!r} has a {type(pair).__name__}; give the pair (x, y) of inputs and targets"
            )
        found[name] = (pair[0], pair[1])
    return found


def _task_types(found: Mapping[str, Given], tasks: Mapping[str, Task | int] | None) -> dict[str, Task]:
    """Return what each task is: as it is said, else as its targets tell it."""
    if tasks is not None and not isinstance(tasks, Mapping):
        raise ConfigurationError(f"tasks: {tasks!r} is no mapping of tasks, as {{main: 2}}")
    for name in tasks or {}:
        if name not in found:
            raise ConfigurationError(
                f"tasks: {name!r} has no arrays; there are those of {', '.join(found)}, give {name!r} some"
            )
    described(tasks or {})  # refuses what is no task
    types = {}
    for name, given in found.items():
        said = (tasks or {}).get(name)
        types[name] = said if isinstance(said, Task) else task_of(given, said)
    return types
