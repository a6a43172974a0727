"""Tiny configurations of the kinds of network that transformers has."""

from typing import Any

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
WIDE = {**TEXT, "intermediate_size": 32}
IMAGES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
NO_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
MODELS: dict[str, dict[str, Any]] = {
    "bert": WIDE,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50,
                   "max_position_embeddings": 32},
    "roberta": WIDE,
    "deberta-v2": {**WIDE, "relative_attention": True, "norm_rel_ebd": "layer_norm",
                   "pos_att_type": ["p2c", "c2p"]},
    "albert": {**WIDE, "embedding_size": 8, **NO_SPECIAL},
    "electra": {**WIDE, "embedding_size": 8},
    "modernbert": {**WIDE, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, **NO_SPECIAL},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 32, **NO_SPECIAL},
    "llama": {**WIDE, "num_key_value_heads": 1},
    "qwen2": {**WIDE, "num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 50},
    "clip_text_model": {**WIDE, **NO_SPECIAL},
    "clip_vision_model": {**IMAGES, "intermediate_size": 32, "patch_size": 8},
    "vit": {**IMAGES, "intermediate_size": 32, "patch_size": 8},
    "dinov2": {**IMAGES, "patch_size": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "wav2vec2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30,
                 "intermediate_size": 32, "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8],
                 "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
}  # fmt: skip
OF_TEXT = [
    name for name in MODELS if name not in ("clip_vision_model", "vit", "dinov2", "resnet", "convnext")
]
OF_TEXT.remove("wav2vec2")


def config(name: str, **fields: Any) -> dict[str, Any]:
    """Return the configuration of a tiny network."""
    return {"model_type": name, **MODELS[name], **fields}
