"""Trained networks of transformers in folders that ``from_pretrained`` reads."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.files import atomic_folder
from lit_aux.models.low_rank import plain_state
from lit_aux.models.multi_head_net import MultiHeadNet
from lit_aux.models.pretrained_weights import SUFFIXES, plain_name
from lit_aux.models.transformers_backbone import TransformersBackbone
from lit_aux.models.transformers_network import library, same_random_state, without_bars
from lit_aux.storage import check_place

MARK = "lit_aux.json"
"""A file by which a folder is known for an export, and which says how the features were pooled."""
_OWN = frozenset(
    {MARK, "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"}
    | {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
)
_HEADS = {
    "input_ids": "AutoModelForSequenceClassification",
    "pixel_values": "AutoModelForImageClassification",
}
_AUDIO = "AutoModelForAudioClassification"
_SPECIAL = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("[BOS]", "<s>"),
    "eos_token": ("[EOS]", "</s>"),
}
"""What tokens of a purpose are called by those who train tokenizers."""


def check_folder_of_export(option: str, path: str | Path) -> Path:
    """Refuse to write over anything but an earlier export.

    Args:
        option: The option that named the folder, for the error.
        path: The folder.

    Returns:
        The folder.

    Raises:
        ConfigurationError: If there is something else, or can be no folder.
    """
    found = check_place(option, path)
    if found.suffix in SUFFIXES:
        raise ConfigurationError(
            f"{option} {found}: a network of transformers is written as a folder; leave {found.suffix} out"
        )
    if found.exists() and not found.is_dir():
        raise ConfigurationError(f"{option} {found}: is a file; name a folder")
    inside = {one.name for one in found.iterdir()} if found.is_dir() else set()
    shards = {name for name in inside if name.startswith("model-") and name.endswith(".safetensors")}
    if inside and (MARK not in inside or inside - shards - _OWN):
        raise ConfigurationError(
            f"{option} {found}: is there already, and is no folder of an export; name another, this one is "
            "left as it is"
        )
    return found


def export_folder(
    net: MultiHeadNet,
    path: str | Path,
    task: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    tokenizer: Any = None,
) -> None:
    """Write a network as ``from_pretrained`` reads it: configuration, weights, a tokenizer if there is one.

    Args:
        net: A network over a ``TransformersBackbone``; it, or parts of it, may be compiled.
        path: The folder; an earlier export there is replaced.
        task: The task whose readout becomes the classifier of ``AutoModelForSequenceClassification`` (of
            images and sounds, that of theirs); None writes the network alone.
        classes: The names of the task's classes.
        tokenizer: A ``tokenizers.Tokenizer``, or one of transformers.

    Raises:
        ConfigurationError: There is no such task, its head is not the classifier that transformers has for
            this network, or the folder cannot be written.
    """
    net = getattr(net, "_orig_mod", net)
    backbone = cast(TransformersBackbone, getattr(net.backbone, "_orig_mod", net.backbone))
    target = check_folder_of_export("output", path)
    with same_random_state():
        network = _alone(backbone) if task is None else _with_classifier(net, backbone, task, classes)
    words = _tokenizer(tokenizer, network.config)
    told = {"pooling": backbone.pooling, "pooled": backbone.pooled, "task": task}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as part, without_bars():
            network.save_pretrained(part)
            if words is not None:
                words.save_pretrained(part)
            (part / MARK).write_text(json.dumps(told, indent=2) + "\n")
    except OSError as error:
        raise ConfigurationError(f"output: '{target}' cannot be written ({error.strerror})") from error


def _weights(backbone: TransformersBackbone) -> dict[str, Tensor]:
    """Return the network's tensors by transformers' own names, on the CPU."""
    network = getattr(backbone.network, "_orig_mod", backbone.network)
    return {plain_name(key): value.detach().cpu().clone() for key, value in plain_state(network).items()}


def _alone(backbone: TransformersBackbone) -> Any:
    """Return a copy of the network itself."""
    network = backbone.rebuilt()
    if network.config.is_encoder_decoder:
        raise ConfigurationError(
            f"export: the encoder of {network.config.model_type} is no model of its own in transformers; "
            "save its state_dict() instead"
        )
    network.load_state_dict(_weights(backbone))
    return network


def _with_classifier(
    net: MultiHeadNet, backbone: TransformersBackbone, task: str, classes: Sequence[str] | None
) -> Any:
    """Return transformers' network for classification with the readout of a task, if it does the same."""
    if task not in net.tasks:
        raise unknown_name("task", task, net.tasks)
    if task not in net.task_slices or task in net.kinds:
        raise ConfigurationError(
            f"task: {task!r} has a head that transformers has not; export without a task"
        )
    rows = net.task_slices[task]
    config = copy.deepcopy(getattr(backbone.network, "_orig_mod", backbone.network).config)
    _name_classes(config, rows.stop - rows.start, classes)
    auto = getattr(library(), _HEADS.get(backbone.network.main_input_name, _AUDIO))
    kind = config.model_type
    if type(config) not in set(auto._model_mapping):
        raise ConfigurationError(
            f"task: transformers has no {auto.__name__} for {kind}; export without a task"
        )
    network = auto.from_config(config).eval()
    weights = _weights(backbone)
    base = getattr(network, network.base_model_prefix, None)
    own = {} if base is None else base.state_dict()
    head = {n: p for n, p in network.named_parameters() if not n.startswith(f"{network.base_model_prefix}.")}
    readout: Any = getattr(net.readout, "_orig_mod", net.readout)
    ours = {"weight": readout.weight[rows].detach().cpu(), "bias": readout.bias[rows].detach().cpu()}
    shapes = {name.rpartition(".")[2]: p.shape for name, p in head.items()}
    fits = len(head) == len(shapes) and shapes.items() <= {n: t.shape for n, t in ours.items()}.items()
    if base is None or not own.keys() <= weights.keys() or "weight" not in shapes or not fits:
        raise _other_head(backbone, auto.__name__, kind)
    base.load_state_dict({name: weights[name] for name in own})
    with torch.no_grad():
        for name, parameter in head.items():
            parameter.copy_(ours[name.rpartition(".")[2]])
    if not _same(net, network, task):
        raise _other_head(backbone, auto.__name__, kind)
    return network


def _other_head(backbone: TransformersBackbone, auto: str, kind: str) -> ConfigurationError:
    return ConfigurationError(
        f"task: {auto} of {kind} is not one linear layer on features of pooling: {backbone.pooling}; export "
        "without a task"
    )


def _name_classes(config: Any, count: int, classes: Sequence[str] | None) -> None:
    """Say how many classes there are, and what they are called."""
    names = [f"LABEL_{i}" for i in range(count)] if classes is None else [str(name) for name in classes]
    if len(names) == count:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    else:
        config.num_labels = count


@torch.no_grad()
def _same(net: MultiHeadNet, network: nn.Module, task: str) -> bool:
    """Whether a network gives a task's logits, on an example."""
    copied = copy.deepcopy(net).cpu().eval()
    inner: Any = getattr(copied.backbone, "_orig_mod", copied.backbone)
    example = inner.example()
    logits = network(**example).logits
    expected = copied(example, task)
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-3, atol=1e-4)


def _tokenizer(given: Any, config: Any) -> Any:
    """Return a tokenizer of transformers; what its special tokens are for is told by their names.

    Raises:
        ConfigurationError: If it is none.
    """
    if given is None or callable(getattr(given, "save_pretrained", None)):
        return given
    if not callable(getattr(given, "token_to_id", None)):
        raise ConfigurationError(
            f"data: its tokenizer is a {type(given).__name__}; it must be a tokenizers.Tokenizer"
        )
    special = {
        purpose: next(name for name in names if given.token_to_id(name) is not None)
        for purpose, names in _SPECIAL.items()
        if any(given.token_to_id(name) is not None for name in names)
    }
    if (padding := given.padding) is not None:
        special["pad_token"] = padding["pad_token"]
    longest = getattr(config, "max_position_embeddings", None)
    limit = {"model_max_length": longest} if isinstance(longest, int) else {}
    return library().PreTrainedTokenizerFast(tokenizer_object=given, **special, **limit)
