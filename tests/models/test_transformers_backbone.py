"""Networks of transformers as backbones: features, padding, what trains, and what is refused in one line."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers_models import MODELS, OF_TEXT, config

from lit_aux.errors import ConfigurationError
from lit_aux.identity.encoder import Encoder
from lit_aux.models import MultiHeadNet, TransformersBackbone
from lit_aux.models import transformers_network as networks
from lit_aux.models.pretrained_weights import without_reading

TINY = config("bert")


def tokens(n: int = 3, length: int = 5) -> Tensor:
    return torch.randint(3, 45, (n, length), generator=torch.Generator().manual_seed(0))


def inputs_of(backbone: TransformersBackbone) -> dict[str, Tensor]:
    name, generator = backbone.network.main_input_name, torch.Generator().manual_seed(0)
    if name == "input_ids":
        return {name: tokens(), "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])}
    shape = (3, 32, 32) if type(backbone.network).__name__[:3] in ("Res", "Con") else (3, 16, 16)
    shape = shape if name == "pixel_values" else (4000,)
    return {name: torch.randn(2, *shape, generator=generator)}


@pytest.mark.parametrize("name", MODELS)
def test_any_network_gives_features_that_train_all_of_it(name: str) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].sum()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks.build(
            config(name),
            networks.plan_for(config(name), networks.configuration(config(name), {}), {}, pooler=False),
            pretrained=False,
        )
        after = torch.get_rng_state()
    assert torch.equal(state[0], torch.get_rng_state())
    torch.manual_seed(0)
    backbone = TransformersBackbone(config(name))
    assert torch.equal(after, torch.get_rng_state()), "the trial draws nothing"
    assert np.random.get_state()[1].sum() == state[1]  # noqa: NPY002
    assert backbone.num_features == 16
    assert backbone.network.training
    assert (backbone.vocab_size == 50) == (name in OF_TEXT)
    key = Encoder().add("", backbone).key()
    for _ in range(4):  # some leave layers out by chance
        backbone.zero_grad()
        features = backbone(**inputs_of(backbone))
        assert features.shape == (len(next(iter(inputs_of(backbone).values()))), 16)
        features.square().sum().backward()
        assert not [
            n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
    moved = name == "resnet"  # statistics of batch normalization
    assert (Encoder().add("", backbone).key() == key) != moved, "a step does not change what it is"


def test_what_nothing_reads_is_kept_and_does_not_train() -> None:
    backbone = TransformersBackbone(config("dinov2"))
    assert "network.embeddings.mask_token" in dict(backbone.named_buffers())
    assert (
        backbone.network.state_dict().keys()
        == transformers.AutoModel.from_config(backbone.network.config).state_dict().keys()
    )
    pooler = TransformersBackbone(TINY, pooling="pooler")
    assert any("pooler" in name for name, _ in pooler.named_parameters())
    assert not any("pooler" in name for name in TransformersBackbone(TINY).state_dict())


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("name", OF_TEXT)
def test_padding_does_not_matter_at_either_end(name: str, pooling: Any) -> None:
    torch.manual_seed(0)
    backbone = TransformersBackbone(config(name), pooling=pooling).double().eval()
    ids, there = tokens(), torch.ones(3, 5, dtype=torch.long)
    fill = torch.full((3, 3), backbone.network.config.pad_token_id or 0)
    absent = torch.zeros_like(fill)
    with torch.no_grad():
        plain = backbone(ids)
        for order in (1, -1):
            found = backbone(
                input_ids=torch.cat([ids, fill][::order], 1),
                attention_mask=torch.cat([there, absent][::order], 1),
            )
            torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)


def test_a_left_padded_batch_trains() -> None:
    for name in ("gpt2", "llama", "bert"):
        backbone = TransformersBackbone(config(name), pooling="last")
        mask = torch.tensor([[0, 0, 0, 0, 1], [1] * 5, [0, 0, 1, 1, 1]])
        backbone(tokens(), mask).sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters())


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_kernels_of_attention_see_the_same_mask(kernel: str) -> None:
    torch.manual_seed(0)
    reference = TransformersBackbone(TINY).double().eval()
    other = TransformersBackbone(TINY, options={"attn_implementation": kernel}).double().eval()
    other.load_state_dict(reference.state_dict())
    assert other.network.config._attn_implementation == kernel
    torch.testing.assert_close(
        other(**inputs_of(other)), reference(**inputs_of(reference)), rtol=1e-9, atol=0
    )


def test_means_are_those_by_hand() -> None:
    backbone = TransformersBackbone(TINY).double().eval()
    given = inputs_of(backbone)
    plain = transformers.BertModel(backbone.network.config, add_pooling_layer=False).double().eval()
    plain.load_state_dict(backbone.network.state_dict())
    for row, length in enumerate([5, 3, 1]):
        expected = plain(given["input_ids"][row : row + 1, :length]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(backbone(**given)[row], expected, rtol=1e-9, atol=1e-9)


def test_sounds_have_a_mask_of_samples() -> None:
    backbone = TransformersBackbone(config("wav2vec2", feat_extract_norm="layer")).double().eval()
    sound = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.cat([sound, sound.new_zeros(1, 1000)], 1)
    mask = torch.cat([torch.ones(1, 3000), torch.zeros(1, 1000)], 1).long()
    torch.testing.assert_close(backbone(padded, mask), backbone(sound), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(backbone(padded), backbone(sound), rtol=1e-3)


def test_maps_are_pooled_over_their_places() -> None:
    backbone = TransformersBackbone(config("resnet")).eval()
    x = inputs_of(backbone)["pixel_values"]
    whole = TransformersBackbone(config("resnet"), pooled=False).eval()
    whole.load_state_dict(backbone.state_dict())
    assert whole(x).shape == (2, 16, 4, 4)
    torch.testing.assert_close(backbone(x), whole(x).flatten(2).mean(2))
    own = TransformersBackbone(config("resnet"), pooling="pooler").eval()
    own.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(own(x), backbone(x))
    with pytest.raises(ConfigurationError, match="has no first token"):
        TransformersBackbone(config("resnet"), pooling="first")


def test_tokens_and_tasks() -> None:
    from lit_aux import Task

    backbone = TransformersBackbone(TINY, pooled=False)
    net = MultiHeadNet(backbone, {"tags": Task(4, "tokens"), "main": 2})
    out = net(inputs_of(backbone))
    assert out["tags"].shape == (3, 4, 5)
    assert out["main"].shape == (3, 2)


def test_options_are_those_of_the_configuration() -> None:
    backbone = TransformersBackbone(TINY, options={"hidden_dropout_prob": 0.0, "hidden_size": 8})
    assert backbone.num_features == 8
    assert {m.p for n, m in backbone.named_modules() if isinstance(m, nn.Dropout) and "self" not in n} == {
        0.0
    }
    both = TransformersBackbone({**TINY, "hidden_size": 8, "hidden_dropout_prob": 0.0})
    assert {**vars(both.network.config)} == {**vars(backbone.network.config)}


# Folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "bert"
    torch.manual_seed(7)
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**TINY)).save_pretrained(path)
    return path


def test_a_folder_gives_its_weights_or_its_configuration(folder: Path) -> None:
    torch.manual_seed(0)
    first, second = TransformersBackbone(str(folder)), TransformersBackbone(str(folder))
    assert first.network.training
    own = transformers.AutoModel.from_pretrained(folder)
    assert all(torch.equal(v, own.state_dict()[k]) for k, v in first.network.state_dict().items())
    assert first.pretrained
    assert first.pretrained_content == second.pretrained_content
    random = TransformersBackbone(str(folder), pretrained=False)
    assert not random.pretrained
    assert random.pretrained_content is None
    assert "pretrained_content" not in vars(random)
    assert "pretrained_content" not in vars(TransformersBackbone(TINY))
    assert not all(torch.equal(v, own.state_dict()[k]) for k, v in random.network.state_dict().items())


def test_other_weights_are_another_run(folder: Path, tmp_path: Path) -> None:
    from lit_aux.models.transformers_network import content_of

    network = transformers.AutoModel.from_pretrained(folder)
    before = content_of(network)
    with torch.no_grad():
        network.embeddings.LayerNorm.bias[0] += 1e-3
    assert content_of(network) != before
    network.save_pretrained(tmp_path / "other")
    contents = {TransformersBackbone(str(f)).pretrained_content for f in (folder, tmp_path / "other")}
    assert len(contents) == 2


def test_half_precision_is_for_storage(folder: Path, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    assert {p.dtype for p in TransformersBackbone(str(tmp_path / "half")).parameters()} == {torch.float32}
    kept = TransformersBackbone(str(tmp_path / "half"), options={"dtype": "float16"})
    assert {p.dtype for p in kept.parameters()} == {torch.float16}


def test_what_it_tells_builds_it_again_without_its_folder(folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    transformers.AutoModel.from_pretrained(folder).save_pretrained(gone)
    backbone = TransformersBackbone(str(gone), options={"hidden_dropout_prob": 0.3}).eval()
    told = backbone.told()
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    with without_reading(lambda: told):
        again = TransformersBackbone(**told["arguments"]).eval()
    again.load_state_dict(backbone.state_dict())
    assert again.network.config.hidden_dropout_prob == 0.3
    assert again.pretrained_content == backbone.pretrained_content
    assert torch.equal(again(tokens()), backbone(tokens()))


def test_a_part_of_a_folder(tmp_path: Path) -> None:
    text, vision = MODELS["clip_text_model"], MODELS["clip_vision_model"]
    whole = transformers.AutoConfig.for_model(
        "clip", text_config=text, vision_config=vision, projection_dim=8
    )
    clip = transformers.AutoModel.from_config(whole)
    clip.save_pretrained(tmp_path / "clip")
    with pytest.raises(ConfigurationError, match="clip_text_model or clip_vision_model is a part of it"):
        TransformersBackbone(str(tmp_path / "clip"))
    found = TransformersBackbone(str(tmp_path / "clip"), options={"model_type": "clip_text_model"}).eval()
    torch.testing.assert_close(
        found.network.state_dict()["final_layer_norm.weight"],
        clip.text_model.state_dict()["final_layer_norm.weight"],
    )
    expected = clip.eval().text_model(tokens()).last_hidden_state.mean(1)
    torch.testing.assert_close(found(tokens()), expected)


# What is refused


def refusals(folder: Path, tmp_path: Path) -> dict[str, tuple[Any, dict[str, Any], str]]:
    empty, bare, other = tmp_path / "empty", tmp_path / "bare", tmp_path / "other"
    for path in (empty, bare, other):
        path.mkdir()
    config_text = (folder / "config.json").read_text()
    (bare / "config.json").write_text(config_text)
    (other / "config.json").write_text(config_text)
    from safetensors.torch import save_file

    save_file({"a.b": torch.zeros(2)}, other / "model.safetensors", {"format": "pt"})
    return {
        "nothing": ({}, {}, "is no model"),
        "number": (3, {}, "is no model"),
        "no type": ({"hidden_size": 8}, {}, "names no model_type"),
        "type": ({"model_type": "brt"}, {}, "'brt' is unknown; did you mean 'bert'"),
        "field": ({**TINY, "hiden_size": 8}, {}, "'hiden_size' is unknown; did you mean 'hidden_size'"),
        "value": ({**TINY, "hidden_size": "wide"}, {}, "expected int, got str"),
        "heads": ({**TINY, "hidden_size": 9}, {}, "9"),
        "option": (TINY, {"options": {"hidden_dropout": 0.5}}, "did you mean 'hidden_dropout_prob'"),
        "option of a folder": (str(folder), {"options": {"dropout": 0.5}}, "options: .*'dropout' is unknown"),
        "output": (TINY, {"options": {"return_dict": False}}, "return_dict cannot be set"),
        "pooling": (TINY, {"pooling": "max"}, "'max' is unknown"),
        "pooler": (config("gpt2"), {"pooling": "pooler"}, "GPT2Model pools nothing itself"),
        "no folder": (str(tmp_path / "none"), {}, "there is no folder"),
        "no config": (str(empty), {}, "has no config.json"),
        "no weights": (str(bare), {}, "has no weights; set pretrained: false"),
        "other weights": (str(other), {}, "are of another network"),
        "other shapes": (str(folder), {"options": {"hidden_size": 8}}, "cannot be built"),
    }


@pytest.mark.parametrize("case", ["nothing", "number", "no type", "type", "field", "value", "heads", "option",
    "option of a folder", "output", "pooling", "pooler", "no folder", "no config", "no weights",
    "other weights", "other shapes"])  # fmt: skip
def test_bad_models_in_one_line(folder: Path, tmp_path: Path, case: str) -> None:
    model, options, message = refusals(folder, tmp_path)[case]
    with pytest.raises(ConfigurationError, match=message) as e:
        TransformersBackbone(model, **options)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "hub_answers", lambda: False)
    with pytest.raises(ConfigurationError, match="the hub cannot be reached") as e:
        TransformersBackbone("someone/no-such-model-here")
    assert "\n" not in str(e.value)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lit-aux\[text\]'"):
        TransformersBackbone(TINY)


BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "short mask": ({"input_ids": tokens(), "attention_mask": torch.ones(3, 4)}, r"attention_mask \(3, 4\)"),
    "wide mask": (
        {"input_ids": tokens(), "attention_mask": torch.ones(3, 5, 5)},
        r"attention_mask \(3, 5, 5\)",
    ),
    "other vocabulary": ({"input_ids": tokens() + 40}, "is none of the 50 that the network knows"),
    "negative": ({"input_ids": tokens() - 100}, "token -9"),
    "too long": ({"input_ids": tokens(1, 33)}, "33 tokens, and BertModel has 32 positions"),
    "floats": ({"input_ids": torch.randn(3, 5)}, "takes numbers of tokens"),
    "one sentence": ({"input_ids": tokens()[0]}, "takes numbers of tokens"),
    "name": ({"input_id": tokens()}, "'input_id' is unknown; did you mean 'input_ids'"),
    "no tokens": ({"attention_mask": torch.ones(3, 5)}, "needs input_ids"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_bad_batches_in_one_line(case: str) -> None:
    batch, message = BATCHES[case]
    with pytest.raises(ConfigurationError, match=message) as e:
        TransformersBackbone(TINY)(**batch)
    assert "\n" not in str(e.value)


def test_roberta_has_fewer_positions_than_it_says() -> None:
    backbone = TransformersBackbone(config("roberta"))
    assert backbone(tokens(1, 30)).shape == (1, 16)
    with pytest.raises(ConfigurationError, match="30 positions"):
        backbone(tokens(1, 31))


def test_a_vocabulary_of_data() -> None:
    backbone = TransformersBackbone(TINY)
    for size in (None, 50, 20):
        backbone.check_vocabulary(size)
    with pytest.raises(ConfigurationError, match="has 51 tokens, and the network knows 50"):
        backbone.check_vocabulary(51)


def test_copies_and_compiled_networks_are_the_same() -> None:
    backbone = TransformersBackbone(TINY).eval()
    given = inputs_of(backbone)
    expected = backbone(**given)
    assert torch.equal(deepcopy(backbone)(**given), expected)
    compiled: Any = torch.compile(backbone, backend="eager")
    torch.testing.assert_close(compiled(**given), expected)
    inside = deepcopy(backbone)
    inside.network = torch.compile(inside.network, backend="eager")
    torch.testing.assert_close(inside(**given), expected)


def test_adapters_of_peft_are_within_the_network() -> None:
    import peft

    backbone = TransformersBackbone(TINY).eval()
    given = inputs_of(backbone)
    expected = backbone(**given)
    backbone.network = peft.get_peft_model(
        backbone.network, peft.LoraConfig(target_modules=["query", "value"])
    )
    torch.testing.assert_close(backbone(**given), expected)


def test_importing_the_package_does_not_import_transformers() -> None:
    code = (
        "import sys, lit_aux, lit_aux.models; "
        "print([n for n in ('transformers', 'peft', 'tokenizers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
