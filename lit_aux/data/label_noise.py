"""Labels that are wrong on purpose."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lit_aux.data.order import generator_for
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.ranges import Range

_OPTION = "--data.label_noise"


def check_noise(noise: Mapping[str, float] | None, tasks: Collection[str]) -> dict[str, float]:
    """Return the share of wrong labels of each task that has any.

    Raises:
        ConfigurationError: For an unknown task, or a share that is not between 0 and 1.
    """
    if noise is not None and not isinstance(noise, Mapping):
        raise ConfigurationError(f"{_OPTION} {noise!r}: is no mapping of tasks to shares, as {{main: 0.1}}")
    for task, share in (noise or {}).items():
        if task not in tasks:
            raise unknown_name(_OPTION, task, tasks)
        if share not in Range(least=0, most=1):
            raise ConfigurationError(f"{_OPTION}.{task} {share}: must be between 0 and 1")
    return dict(noise or {})


def noisy_labels(labels: Tensor, classes: int, share: float, seed: int, task: str) -> Tensor:
    """Give a share of the labels another class, drawn uniformly from all the others.

    Which labels, and which classes they get, depends on seed and task. A label that is wrong for one share is
    wrong in the same way for every larger one. With c classes, a share of 1 - 1 / c leaves labels that say
    nothing of the images.

    Args:
        labels: int64 (N,), local to the task.
        classes: Number of classes.
        share: Probability with which a label becomes wrong.
        seed: Of the data.
        task: The task's name.
    """
    generator = generator_for(seed, "noise", task)
    wrong = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, classes, (len(labels),), generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels)
