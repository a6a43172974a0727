"""Which images of a set go to which task and split."""

from collections.abc import Mapping

from torch import Tensor

from lit_aux.data.counts import split_sizes
from lit_aux.data.input_format import InputFormat
from lit_aux.data.order import generator_for
from lit_aux.data.samples import Images, Samples
from lit_aux.data.tasks import draw_samples
from lit_aux.errors import ConfigurationError

Split = dict[str, Samples]
TaskClasses = Mapping[str, list[int]]


def split_pool(
    pool: tuple[Images, Tensor],
    tasks: TaskClasses,
    n: Mapping[str, int | None],
    n_val: int | None,
    view: InputFormat,
    *,
    seed: int,
    balanced: bool,
    noise: Mapping[str, float] = {},
) -> tuple[Split, Split]:
    """Draw training images and, from what they leave, validation images of each task.

    A task's share of ``noise`` of the training labels is made wrong.

    Raises:
        ConfigurationError: If the pool is too small.
    """
    images, labels = pool
    _check_channels(images, view)
    train, val = {}, {}
    for task, classes in tasks.items():
        drawn = draw_samples(labels, classes, None, generator_for(seed, "pool", task), balanced)
        first, second = split_sizes(task, n[task], n_val, len(drawn))
        train[task] = Samples.pick(images, labels, drawn[:first], classes, view)
        train[task].add_noise(len(classes), noise.get(task, 0.0), seed, task)
        val[task] = Samples.pick(images, labels, drawn[first : first + second], classes, view)
    return train, val


def split_apart(
    data: tuple[Images, Tensor],
    tasks: TaskClasses,
    n: int | None,
    view: InputFormat,
    *,
    seed: int,
    purpose: str,
) -> Split:
    """Draw at most ``n`` images of each task from a set with one purpose, ``val`` or ``test``."""
    images, labels = data
    _check_channels(images, view)
    result = {}
    for task, classes in tasks.items():
        drawn = draw_samples(labels, classes, None, generator_for(seed, purpose, task))[:n]
        # in the order of the data set, so that predictions can be told apart
        result[task] = Samples.pick(images, labels, drawn.sort().values, classes, view)
    return result


def _check_channels(images: Images, view: InputFormat) -> None:
    """Refuse colour images where the network takes gray ones."""
    if isinstance(images, Tensor) and images.shape[1] not in (1, view.channels):
        raise ConfigurationError(
            f"--data.channels {view.channels}: the images have {images.shape[1]} channels"
        )
