"""What all data modules have in common whose tasks are classes drawn from one labelled set."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from lit_aux.data import tasks as of_tasks
from lit_aux.data.loader import generator_for
from lit_aux.data.samples import check_noise, noisy_labels
from lit_aux.data.splits import SplitsDataModule, TaskSamples
from lit_aux.errors import check_known

Held = TypeVar("Held", bound=TaskSamples)


class ClassesDataModule(SplitsDataModule[Held]):
    """Labelled items, images or texts, whose classes are divided among classification tasks.

    Everything that is drawn depends on the seed alone, and each task's draw on that task alone. Subclasses
    name the classes and load the items.

    Args:
        classes: For each task its number of classes, or a list of class indices or names.
            Listed classes are taken as they are, the others are permuted by the seed.
        n_main: Training items of the task ``main``; all of them by default.
        n_aux: Training items of the task ``aux``; all of them by default.
        n: Training items of any task, by name. More items of the same seed include the fewer.
        label_noise: Share of wrong training labels of a task, by name; the others stay right.
        **options: As for :class:`SplitsDataModule`.

    Raises:
        ConfigurationError: For options that cannot be satisfied: here where no data are needed to know it,
            else in ``setup``.
    """

    items = "images"
    """What there is of each class, for messages."""

    def __init__(
        self,
        *,
        classes: Mapping[str, int | list[int | str]],
        n_main: int | None,
        n_aux: int | None,
        n: Mapping[str, int] | None,
        label_noise: Mapping[str, float] | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.task_classes = of_tasks.assign_classes(classes, self.class_names, self.seed)
        self._check_balance()
        self.n = of_tasks.resolve_counts(list(self.task_classes), n_main, n_aux, n)
        self.label_noise = check_noise(label_noise, self.task_classes)
        for task, count in self.n.items():
            of_tasks.check_classes_covered(task, count, len(self.task_classes[task]), self.balanced)
            if (pool := self.pool_counts()) is not None:
                available = sum(pool[index] for index in self.task_classes[task])
                n_val = 0 if self.has_own_validation else self.n_val
                of_tasks.split_sizes(task, count, n_val, available, self.items)

    # What subclasses say

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The name of every class, by index; known before anything is loaded."""

    @abstractmethod
    def load_pool(self) -> tuple[Any, Tensor]:
        """Return the items that may train or validate, and their classes, int64 (N,)."""

    @abstractmethod
    def load_test(self) -> tuple[Any, Tensor]:
        """Return the test items and their classes."""

    def load_val(self) -> tuple[Any, Tensor]:
        """Return validation items and their classes, where ``has_own_validation`` is true."""
        raise NotImplementedError

    @property
    def has_own_validation(self) -> bool:
        """Whether validation items are a set of their own instead of a part of the pool."""
        return False

    def pool_counts(self) -> list[int] | None:
        """Return the number of pool items of every class, where it is known without loading them."""
        return None

    @abstractmethod
    def _loaded(self, split: str) -> tuple[Any, Tensor]:
        """Return what the method of a split (``pool``, ``val``, ``test``) loads, checked."""

    @abstractmethod
    def _pick(self, items: Any, labels: Tensor, chosen: Tensor, classes: list[int]) -> Held:
        """Return samples of the items ``chosen``, whose classes are numbered within the task."""

    # What there is

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of each task; known before anything is loaded."""
        return {task: len(classes) for task, classes in self.task_classes.items()}

    def names_of_classes(self, task: str) -> list[str]:
        """Return the names of a task's classes, by their number within it."""
        check_known("task", task, self.task_classes)
        return [str(self.class_names[index]) for index in self.task_classes[task]]

    def options(self) -> dict[str, Any]:
        """Return the options that are kept under other names than they are given under."""
        return {**super().options(), "classes": self.task_classes}

    # Beneath

    @property
    def _is_tested_later(self) -> bool:
        """Whether own test items are needed after the fit, and so are better looked at before it."""
        own = self.load_test.__module__.partition(".")[0] != "lit_aux"
        return own and bool(getattr(self.trainer, "test_after_phase", False))

    def _draw_pool(self) -> tuple[dict[str, Held], dict[str, Held]]:
        """Draw training items and, from what they leave, validation items of each task."""
        train, val = self._split_pool()
        return train, self._apart("val", self.n_val) if self.has_own_validation else val

    def _draw_test(self) -> dict[str, Held]:
        return self._apart("test", self.n_test)

    def _split_pool(self) -> tuple[dict[str, Held], dict[str, Held]]:
        items, labels = self._loaded("pool")
        n_val = 0 if self.has_own_validation else self.n_val
        train, val = {}, {}
        for task, classes in self.task_classes.items():
            drawn = of_tasks.draw_samples(
                labels, classes, None, generator_for(self.seed, "pool", task), self.balanced
            )
            first, second = of_tasks.split_sizes(task, self.n[task], n_val, len(drawn), self.items)
            train[task] = self._pick(items, labels, drawn[:first], classes)
            if share := self.label_noise.get(task):
                train[task].labels = noisy_labels(train[task].labels, len(classes), share, self.seed, task)
            val[task] = self._pick(items, labels, drawn[first : first + second], classes)
        return train, val

    def _apart(self, purpose: str, n: int | None) -> dict[str, Held]:
        """Draw at most ``n`` items of each task from a set with one purpose, ``val`` or ``test``."""
        items, labels = self._loaded(purpose)
        found = {}
        for task, classes in self.task_classes.items():
            drawn = of_tasks.draw_samples(labels, classes, None, generator_for(self.seed, purpose, task))[:n]
            # in the order of the data set, so that predictions can be told apart
            found[task] = self._pick(items, labels, drawn.sort().values, classes)
        return found
