"""What trains in a phase, and its optimizer: learning rates may fall from the readout to the first layer."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from lit_aux.adapters import own_parameters
from lit_aux.callbacks import L2SP
from lit_aux.callbacks._blocks import Blocks, blocks_of
from lit_aux.callbacks._parameters import by_any_name, clean, uncompiled
from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet
from lit_aux.models.low_rank import injected
from lit_aux.phases.phase import Phase


def build_optimizer(phase: Phase, module: LightningModule) -> Any:
    """Return a phase's optimizer over what ever trains and its schedule, as Lightning takes them."""
    later = set() if phase.unfreeze is None else trainable_names(module, phase)
    named = module.named_parameters()
    parameters: list[Any] = [p for name, p in named if p.requires_grad or name in later]
    if phase.layer_decay is not None:
        parameters = layer_groups(cast(MultiHeadNet, module.net), parameters, phase.layer_decay)
    optimizer = phase.build_optimizer(parameters)
    if phase.lr_scheduler is None:
        return optimizer
    scheduler = phase.build_scheduler(optimizer)
    config = {"scheduler": scheduler, "interval": phase.lr_interval}
    monitor = getattr(scheduler, "monitor", None)
    return {"optimizer": optimizer, "lr_scheduler": config | ({"monitor": monitor} if monitor else {})}


_FUSED: tuple[type[Optimizer], ...] = (Adam, AdamW, SGD, Adagrad)


def leaves_steps_to_us(optimizer: Optimizer) -> bool:
    """Whether an optimizer, as it is built, has a fused step and nobody has chosen how it steps."""
    return type(optimizer) in _FUSED and all(
        group.get("fused", False) is None
        and group.get("foreach") is None
        and not any(group.get(name) for name in ("capturable", "differentiable"))
        and not any(isinstance(value, Tensor) for value in (group["lr"], *group.get("betas", ())))
        for group in optimizer.param_groups
    )


def choose_step(optimizer: Optimizer, trainer: Trainer) -> None:
    """Let the step that comes be fused where torch can take it so; to be called when gradients are there.

    Only the groups say so: an optimizer that is built with ``fused=True`` also tells a GradScaler to leave
    gradients scaled, which whoever changes gradients before the step would have to know. What decides is
    there again when a run resumes, lest it rounds otherwise.

    Args:
        optimizer: One that :func:`leaves_steps_to_us`.
        trainer: Whose precision and callbacks decide as well.
    """
    if type(optimizer) not in _FUSED:  # a strategy has wrapped it
        return
    plugin: Any = trainer.precision_plugin
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    allowed = getattr(plugin, "scaler", None) is None and not any(isinstance(c, L2SP) for c in callbacks)
    for group in optimizer.param_groups:
        moved = [p for p in group["params"] if p.grad is not None]
        group["fused"] = (allowed and _can_fuse(optimizer, moved, bool(group.get("momentum")))) or None
        for state in (optimizer.state[p] for p in moved if group["fused"] and p in optimizer.state):
            if isinstance(count := state.get("step"), Tensor):  # of a checkpoint without fused steps
                state["step"] = count.to(moved[0].device, torch.float32)


def _can_fuse(optimizer: Optimizer, moved: Sequence[nn.Parameter], momentum: bool) -> bool:
    """Whether torch's fused kernels do the same for these parameters: on the CPU they ignore strides."""
    if not all(
        type(p) is nn.Parameter and p.is_contiguous() and _is_plain(cast(Tensor, p.grad)) for p in moved
    ):
        return False
    if momentum and len({optimizer.state.get(p, {}).get("momentum_buffer") is None for p in moved}) > 1:
        return False  # a parameter's first gradient came later than others'
    kinds = {(p.device.type, p.dtype) for p in moved}
    kind: Any = type(optimizer)
    return all(_has_fused_step(kind, device, dtype) for device, dtype in kinds)


def _is_plain(gradient: Tensor) -> bool:
    return gradient.layout is torch.strided and gradient.is_contiguous()


@cache
def _has_fused_step(kind: Any, device: str, dtype: torch.dtype) -> bool:
    """Try a step: which devices and dtypes have one differs between versions of torch."""
    parameter = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    try:
        kind([parameter], fused=True).step()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def check_unfreezing(phases: Sequence[Phase], module: nn.Module) -> None:
    """Refuse names that do not exist, and epochs from which on nothing more trains than before.

    Raises:
        ConfigurationError: Naming pattern or epoch.
    """
    for phase in phases:
        before: set[str] = set()
        for epoch in sorted(phase.unfreeze or ()):
            training = trainable_names(module, phase, epoch)
            if training == before:
                raise ConfigurationError(
                    f"unfreeze: from epoch {epoch} of phase {phase.name!r} on nothing trains that did not "
                    f"train before; leave {', '.join((phase.unfreeze or {})[epoch])} out"
                )
            before = training


def task_weights(phase: Phase, data: Any) -> dict[str, float]:
    """Return the weight of each task's loss: the phase's own, times its balance in sequential order."""
    balance = {task: 1.0 for task in phase.tasks}
    if phase.balance_tasks:
        sizes = {task: data.train_size(task) for task in phase.tasks}
        batches = {task: size / min(size, data.batch_size) for task, size in sizes.items()}
        first = batches[phase.tasks[0]]
        balance = {task: first / count for task, count in batches.items()}
    return {task: phase.weight(task) * share for task, share in balance.items()}


class _WithReadout(nn.Module):
    """A timm network with one more parameter in place of its classifier, the last layer to timm."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        object.__setattr__(self, "_network", network)  # not a submodule: names stay as they are
        self.group_matcher = network.group_matcher
        self.readout = nn.Linear(1, 1, bias=False)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the network's parameters, then the readout's."""
        yield from self.__dict__["_network"].named_parameters()
        yield from self.readout.named_parameters("readout")


def check_layer_decay(phases: Sequence[Phase], net: Any) -> None:
    """Refuse layer-wise decay for networks whose layers have no order that is known.

    Raises:
        ConfigurationError: If a phase asks for it and the network is neither timm's nor of transformers.
    """
    for phase in phases:
        if phase.layer_decay is not None and _timm_network(net) is None and _blocks(net) is None:
            inner = uncompiled(getattr(net, "backbone", net))
            raise ConfigurationError(
                f"layer_decay: {phase.layer_decay} is for timm's networks, whose group_matcher orders the "
                f"layers, and those of transformers; {type(inner).__name__} has none, leave layer_decay out"
            )


def _networks(net: Any) -> list[Any]:
    """Return the backbone, and what it wraps."""
    net = uncompiled(net)
    if not isinstance(net, MultiHeadNet):
        return []
    backbone = uncompiled(net.backbone)
    return [backbone, uncompiled(getattr(backbone, "network", None))]


def _timm_network(net: Any) -> Any:
    """Return what has a ``group_matcher``: the backbone or what it wraps; None where neither does."""
    return next((one for one in _networks(net) if callable(getattr(one, "group_matcher", None))), None)


def _blocks(net: Any) -> tuple[Any, Blocks] | None:
    """Return a network of transformers, the backbone or what it wraps, and its blocks; None without any."""
    found = ((one, blocks_of(one)) for one in _networks(net) if one is not None)
    return next(((one, blocks) for one, blocks in found if blocks is not None), None)


def _scales(net: Any, parameters: Sequence[nn.Parameter], decay: float) -> dict[int, float]:
    """Return the factor of the learning rate of each parameter of the backbone, by its ``id``."""
    if (network := _timm_network(net)) is not None:
        from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

        later = [p for p in parameters if not p.requires_grad]
        try:
            for parameter in later:  # which timm's would leave out
                parameter.requires_grad_(True)
            found = param_groups_layer_decay(
                _WithReadout(network), weight_decay=0.0, layer_decay=decay, weight_decay_exclude_1d=False
            )
        finally:
            for parameter in later:
                parameter.requires_grad_(False)
        return {id(p): float(group["lr_scale"]) for group in found for p in group["params"]}
    network, blocks = cast(tuple[Any, Blocks], _blocks(net))
    last = len(blocks.blocks) + 1
    named = {clean(name): p for name, p in network.named_parameters()}
    return {id(p): decay ** (last - blocks.depth(name)) for name, p in named.items()}


def layer_groups(net: MultiHeadNet, parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Divide parameters into groups by the depth of their layer.

    Args:
        net: The network, its backbone one of timm's or of transformers.
        parameters: What trains; what is not of the backbone belongs with the readout.
        decay: From each layer to the one before, the factor of the learning rate.

    Returns:
        Groups for an optimizer, first layer first: ``params``, ``name`` and ``lr_scale``, the factor of the
        learning rate by timm's own ``param_groups_layer_decay``, of transformers likewise: that of the last
        norm and the readout is 1, and falls with every block before.
    """
    scales = _scales(net, parameters, decay)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    return [
        {"params": groups[scale], "name": f"layer_decay_{scale:.4g}", "lr_scale": scale}
        for scale in sorted(groups)
    ]


def trainable_names(module: nn.Module, phase: Phase, epoch: int | None = None) -> set[str]:
    """Return the names of the parameters that train, of tied ones the first: that of ``named_parameters``.

    Patterns are over all names of tied parameters, without the prefixes of what wraps layers. In a phase of
    low-rank finetuning, adapters and readout train whatever they say, and without them nothing else. What is
    neither real nor complex cannot train.

    Args:
        module: The module.
        phase: The phase.
        epoch: Leave out what is unfrozen after this one; None for all that will ever train in the phase.

    Raises:
        ConfigurationError: If a pattern of the phase matches none.
    """
    able = {name: p for name, p in module.named_parameters() if p.is_floating_point() or p.is_complex()}
    if phase.trainable == "all" and phase.unfreeze is None and phase.lora is None:
        return set(able)
    named = by_any_name(module)
    names = list(named)
    option, patterns = "phases: trainable", [] if isinstance(phase.trainable, str) else list(phase.trainable)
    if phase.unfreeze is not None:
        reached = {first: p for first, p in phase.unfreeze.items() if epoch is None or first <= epoch}
        option, patterns = "unfreeze:", [pattern for each in reached.values() for pattern in each]
    elif phase.trainable == "readout" or phase.lora is not None:
        known = ("net.readout.*", "net.heads.*")
        patterns += [one for one in known if any(fnmatch(name, one) for name in names)] or [known[0]]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigurationError(
                f"{option} pattern {pattern!r} of phase {phase.name!r} matches no parameter; "
                f"names look like {names[0]!r} and {names[-1]!r}"
            )
    chosen = {id(p) for name, p in named.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    if phase.lora is not None:
        chosen |= {id(p) for layer in injected(module).values() for p in own_parameters(layer)}
    return {name for name, p in able.items() if id(p) in chosen}
