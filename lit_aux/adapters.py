"""Low-rank adapters of peft in anybody's network: which layers have them, and what they add to weights.

An adapted layer stands in the place of the one that it adapts, which is its ``base_layer``.
"""

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

BASE = "base_layer"
"""What peft calls the layer within."""
_HOME = "peft.tuners.lora.layer"


def is_adapted(layer: nn.Module) -> bool:
    """Whether a layer is another one with low-rank adapters around it."""
    home: Any = sys.modules.get(_HOME)  # whoever has such a layer has imported it
    return home is not None and isinstance(layer, home.LoraLayer)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Return the adapted layers of a module by each of their names in it."""
    if _HOME not in sys.modules:
        return {}
    named = module.named_modules(remove_duplicate=False)
    return {name: layer for name, layer in named if is_adapted(layer)}


def base_of(layer: nn.Module) -> nn.Module:
    """Return the layer within an adapted one; any other as it is."""
    base: nn.Module = layer.get_base_layer() if is_adapted(layer) else layer  # type: ignore[operator]
    return base


def own_parameters(layer: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters of an adapted layer that are its adapters'."""
    base = {id(parameter) for parameter in layer.get_base_layer().parameters()}
    yield from (parameter for parameter in layer.parameters() if id(parameter) not in base)


def adapter_parameters(module: nn.Module) -> set[int]:
    """Return the ``id`` of every parameter of adapters in a module."""
    return {id(p) for layer in adapted_layers(module).values() for p in own_parameters(layer)}


def factors(layer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each adapter of a layer, the factor that is drawn at its start and the one that is zero."""
    for name in layer.lora_A:
        yield layer.lora_A[name].weight, layer.lora_B[name].weight
    for name in layer.lora_embedding_A:
        yield layer.lora_embedding_B[name], layer.lora_embedding_A[name]


def merged_weight(layer: Any) -> Tensor:
    """Return the weight of the layer within, plus what its adapters add to it."""
    weight: Tensor = layer.get_base_layer().weight
    known = {*layer.lora_A, *layer.lora_embedding_A}
    for name in layer.active_adapters:
        if name in known and name not in layer.merged_adapters:
            weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight
