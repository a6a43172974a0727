"""Low-rank adapters in the layers of a backbone: where they go, how they come in, and how they merge."""

import math
import re
import warnings
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import util
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_aux.adapters import BASE, adapted_layers, is_adapted, merged_weight
from lit_aux.errors import ConfigurationError, not_installed, unknown_name
from lit_aux.ranges import MOST, POSITIVE, Range, check

KEY = "lit_aux_lora"
"""Where a checkpoint says what multiplies the product of its adapters' factors, by layer."""
_ADAPTER = "lit_aux"
"""The name of the adapters of a phase, so that a backbone's own are none of them."""
_LINEAR = (nn.Linear,)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_READ_PAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Layers of torch's that read the weights of those within them, past what stands around these."""


@dataclass(kw_only=True)
class LoRA:
    """Low-rank finetuning: each weight W of some layers becomes W + scale B A, of which B and A alone train.

    Hu et al. 2022, "LoRA: Low-rank adaptation of large language models" (arXiv 2106.09685). B starts from
    zero, so that a phase starts from the network as it is, and the readout trains in full. Options have the
    names and defaults of peft's ``LoraConfig``; it needs the extra ``lora``.

    Args:
        r: Rank of the update: B is (outputs, r) and A (r, inputs times kernel).
        lora_alpha: The scale is this over r.
        lora_dropout: Dropout of what A reads.
        target_modules: Layers that are adapted: globs over their names, such as
            ``net.backbone.network.blocks.*.attn.qkv``, or what names end in (``qkv``, ``attn.*``). Linear
            and convolutional layers without groups or dilation can be, and embeddings. By default all linear
            layers of the backbone, and all convolutions if these hold more weights, as in a ResNet.
        exclude_modules: Layers among these that are left as they are.
        use_rslora: Whether the scale is ``lora_alpha`` over the square root of r (Kalajdzievski 2023, arXiv
            2312.03732).
        batchnorm: ``"eval"``: batch normalization uses its running statistics as the phase finds them, which
            neither move nor are re-estimated. ``"train"``: as in other phases.

    Raises:
        ConfigurationError: For an option out of its range.

    Example:
        >>> from lit_aux.models import LoRA
        >>> LoRA(r=4, lora_alpha=8).scale
        2.0
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    use_rslora: bool = False
    batchnorm: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        check("lora.r", self.r, Range(least=1, most=MOST, whole=True))
        check("lora.lora_alpha", self.lora_alpha, POSITIVE)
        check("lora.lora_dropout", self.lora_dropout, Range(least=0, below=1))
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (isinstance(value, list | tuple) and all(isinstance(one, str) and one for one in value)):
                raise ConfigurationError(f"lora.{name}: {value!r} is no list of names of layers")
            if not value and name == "target_modules":
                raise ConfigurationError("lora.target_modules: [] names no layer; leave it out for the usual")
        if not isinstance(self.use_rslora, bool):
            raise ConfigurationError(f"lora.use_rslora: {self.use_rslora!r} must be true or false")
        if self.batchnorm not in ("eval", "train"):
            raise unknown_name("lora.batchnorm", self.batchnorm, ("eval", "train"))

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def check_installed() -> None:
    """Refuse what needs peft where it is not there.

    Raises:
        ConfigurationError: Naming the extra.
    """
    if util.find_spec("peft") is None:
        raise not_installed("lora", "peft", "lora")


def targets(net: nn.Module, options: LoRA) -> list[str]:
    """Return the names, within a network, of the layers of its backbone that are to be adapted.

    Args:
        net: A network whose layers are named as in the module whose ``net`` it is, with ``backbone``.
        options: Which layers.

    Raises:
        ConfigurationError: If a name matches no layer, or one that cannot be adapted; if none is left.
    """
    layers = {n: m for n, m in net.named_modules() if n.partition(".")[0] == "backbone"}
    reasons = {name: _refusal(net, name, layer) for name, layer in layers.items()}
    able = {name: layer for name, layer in layers.items() if reasons[name] is None}
    names = {name: _shown(name) for name in layers}
    if options.target_modules is None:
        chosen = _usual(able)
    else:
        chosen = []
        for pattern in options.target_modules:
            hits = [name for name in layers if _matches(names[name], pattern)]
            if not hits:
                raise unknown_name("lora.target_modules", pattern, [names[name] for name in able])
            taken = [name for name in hits if name in able]
            if not taken:
                first = next((name for name in hits if reasons[name] != _NO_WEIGHT), hits[0])
                raise ConfigurationError(
                    f"lora.target_modules: {pattern!r} is {names[first]!r}, which cannot be adapted: "
                    f"{reasons[first]}"
                )
            chosen += taken
    for pattern in options.exclude_modules or []:
        if not any(_matches(names[name], pattern) for name in layers):
            raise unknown_name("lora.exclude_modules", pattern, names.values())
        chosen = [name for name in chosen if not _matches(names[name], pattern)]
    if not chosen:
        asked = {n: getattr(options, n) for n in ("target_modules", "exclude_modules")}
        given = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
        kinds = sorted({type(m).__name__ for m in layers.values() if [*m.parameters(recurse=False)]})
        raise ConfigurationError(
            f"lora: {given or 'by default'} leaves no layer of {type(_backbone(net)).__name__} to adapt; "
            f"linear and convolutional layers and embeddings can be, and it has {', '.join(kinds) or 'none'}"
        )
    return [name for name in layers if name in chosen]


_NO_WEIGHT = "it has no weight of its own"


def _refusal(net: nn.Module, name: str, layer: nn.Module) -> str | None:
    """Say why a layer cannot be adapted; None where it can."""
    weight: Any = layer._parameters.get("weight")
    if not [*layer.parameters(recurse=False)]:
        return _NO_WEIGHT
    kind = type(layer).__name__
    if isinstance(weight, nn.UninitializedParameter):
        return f"this {kind} has no weight yet; run a batch through the network first"
    if not (type(layer) in (*_LINEAR, *_CONVOLUTIONS, nn.Embedding) or _is_conv1d_of_gpt(layer)):
        return f"a {kind} is neither linear nor convolutional nor an embedding"
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        return f"the weight of this {kind} is no parameter of real numbers"
    if isinstance(layer, _CONVOLUTIONS) and not _is_simple(layer):
        return "it is a convolution with groups, dilation or padding that is not of zeros"
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.sparse):
        return "it is an embedding with max_norm or sparse gradients"
    if sum(p is weight for _, p in net.named_parameters(remove_duplicate=False)) > 1:
        return "its weight is also another layer's"
    outer = net.get_submodule(name.rpartition(".")[0])
    if isinstance(outer, _READ_PAST):
        return f"torch's {type(outer).__name__} reads its weight past the layer"
    if is_adapted(outer):
        return "it has adapters of its own"
    if name.endswith("_orig_mod"):
        return "it is compiled by itself; compile the whole network"
    return None


def _is_simple(layer: Any) -> bool:
    """Whether a convolution after one of fewer channels is again one like it."""
    spread = layer.groups > 1 or any(one != 1 for one in layer.dilation)
    return not spread and layer.padding_mode == "zeros"


def _is_conv1d_of_gpt(layer: nn.Module) -> bool:
    """Whether a layer is transformers' linear layer with a weight (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"


def _usual(able: Mapping[str, nn.Module]) -> list[str]:
    """Return the linear layers, and the convolutions where these hold more weights."""
    sizes = {n: layer.weight.numel() for n, layer in able.items()}  # type: ignore[operator]
    convolutions = [name for name, layer in able.items() if isinstance(layer, _CONVOLUTIONS)]
    linear = [name for name, layer in able.items() if not isinstance(layer, (*_CONVOLUTIONS, nn.Embedding))]
    total = [sum(int(sizes[name]) for name in names) for names in (convolutions, linear)]
    return [*convolutions, *linear] if total[0] > total[1] else linear


def _backbone(net: nn.Module) -> nn.Module:
    backbone = net.get_submodule("backbone")
    return getattr(backbone, "_orig_mod", backbone)


def _shown(name: str) -> str:
    """Return the name of a layer of a network as its module knows it, without marks of compilation."""
    return ".".join(["net", *(part for part in name.split(".") if part != "_orig_mod")])


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern is the name of a layer, or what it ends in after a dot."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def inject(net: nn.Module, options: LoRA) -> None:
    """Put low-rank adapters around layers of a network's backbone.

    Nothing changes for the network's outputs, since one factor of each is zero. The other one is drawn by
    torch's global generator, which is as before afterwards.

    Args:
        net: The network.
        options: Which layers, and of what rank.

    Raises:
        ConfigurationError: If peft is not installed, or the layers do not fit.
    """
    check_installed()
    names = targets(net, options)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.r,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]  # peft computes with it as it is
        lora_dropout=options.lora_dropout,
        use_rslora=options.use_rslora,
        target_modules="|".join(map(re.escape, names)),
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of the two ways in which transformers' layers keep weights
        # a stream of their own: what follows draws the same with and without adapters
        torch.manual_seed(int(torch.randint(2**62, ())))
        inject_adapter_in_model(config, net, _ADAPTER)
    vars(net).pop("peft_config", None)


def injected(module: nn.Module) -> dict[str, Any]:
    """Return the layers of a module, by name, with adapters that :func:`inject` has put around them."""
    return {name: layer for name, layer in adapted_layers(module).items() if _ADAPTER in layer.r}


@torch.no_grad()
def merge(net: nn.Module) -> None:
    """Add what adapters have learned to the weights of their layers, and take the adapters away.

    Args:
        net: The network; it is as it was built afterwards, but for its weights.
    """
    for name, layer in injected(net).items():
        base: Any = layer.get_base_layer()
        base.weight.copy_(merged_weight(layer))
        outer, _, last = name.rpartition(".")
        net.get_submodule(outer)._modules[last] = base


def described(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what must be known beside its tensors to merge the adapters of a module, by layer.

    Args:
        module: What the state dict is of in which the layers have these names.
    """
    return {
        name: {
            "scaling": float(layer.scaling[_ADAPTER]),
            "transposed": bool(getattr(layer, "fan_in_fan_out", False)) or _ADAPTER in layer.lora_embedding_A,
        }
        for name, layer in injected(module).items()
    }


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors by name as they are without adapters, which are merged."""
    state = dict(module.state_dict())
    return merged_state(state, described(module), type(module).__name__)


def merge_checkpoint(content: MutableMapping[str, Any], source: str) -> None:
    """Merge the adapters in the state dict of a checkpoint, if there are any.

    Args:
        content: A checkpoint; changed, its tensors are not.
        source: Where it comes from, for the error.

    Raises:
        ConfigurationError: If what it says of adapters does not fit its tensors.
    """
    told = content.get(KEY)
    if told is None:
        return
    state = content.get("state_dict")
    if not isinstance(told, Mapping) or not isinstance(state, Mapping):
        raise ConfigurationError(f"{source} says nothing that makes sense of its low-rank adapters")
    content["state_dict"] = merged_state(state, told, source)
    del content[KEY]


@torch.no_grad()
def merged_state(state: Mapping[str, Tensor], layers: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return tensors by name with the adapters of layers merged into the weights.

    Args:
        state: A state dict.
        layers: What :func:`described` returned.
        source: Where it comes from, for the error.

    Raises:
        ConfigurationError: If a layer's tensors are missing, or do not fit.
    """
    found = dict(state)
    for name, how in layers.items():
        prefix = f"{name}."
        parts = {key: found.pop(key) for key in [k for k in found if k.startswith(prefix)]}
        try:
            scaling = float(how["scaling"])
            if not math.isfinite(scaling):
                raise ValueError(f"a scaling of {scaling}")
            update = scaling * _product(parts, prefix)
            weight = parts[f"{prefix}{BASE}.weight"]
            update = update.T if how["transposed"] else update
            if update.shape != weight.shape:
                raise ValueError(f"an update {tuple(update.shape)} of weights {tuple(weight.shape)}")
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise ConfigurationError(
                f"{source} holds no whole low-rank adapter of {name!r} ({type(error).__name__}: {error})"
            ) from error
        within = f"{prefix}{BASE}."
        found |= {prefix + k.removeprefix(within): v for k, v in parts.items() if k.startswith(within)}
        found[f"{prefix}weight"] = (weight.to(update.dtype) + update).to(weight.dtype)
    return found


def _product(parts: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Return B A in the shape of a weight, of half precision in float32."""
    if f"{prefix}lora_embedding_A.{_ADAPTER}" in parts:
        keys = (f"{prefix}lora_embedding_A.{_ADAPTER}", f"{prefix}lora_embedding_B.{_ADAPTER}")
    else:
        keys = (f"{prefix}lora_A.{_ADAPTER}.weight", f"{prefix}lora_B.{_ADAPTER}.weight")
    a, b = (parts[key] for key in keys)
    a, b = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (a, b))
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])
