"""Any network of the transformers library, without its head."""

from inspect import signature
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known, first_line, shortened
from lit_aux.models.pretrained_weights import reads

Pooling = Literal["mean", "first", "last", "pooler"]
_POOLINGS = ("mean", "first", "last", "pooler")


class TransformersBackbone(nn.Module):
    """A network of ``transformers`` that returns pooled features (B, num_features), or those of each token.

    It is called with what its tokenizer gives, by name: ``{"input_ids": ..., "attention_mask": ...}``; a
    tensor alone is its main input (``input_ids`` or ``pixel_values``). Networks with an encoder and a decoder
    give their encoder.

    Args:
        model: The name of a model on the hub, a folder that ``from_pretrained`` reads, or a configuration as
            a mapping with its ``model_type``: ``{"model_type": "bert", "hidden_size": 128}``.
        pretrained: Whether a name or folder gives its weights, or only its configuration. A configuration
            has none.
        pooling: What stands for an example: the ``"mean"`` over the tokens that ``attention_mask`` says are
            there, the ``"first"`` token, the ``"last"`` that is there, or the model's own ``"pooler"``.
        pooled: ``False`` returns the features of each token (B, T, num_features), for tasks of kind
            ``tokens``.
        options: Fields of the configuration in place of its own, such as ``{"attention_dropout": 0.0}``.

    Attributes:
        network: The model.
        num_features: Width of the features.
        vocab_size: Number of tokens that it knows; None for models of other inputs.

    Raises:
        ConfigurationError: If ``transformers`` is missing, or there is no such model, weights or option.
    """

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
        self.network = self.build()
        config = self.network.config
        self.num_features = int(getattr(config, "hidden_size", 0) or config.d_model)
        self.vocab_size = getattr(config, "vocab_size", None)
        if pooling == "pooler" and getattr(self.network, "pooler", None) is None:
            raise ConfigurationError(f"pooling: pooler, but {type(self.network).__name__} has none; set mean")

    def build(self) -> Any:
        """Return the model, with its weights where it is pretrained."""
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise ConfigurationError(
                "model: TransformersBackbone needs transformers; install it with pip install 'lit-aux[text]'"
            ) from error
        config = self._configuration()
        # A pooler that nothing reads would be trained by weight decay alone, and stop data-parallel training.
        options: dict[str, Any] = {}
        try:
            kind: Any = AutoModel._model_mapping[type(config)]
            if self.pooling != "pooler" and "add_pooling_layer" in signature(kind.__init__).parameters:
                options["add_pooling_layer"] = False
            if self.pretrained and reads():
                network = AutoModel.from_pretrained(self.model, config=config, **options)
            else:
                network = AutoModel.from_config(config, **options)
        except Exception as error:
            raise ConfigurationError(
                f"model: {self.model} cannot be built: {shortened(first_line(error), 160)}"
            ) from error
        return network.get_encoder() if config.is_encoder_decoder else network

    def _configuration(self) -> Any:
        from transformers import AutoConfig

        try:
            if isinstance(self.model, str):
                config = AutoConfig.from_pretrained(self.model)
            else:
                given = dict(self.model)
                config = AutoConfig.for_model(given.pop("model_type", ""), **given)
        except Exception as error:
            raise ConfigurationError(
                f"model: {self.model} is no model: {shortened(first_line(error), 160)}"
            ) from error
        for name, value in self.options.items():
            setattr(config, name, value)
        return config

    def forward(self, *args: Tensor, **inputs: Tensor) -> Tensor:
        """Return features (B, num_features), or (B, T, num_features) where not pooled."""
        if args:
            inputs = {self.network.main_input_name: args[0], **inputs}
        found = self.network(**inputs)
        if self.pooled and self.pooling == "pooler":
            return cast(Tensor, found.pooler_output)
        features: Tensor = found.last_hidden_state
        return _pooled(features, inputs.get("attention_mask"), self.pooling) if self.pooled else features


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
