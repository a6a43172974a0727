"""Learning rates that fall from the readout to the first layer."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from lit_aux.callbacks._parameters import uncompiled
from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet
from lit_aux.phases.phase import Phase


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
    """Refuse layer-wise decay for networks whose layers have no order that timm knows.

    Raises:
        ConfigurationError: If a phase asks for it and the network is no timm network.
    """
    for phase in phases:
        if phase.layer_decay is not None and _timm_network(net) is None:
            inner = uncompiled(getattr(net, "backbone", net))
            raise ConfigurationError(
                f"layer_decay: {phase.layer_decay} is for timm's networks, whose group_matcher orders the "
                f"layers; {type(inner).__name__} has none, leave layer_decay out"
            )


def _timm_network(net: Any) -> Any:
    """Return what has a ``group_matcher``: the backbone or what it wraps; None where neither does."""
    net = uncompiled(net)
    if not isinstance(net, MultiHeadNet):
        return None
    backbone = uncompiled(net.backbone)
    candidates = (backbone, uncompiled(getattr(backbone, "network", None)))
    return next((c for c in candidates if callable(getattr(c, "group_matcher", None))), None)


def layer_groups(net: MultiHeadNet, parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Divide parameters into groups by the depth of their layer.

    Args:
        net: The network, its backbone one of timm's.
        parameters: What trains; what is not of the backbone belongs with the readout.
        decay: From each layer to the one before, the factor of the learning rate.

    Returns:
        Groups for an optimizer, first layer first: ``params``, ``name`` and ``lr_scale``, the factor of the
        learning rate by timm's own ``param_groups_layer_decay``; the readout's is 1.
    """
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    network = _timm_network(net)
    found = param_groups_layer_decay(
        _WithReadout(network), weight_decay=0.0, layer_decay=decay, weight_decay_exclude_1d=False
    )
    scales = {id(p): float(group["lr_scale"]) for group in found for p in group["params"]}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    return [
        {"params": groups[scale], "name": f"layer_decay_{scale:.4g}", "lr_scale": scale}
        for scale in sorted(groups)
    ]
