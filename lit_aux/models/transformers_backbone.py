"""Any network of the transformers library, without its head."""

import json
from copy import deepcopy
from inspect import signature
from typing import Any, Literal, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known, unknown_name
from lit_aux.models.pretrained_weights import reads, told_before
from lit_aux.models.transformers_network import (
    Plan,
    Trial,
    build,
    configuration,
    content_of,
    example_for,
    parts_of,
    plan_for,
    set_apart,
    tried,
)

Pooling = Literal["mean", "first", "last", "pooler"]
_POOLINGS = ("mean", "first", "last", "pooler")
_SEEN: "WeakSet[TransformersBackbone]" = WeakSet()
"""Those whose first batch has been looked at: on an accelerator, looking waits for it."""


class _Facts(NamedTuple):
    """What a network takes.

    Attributes:
        names: The inputs that it has names for.
        others: Whether it takes others.
        counted: Whether it counts the tokens that are no padding itself, as RoBERTa does.
        longest: How many positions it has learned; None where they have no table.
    """

    names: frozenset[str]
    others: bool
    counted: bool
    longest: int | None


_FOUND: "WeakKeyDictionary[TransformersBackbone, _Facts]" = WeakKeyDictionary()


class TransformersBackbone(nn.Module):
    """A network of ``transformers`` that returns pooled features (B, num_features), or those of each token.

    It is called with what its tokenizer gives, by name: ``{"input_ids": ..., "attention_mask": ...}``; a
    tensor alone is its main input (``input_ids``, ``pixel_values`` or ``input_values``). Networks with an
    encoder and a decoder give their encoder. Padding may be at either end: positions count the tokens that
    are there. Parameters that the features do not depend on (poolers that are not asked for, tokens of masks)
    are kept as buffers, so that nothing trains them.

    Args:
        model: The name of a model on the hub, a folder that ``from_pretrained`` reads, or a configuration:
            a mapping with its ``model_type``: ``{"model_type": "bert", "hidden_size": 128}``.
        pretrained: Whether a name or folder gives its weights, or only its configuration. A configuration
            has none.
        pooling: What stands for an example: the ``"mean"`` over the tokens that ``attention_mask`` says are
            there, or over a map of features (B, C, H, W); the ``"first"`` token that is there, the
            ``"last"``, or what the model itself pools, ``"pooler"``.
        pooled: ``False`` returns the features of each token (B, T, num_features), for tasks of kind
            ``tokens``, or the map (B, num_features, H, W), for tasks of kind ``dense``.
        options: Fields of the configuration in place of its own, such as those of dropout
            (``{"hidden_dropout_prob": 0.0}``; their names differ between models) or
            ``{"attn_implementation": "eager"}``. Of a folder with several parts, ``model_type`` names the
            one that is meant: ``{"model_type": "clip_text_model"}``.

    Attributes:
        network: The model.
        num_features: Width of the features.
        vocab_size: Number of tokens that it knows; None for models of other inputs.

    Raises:
        ConfigurationError: If transformers is missing, or the model, its weights or an option do not exist.
    """

    pretrained_content: str | None = None
    """A digest of the weights that it was given: runs that start from different ones are different runs."""

    def __init__(
        self,
        model: str | dict[str, Any],
        *,
        pretrained: bool = True,
        pooling: Pooling = "mean",
        pooled: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_known("pooling", pooling, _POOLINGS)
        self.model, self.pooling, self.pooled, self.options = model, pooling, pooled, dict(options or {})
        self.pretrained = pretrained and isinstance(model, str)
        plan = self._plan()
        self.network = build(model, plan, pretrained=self.pretrained and reads())
        if self.pretrained:
            known = told_before() or {}
            self.pretrained_content = content_of(self.network) if reads() else known.get("content")
        trial = tried(self.network, plan, pooler=self._asks_pooler)
        set_apart(self.network, [] if trial is None else trial.unread)
        self.num_features = self._width(trial)
        self.vocab_size = _vocabulary(self.network)

    @property
    def name(self) -> str:
        """What the network is called in results: the type of its model, ``bert`` say."""
        return str(self.network.config.model_type)

    @property
    def _asks_pooler(self) -> bool:
        return self.pooled and self.pooling == "pooler"

    def _plan(self) -> Plan:
        config = configuration(self.model, self.options)
        return plan_for(self.model, config, self.options, pooler=self._asks_pooler)

    def _width(self, trial: Trial | None) -> int:
        """Return the width of the features.

        Raises:
            ConfigurationError: If there are none, or not such as the pooling needs.
        """
        config, kind = self.network.config, type(self.network).__name__
        if trial is None:
            width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
            width = width or (getattr(config, "hidden_sizes", None) or [0])[-1]
            if not isinstance(width, int) or not width:
                parts = " or ".join(parts_of(config))
                hint = f"; model_type: {parts} is a part of it" if parts else ""
                raise ConfigurationError(f"model: {kind} does not say how wide its features are{hint}")
            return width
        if self._asks_pooler:
            if trial.pooled is None:
                raise ConfigurationError(f"pooling: pooler, but {kind} pools nothing itself; set mean")
            return torch.Size(trial.pooled).numel()
        if trial.features is None or len(trial.features) not in (3, 4):
            raise ConfigurationError(f"model: {kind} returns no features of tokens or of a map; take another")
        if len(trial.features) == 4 and self.pooled and self.pooling != "mean":
            raise ConfigurationError(
                f"pooling: {self.pooling}, but {kind} returns a map, which has no {self.pooling} token; set "
                "mean or pooler"
            )
        return trial.features[1 if len(trial.features) == 4 else 2]

    def told(self) -> dict[str, Any]:
        """Return what it can be built from again without its folder, of plain values."""
        arguments = {
            name: getattr(self, name) for name in ("model", "pretrained", "pooling", "pooled", "options")
        }
        plain = json.loads(self.network.config.to_json_string(use_diff=False))
        found = {"arguments": arguments, "configuration": plain}
        return found if self.pretrained_content is None else {**found, "content": self.pretrained_content}

    def rebuilt(self) -> Any:
        """Return another network of the same configuration, with random weights."""
        plan = plan_for(self.model, deepcopy(self.network.config), self.options, pooler=self._asks_pooler)
        return plan.auto.from_config(plan.config, **plan.options)

    def example(self) -> dict[str, Tensor]:
        """Return inputs of one example."""
        return example_for(self.network)

    def check_vocabulary(self, size: object) -> None:
        """Refuse data of more tokens than the network knows.

        Args:
            size: How many the data's tokenizer has; anything but a number is not known.

        Raises:
            ConfigurationError: With both numbers.
        """
        if isinstance(size, int) and self.vocab_size is not None and size > self.vocab_size:
            raise ConfigurationError(
                f"data: its vocabulary has {size} tokens, and the network knows {self.vocab_size}; set "
                f"vocab_size: {size}, or take the tokenizer of the network"
            )

    def forward(self, *args: Tensor, **inputs: Tensor) -> Tensor:
        """Return features (B, num_features); where not pooled, (B, T, num_features) or a map."""
        inputs = self._named(args, inputs)
        mask = inputs.get("attention_mask")
        self._check(inputs, mask)
        found = self.network(**inputs, **self._added(inputs, mask))
        if self._asks_pooler:
            features = cast(Tensor, found.pooler_output).flatten(1)
        else:
            features = found.last_hidden_state
            if self.pooled:
                features = self._pooled(features, mask)
        return features + self._idle() if self.training and _skips_layers(self.network.config) else features

    def _named(self, args: tuple[Tensor, ...], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs by name.

        Raises:
            ConfigurationError: If the network has none of a name.
        """
        names = (self.network.main_input_name, "attention_mask")
        if len(args) > len(names):
            raise ConfigurationError(f"data: {len(args)} inputs without names; give a mapping of them")
        found = {**dict(zip(names, args, strict=False)), **inputs}
        known = self._facts.names
        for name in found:
            if name not in known and not (self._facts.others and name == "attention_mask"):
                raise unknown_name(f"data: input of {type(self.network).__name__}", name, sorted(known))
        return found

    def _added(self, inputs: dict[str, Tensor], mask: Tensor | None) -> dict[str, Any]:
        """Return further arguments: no cache for what is read once; positions that padding does not move."""
        known = self._facts.names
        added: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
        if (
            mask is not None
            and mask.ndim == 2
            and "position_ids" in known
            and "position_ids" not in inputs
            and not self._facts.counted
        ):
            added["position_ids"] = ((mask != 0).long().cumsum(1) - 1).clamp(min=0)
        return added

    @property
    def _facts(self) -> _Facts:
        """What its network takes; no attribute, which would tell it from others."""
        if torch.compiler.is_compiling():
            return _facts_of(self.network)
        if self not in _FOUND:
            _FOUND[self] = _facts_of(self.network)
        return _FOUND[self]

    def _idle(self) -> Tensor:
        """Return 0, which depends on every parameter: a step may leave out layers, and train no others."""
        return cast(Tensor, sum((p * 0).sum() for p in self.network.parameters() if p.requires_grad))

    def _pooled(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return one vector (B, F) of the tokens' (B, T, F), or of a map (B, F, H, W)."""
        if features.ndim == 4:
            return features.mean((2, 3))
        if mask is not None and mask.shape[1] != features.shape[1]:
            mask = _shortened(self.network, mask, features.shape[1])
        return _pooled(features, mask, self.pooling)

    def _check(self, inputs: dict[str, Tensor], mask: Tensor | None) -> None:
        """Refuse inputs that the network would misread, or stop at without saying why."""
        name, kind = self.network.main_input_name, type(self.network).__name__
        if name not in inputs and "inputs_embeds" not in inputs:
            raise ConfigurationError(f"data: {kind} needs {name}, and a batch has {', '.join(inputs)}")
        main = inputs[name] if name in inputs else inputs["inputs_embeds"]
        if mask is not None and (mask.ndim != 2 or mask.shape != main.shape[:2]):
            raise ConfigurationError(
                f"data: attention_mask {tuple(mask.shape)} is not of {name} {tuple(main.shape)}; give "
                "(batch, length)"
            )
        if self.vocab_size is None or name not in inputs:
            return
        if main.is_floating_point() or main.ndim != 2:
            raise ConfigurationError(
                f"data: {name} is {str(main.dtype).removeprefix('torch.')} {tuple(main.shape)}; {kind} takes "
                "numbers of tokens, int64 (batch, length)"
            )
        longest = self._facts.longest
        if longest is not None and main.shape[1] > longest:
            raise ConfigurationError(
                f"data: sequences of {main.shape[1]} tokens, and {kind} has {longest} positions; cut them, "
                "or set max_position_embeddings"
            )
        if not torch.compiler.is_compiling() and (main.device.type == "cpu" or self not in _SEEN):
            self._check_tokens(main)

    def _check_tokens(self, tokens: Tensor) -> None:
        """Refuse numbers of tokens that the network does not know; on an accelerator, in the first batch."""
        try:
            least, most = (int(one) for one in tokens.aminmax())
        except RuntimeError:  # none, or tensors without values: on the meta device, within vmap
            return
        _SEEN.add(self)
        if least < 0 or most >= cast(int, self.vocab_size):
            raise ConfigurationError(
                f"data: token {least if least < 0 else most} is none of the {self.vocab_size} that the "
                "network knows: it is of another vocabulary; set vocab_size to that of the tokenizer"
            )


def _pooled(features: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Return one vector (B, F) of the tokens' (B, T, F)."""
    if mask is None:
        mask = features.new_ones(features.shape[:2])
    there = mask != 0
    if pooling == "mean":
        count = there.sum(1, keepdim=True).clamp(min=1)
        return torch.where(there.unsqueeze(-1), features, 0).sum(1) / count.to(features)
    place = torch.arange(there.shape[1], device=mask.device)
    if pooling == "first":
        place = torch.where(there, place, there.shape[1] - 1).amin(1)
    else:
        place = torch.where(there, place, 0).amax(1)
    return features[torch.arange(len(features), device=mask.device), place]


def _shortened(network: Any, mask: Tensor, length: int) -> Tensor:
    """Return a mask of samples as one of the features that a network has made of them."""
    if callable(shorten := getattr(network, "_get_feature_vector_attention_mask", None)):
        return cast(Tensor, shorten(length, mask))
    ends = torch.arange(1, length + 1, device=mask.device) * mask.shape[1] // length
    return mask[:, ends - 1]


def _vocabulary(network: Any) -> int | None:
    """Return the number of tokens that a network knows."""
    if network.main_input_name != "input_ids":
        return None
    told = getattr(network.config, "vocab_size", None)
    return int(told or network.get_input_embeddings().num_embeddings)


def _facts_of(network: Any) -> _Facts:
    """Return what a network takes; of positions, its tables tell that are not of tokens."""
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    network = network.get_base_model() if hasattr(network, "get_base_model") else network  # of peft
    parameters = signature(type(network).forward).parameters.values()
    names = frozenset(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    others = any(p.kind == p.VAR_KEYWORD for p in parameters)
    tokens = network.get_input_embeddings() if network.main_input_name == "input_ids" else None
    tables = [m for m in network.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    counted = any(table.padding_idx is not None for table in tables)
    return _Facts(names - {"self"}, others, counted, _longest(network, tables))


def _longest(network: Any, tables: list[nn.Embedding]) -> int | None:
    """Return how many positions a network has learned."""
    told = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(told, int):
        return None
    for table in tables:
        if told <= table.num_embeddings <= told + 8:  # a few have some before the first
            before = 0 if table.padding_idx is None else table.padding_idx + 1
            return min(told, table.num_embeddings - before)
    return None


def _skips_layers(config: Any) -> bool:
    """Whether training leaves out layers by chance (LayerDrop)."""
    return any(name.endswith("layerdrop") and value for name, value in vars(config).items())
