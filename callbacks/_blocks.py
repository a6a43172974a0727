"""The blocks of a network of the transformers library, and what lies before and after them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_aux.callbacks._parameters import uncompiled


@dataclass(frozen=True)
class Blocks:
    """The parts of a network by name, each of which holds parameters.

    Attributes:
        before: What its input goes through first: embeddings, projections.
        blocks: The blocks, or stages, in order.
        after: The last norm, poolers.
    """

    before: tuple[str, ...]
    blocks: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All of them in order."""
        return [*self.before, *self.blocks, *self.after]

    def depth(self, parameter: str) -> int:
        """Return where a parameter lies: 0 before the blocks, then each block, then what follows."""
        for number, name in enumerate(self.blocks, 1):
            if parameter.startswith(f"{name}."):
                return number
        last = any(parameter.startswith(f"{name}.") for name in self.after) and "embed" not in parameter
        return len(self.blocks) + 1 if last else 0


def blocks_of(network: nn.Module) -> Blocks | None:
    """Return the parts of a network; None for those that are not of transformers, or have no blocks.

    The blocks are the list of modules that is as long as the configuration says that the network is deep, and
    holds most parameters of such; where none is, as in networks of stages, that which holds most.

    Args:
        network: Any module.
    """
    config: Any = getattr(network, "config", None)
    if not isinstance(getattr(config, "model_type", None), str):
        return None
    lists = dict(_outermost(network))
    if not lists:
        return None
    deep = getattr(config, "num_hidden_layers", None)
    chosen = max(lists, key=lambda name: (len(lists[name]) == deep, _size(lists[name])))
    before: list[str] = []
    after: list[str] = []
    owner, prefix = network, ""
    for part in chosen.split("."):
        met = False
        for name, child in owner.named_children():
            if name == part:
                met = True
            elif _size(child) and not _is_table(child, network):
                (after if met or "final" in name else before).append(f"{prefix}{name}")
        owner, prefix = uncompiled(owner.get_submodule(part)), f"{prefix}{part}."
    blocks = tuple(f"{chosen}.{name}" for name, child in lists[chosen].named_children() if _size(child))
    return Blocks(tuple(before), blocks, tuple(after))


def _outermost(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the lists of modules with parameters that lie in no other, by name."""
    for name, child in module.named_children():
        inner = uncompiled(child)
        if isinstance(inner, nn.ModuleList) and _size(inner):
            yield f"{prefix}{name}", inner
        elif not isinstance(inner, nn.ModuleList):
            yield from _outermost(inner, f"{prefix}{name}.")


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _is_table(child: nn.Module, network: Any) -> bool:
    """Whether a child is a table of something else than tokens, such as positions."""
    if not isinstance(child, nn.Embedding):
        return False
    try:
        tokens = network.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return False
    return getattr(tokens, "weight", None) is not child.weight
