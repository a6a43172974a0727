"""Plain timm weights of a trained network, for use without this package."""

from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.models.low_rank import plain_state
from lit_aux.models.multi_head_net import MultiHeadNet
from lit_aux.models.pretrained_weights import classifier_names, plain_name
from lit_aux.models.timm_backbone import TimmBackbone


def export_state_dict(net: MultiHeadNet, task: str | None) -> dict[str, Tensor]:
    """Return weights that ``timm.create_model`` loads strictly.

    After ``timm.create_model(name, num_classes=k, **options).load_state_dict(weights)`` that network
    gives the task's logits. Weights of a ``stem="cifar"`` load into a network whose ``conv1`` and
    ``maxpool`` were exchanged likewise, such as ``TimmBackbone(name, stem="cifar").build(num_classes=k)``.

    Args:
        net: A network over a ``TimmBackbone``; it, or parts of it, may be compiled.
        task: The task whose readout becomes timm's classifier of k classes; ``None`` leaves it out
            (``num_classes=0``).

    Returns:
        Copies of the tensors under timm's names, on the CPU.

    Raises:
        ConfigurationError: There is no such task, the backbone is not of timm, or its network has not exactly
            one linear classifier.
    """
    net = getattr(net, "_orig_mod", net)
    backbone = getattr(net.backbone, "_orig_mod", net.backbone)
    if not isinstance(backbone, TimmBackbone):
        raise ConfigurationError(
            f"export: the backbone is a {type(backbone).__name__}, and only a TimmBackbone has timm weights; "
            "save its state_dict() instead"
        )
    if task is not None and task not in net.tasks:
        raise unknown_name("task", task, net.tasks)
    if task is not None and (task not in net.task_slices or task in net.kinds):
        raise ConfigurationError(f"task: {task!r} has a head that timm has not; export without a task")
    network = getattr(backbone.network, "_orig_mod", backbone.network)
    weights = {plain_name(k): v.detach().cpu().clone() for k, v in plain_state(network).items()}
    rows = None if task is None else net.task_slices[task]
    with torch.random.fork_rng(devices=[]):
        expected = backbone.build(num_classes=0 if rows is None else rows.stop - rows.start).state_dict()
    if rows is not None:
        classifiers = classifier_names(network)
        if len(classifiers) != 1:
            raise ConfigurationError(
                f"task: {backbone.name} has {len(classifiers)} classifiers in timm, so the rows of {task!r} "
                "have no single place there; export without a task"
            )
        readout: Any = getattr(net.readout, "_orig_mod", net.readout)
        for kind, tensor in (("weight", readout.weight), ("bias", readout.bias)):
            key = f"{classifiers[0]}.{kind}"
            value = tensor[rows].detach().cpu().clone()
            # Some classifiers are 1x1 convolutions: the same numbers with two more axes.
            fits = key in expected and expected[key].numel() == value.numel()
            weights[key] = value.view(expected[key].shape) if fits else value
    wrong = sorted(k for k in weights.keys() | expected.keys() if not _fits(weights.get(k), expected.get(k)))
    if wrong:
        raise ConfigurationError(
            f"task: the classifier of timm's {backbone.name} is not one linear layer on its features "
            f"({', '.join(wrong[:3])}); export without a task"
        )
    return weights


def _fits(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Say whether a tensor exists on both sides with the same shape."""
    return ours is not None and theirs is not None and ours.shape == theirs.shape
