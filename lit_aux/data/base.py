"""What all image data modules have in common."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import inf
from typing import Any

from torch import Tensor, nn

from lit_aux.data import tasks as of_tasks
from lit_aux.data.arrays import checked
from lit_aux.data.classes import ClassesDataModule
from lit_aux.data.multi_task_loader import Order
from lit_aux.data.samples import Images, Samples
from lit_aux.data.transforms import InputFormat, check_normalization, resolve_input_format
from lit_aux.errors import ConfigurationError, one_line
from lit_aux.identity.encoder import Encoder

Split = dict[str, Samples]
"""Of each task, the samples of a split."""


class TaskDataModule(ClassesDataModule[Samples]):
    """Images divided into classification tasks.

    A batch is ``{task: (x, y)}`` with x float32 (B, C, H, W), normalized, and y int64 (B,), the class's
    number within its task. Images are held in memory as uint8, on the GPU where the trainer has one, and a
    batch is an index look-up. Everything that is drawn depends on the seed alone, and each task's draw on
    that task alone.

    Subclasses name the classes and load the images: other arrays than uint8 are taken, too, where they can
    mean one thing only (see ``lit_aux.data.arrays.checked``).

    Args:
        classes: For each task its number of classes, or a list of class indices or names.
            Listed classes are taken as they are, the others are permuted by the seed.
        n_main: Training images of the task ``main``; all of them by default.
        n_aux: Training images of the task ``aux``; all of them by default.
        n: Training images of any task, by name. More images of the same seed include the fewer.
        n_val: Validation images of each task, taken from the training pool after the training images were.
            By default what is left, 1000 at most, and so none where a task trains on everything; 0 for none.
        n_test: Test images of each task at most; all by default.
        batch_size: Training images of a task per step and process.
        eval_batch_size: The same in validation, test and prediction.
        seed: Of the classes, the draws and the order of batches; by default that of ``seed_everything``, else
            0.
        balanced: Draw classes in turn, so that few images still hold every class; false draws uniformly, as
            in the published experiments.
        size: Height and width to which images are resized once, when they are loaded. By default the
            network's own where it is pretrained, else that of the data.
        channels: Input channels of the network; gray images are repeated. By default a pretrained network's
            own, else 3.
        mean: Subtracted from pixels between 0 and 1; by default the network's own where it is pretrained,
            else .5.
        std: By which they are divided; likewise.
        augment: Applied to uint8 training batches, for instance ``lit_aux.data.RandomCropFlip``.
        label_noise: Share of wrong training labels of a task, by name; the others stay right.
        balance_batches: Draw training batches such that every class of a task is equally likely, with
            replacement: true for all tasks, or a list of some. An epoch has as many images as before.

    Raises:
        ConfigurationError: For options that cannot be satisfied: here where no data are needed to know it,
            else in ``setup``.
    """

    default_size: int | None = None
    """Size for networks that are not pretrained; ``None`` for the images' own."""

    def __init__(
        self,
        classes: Mapping[str, int | list[int | str]] = {"main": 2, "aux": 8},
        n_main: int | None = None,
        n_aux: int | None = None,
        n: Mapping[str, int] | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        seed: int | None = None,
        balanced: bool = True,
        size: int | None = None,
        channels: int | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        augment: nn.Module | None = None,
        label_noise: Mapping[str, float] | None = None,
        balance_batches: bool | list[str] | None = None,
    ) -> None:
        of_tasks.at_least("--data.size", size, 1)
        if channels not in (None, 1, 3):
            raise ConfigurationError(f"--data.channels {channels}: must be 1 or 3")
        check_normalization("--data.mean", mean, -inf)
        check_normalization("--data.std", std, 0)
        super().__init__(
            classes=classes,
            n_main=n_main,
            n_aux=n_aux,
            n=n,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            balanced=balanced,
            label_noise=label_noise,
            balance_batches=balance_batches,
        )
        self.size, self.channels, self.mean, self.std, self.augment = size, channels, mean, std, augment
        self._view: InputFormat | None = None

    # What subclasses say

    @abstractmethod
    def load_pool(self) -> tuple[Images, Tensor]:
        """Return the images that may train or validate, uint8 (N, C, H, W), and their classes, int64 (N,)."""

    # What there is

    @property
    def view(self) -> InputFormat:
        """Size, channels and normalization, after ``setup``."""
        if self._view is None:
            self._view = self._resolve_view()
        return self._view

    def fingerprint(self, tasks: Sequence[str], order: Order = "interleaved") -> str:
        """Return a hash of all that training on ``tasks`` depends on: images, labels, normalization, batches.

        Other tasks, and how many images they have, do not matter.
        """
        parts = [(task, self.samples("train", task).digest()) for task in tasks]
        order = order if len(tasks) > 1 else "interleaved"
        augment = Encoder(strict=False).add("augment", self.augment).key()
        settings = (self.view, self.batch_size, self.seed, order, self._world, augment, *self._balance(tasks))
        text = repr((parts, settings)).replace("InputFormat(", "View(", 1)  # as it was called at first
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def setup(self, stage: str | None = None) -> None:
        """Load, draw and resize the images of a stage, once; again only if the network wants another size."""
        view = self._resolve_view()
        if self._view is not None and (view.size, view.channels) != (self._view.size, self._view.channels):
            self._sets.clear()
        self._view = view
        super().setup(stage)

    # Beneath

    def _transform(self, training: bool) -> Any:
        return self.view.transform(self.augment if training else None)

    def _resolve_view(self) -> InputFormat:
        module = getattr(self.trainer, "lightning_module", None)
        own = {name: getattr(self, name) for name in ("size", "channels", "mean", "std", "default_size")}
        return resolve_input_format(getattr(module, "data_config", None), **own)

    def _loaded(self, split: str) -> tuple[Images, Tensor]:
        """Return what a method above loads; colour images where the network takes gray ones are refused."""
        load: Callable[[], tuple[Images, Tensor]] = getattr(self, f"load_{split}")
        images, labels = checked(load, self.class_names)
        if isinstance(images, Tensor) and images.shape[1] not in (1, self.view.channels):
            raise ConfigurationError(
                f"--data.channels {self.view.channels}: the images have {images.shape[1]} channels"
            )
        return images, labels

    def _pick(self, items: Images, labels: Tensor, chosen: Tensor, classes: list[int]) -> Samples:
        return Samples.pick(items, labels, chosen, classes, self.view)


def fetch(name: str, download: Callable[[], object]) -> None:
    """Run a download.

    Args:
        name: What is fetched.
        download: Does it.

    Raises:
        ConfigurationError: If it fails, with the reason.
    """
    try:
        download()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no space, a wrong checksum
        reason = one_line(error)
        raise ConfigurationError(f"--data.download true: {name} could not be fetched ({reason})") from None
