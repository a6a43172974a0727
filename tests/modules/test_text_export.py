"""Networks of transformers leave as folders, and come back from checkpoints without their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from text_toys import TASKS, TINY, NamedToys, backbone, settings, text, trainer_in

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.models import LoRA, MultiHeadNet, TransformersBackbone
from lit_aux.models.low_rank import inject
from lit_aux.models.transformers_export import export_folder
from lit_aux.modules import MultiTaskModule, SingleTaskModule


def module_of(**options: Any) -> MultiTaskModule:
    return MultiTaskModule(backbone(**options), dict(TASKS), settings=settings(1)).eval()


def newest(root: Path) -> Path:
    return max(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


X = text(5, 9, 2)[0]


def test_the_network_alone(tmp_path: Path) -> None:
    module = module_of()
    module.export(tmp_path / "bert", data=NamedToys())
    assert {p.name for p in tmp_path.iterdir()} == {"bert"}, "nothing else is left"
    network = transformers.AutoModel.from_pretrained(tmp_path / "bert", add_pooling_layer=False).eval()
    expected = module.net.backbone.network(**X).last_hidden_state
    torch.testing.assert_close(network(**X).last_hidden_state, expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    batch = tokenizer(["w4 w5", "w6 never"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[4, 5], [6, 1]]
    assert (tokenizer.pad_token, tokenizer.cls_token, tokenizer.model_max_length) == ("[PAD]", "[CLS]", 16)
    again = TransformersBackbone(str(tmp_path / "bert")).eval()
    torch.testing.assert_close(again(**X), module.net.backbone(**X))


@pytest.mark.parametrize("task", [None, "main"])
def test_what_low_rank_updates_have_learned_is_in_the_weights(tmp_path: Path, task: str | None) -> None:
    module = module_of(pooling="pooler")
    inject(module.net, LoRA(r=2))
    torch.manual_seed(1)
    for name, parameter in module.net.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    module.eval().export(tmp_path / "bert", task=task)
    if task is None:
        again = TransformersBackbone(str(tmp_path / "bert"), pooling="pooler").eval()
        torch.testing.assert_close(again(**X), module.net.backbone(**X), rtol=1e-5, atol=1e-6)
    else:
        found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
        torch.testing.assert_close(found(**X).logits, module.net(X, task), rtol=1e-5, atol=1e-6)
    assert any("lora_B" in name for name, _ in module.net.named_parameters()), "the module stays as it is"


@pytest.mark.parametrize("task", TASKS)
def test_a_classifier(tmp_path: Path, task: str) -> None:
    module = module_of(pooling="pooler")
    module.export(tmp_path / "bert", task=task, data=NamedToys())
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    torch.testing.assert_close(found(**X).logits, module.net(X, task), rtol=1e-5, atol=1e-6)
    assert found.config.id2label == {i: f"{task} {i}" for i in range(TASKS[task])}
    assert json.loads((tmp_path / "bert/lit_aux.json").read_text())["task"] == task


@pytest.mark.parametrize(("model", "pooling", "fits"), [
    ({"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
      "intermediate_size": 32, "image_size": 16, "patch_size": 8}, "first", True),
    ({"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
      "layer_type": "basic"}, "mean", True),
    ({**TINY, "model_type": "roberta"}, "mean", False),
    ({"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}, "first", False),
    (TINY, "mean", False),
    ({"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
      "vocab_size": 50}, "mean", False),
])  # fmt: skip
def test_only_where_it_is_the_same_classifier(tmp_path: Path, model: Any, pooling: Any, fits: bool) -> None:
    torch.manual_seed(0)
    net = MultiHeadNet(TransformersBackbone(model, pooling=pooling), TASKS).eval()
    if not fits:
        with pytest.raises(ConfigurationError, match=f"pooling: {pooling}; export without a task") as e:
            export_folder(net, tmp_path / "out", "main")
        assert "\n" not in str(e.value)
        assert not any(tmp_path.iterdir())
        export_folder(net, tmp_path / "out")
        again = TransformersBackbone(str(tmp_path / "out"), pooling=pooling).eval()
        torch.testing.assert_close(again(X["input_ids"]), net.features(X["input_ids"]))
        return
    export_folder(net, tmp_path / "out", "main", classes=["no", "yes"])
    found = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(found(x).logits, net(x, "main"), rtol=1e-4, atol=1e-5)
    assert found.config.label2id == {"no": 0, "yes": 1}


def test_compiled_networks_and_the_random_state(tmp_path: Path) -> None:
    net = module_of().net
    expected = net(X, "main")
    net.backbone.network = torch.compile(net.backbone.network, backend="eager")
    state = torch.get_rng_state()
    export_folder(net, tmp_path / "out")
    assert torch.equal(state, torch.get_rng_state())
    again = MultiHeadNet(TransformersBackbone(str(tmp_path / "out")), TASKS).eval()
    again.readout.load_state_dict(net.readout.state_dict())
    torch.testing.assert_close(again(X, "main"), expected)


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    module.net.backbone.network.save_pretrained(tmp_path / "theirs")
    for name, message in (
        ("mine", "is no folder of an export"),
        ("theirs", "is no folder of an export"),
        ("file", "is a file"),
        ("weights.safetensors", "written as a folder"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            module.export(tmp_path / name)
    with pytest.raises(ConfigurationError, match="'min' is unknown; did you mean 'main'"):
        module.export(tmp_path / "out", task="min")
    module.export(tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    with torch.no_grad():
        module.net.backbone.network.embeddings.LayerNorm.bias += 1

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(transformers.PreTrainedModel, "save_pretrained", fail)
        with pytest.raises(ConfigurationError, match="No space left"):
            module.export(tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    module.export(tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine", "out", "theirs"]


# The command line, and checkpoints without the folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train from a folder on a command line, and remove the folder."""
    root = tmp_path_factory.mktemp("run")
    backbone().network.save_pretrained(root / "bert")
    config = {
        "model": {
            "class_path": "lit_aux.modules.SingleTaskModule",
            "init_args": {
                "task": "main",
                "backbone": {
                    "class_path": "lit_aux.models.TransformersBackbone",
                    "init_args": {
                        "model": str(root / "bert"),
                        "pooling": "mean",
                        "options": {"hidden_dropout_prob": 0.0},
                    },
                },
                "settings": {"max_epochs": 1},
            },
        },
        "data": {"class_path": "text_toys.NamedToys"},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(root / "runs")},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(root / "config.yaml")]) == 0
    shutil.rmtree(root / "bert")
    return root


def test_commands_without_the_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(newest(run_folder))
    with_config = ["--config", str(run_folder / "config.yaml"), "--ckpt_path", file]
    assert main(["test", *with_config]) == 0
    assert main(["predict", *with_config]) == 0
    assert main(["export", *with_config, "--output", str(run_folder / "out")]) == 0
    found = TransformersBackbone(str(run_folder / "out")).eval()
    state = torch.load(file, weights_only=True)["state_dict"]
    assert all(
        torch.equal(v, state[f"net.backbone.network.{k}"]) for k, v in found.network.state_dict().items()
    )
    assert found.network.config.hidden_dropout_prob == 0
    assert "w7" in (run_folder / "out/tokenizer.json").read_text()
    capsys.readouterr()
    assert main(["export", *with_config, "--output", str(run_folder / "other"), "--task", "main"]) == 2
    said = capsys.readouterr().err.strip()
    assert "is not one linear layer on features of pooling: mean" in said
    assert "\n" not in said
    assert not (run_folder / "other").exists()


def test_a_module_without_the_folder(run_folder: Path) -> None:
    file = newest(run_folder)
    found = SingleTaskModule.load_from_checkpoint(file)
    state = torch.load(file, weights_only=True)
    assert all(torch.equal(v, state["state_dict"][k]) for k, v in found.state_dict().items())
    told = state["lit_aux_module"]["network"]
    assert found.net.backbone.pretrained_content == told["content"]


@pytest.mark.filterwarnings("ignore:.*as by default")
def test_a_module_of_python_needs_no_backbone(tmp_path: Path) -> None:
    module = module_of(pooling="first")
    trainer_in(tmp_path).fit(module, datamodule=NamedToys())
    found = MultiTaskModule.load_from_checkpoint(newest(tmp_path)).eval()
    assert found.net.backbone.pooling == "first"
    torch.testing.assert_close(found.net(X, "aux"), module.eval().net(X, "aux"))


def test_fields_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "model": {
            "class_path": "lit_aux.modules.MultiTaskModule",
            "init_args": {
                "backbone": {
                    "class_path": "lit_aux.models.TransformersBackbone",
                    "init_args": {"model": TINY},
                },
                "settings": {"max_epochs": 1},
            },
        },
        "data": {"class_path": "text_toys.TextToys"},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path / "runs")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["fit", "--config", str(tmp_path / "config.yaml")]
    field = "--model.backbone.init_args.model"
    assert main([*words, f"{field}.hidden_size=8"]) == 0
    told = torch.load(newest(tmp_path), weights_only=True)["lit_aux_module"]["network"]
    assert told["configuration"]["hidden_size"] == 8
    assert told["configuration"]["num_hidden_layers"] == 2
    capsys.readouterr()
    for word, message in (
        (f"{field}.hiden_size=8", "'hiden_size' is unknown; did you mean 'hidden_size'"),
        (f"{field}.vocab_size=20", "none of the 20"),
        ("--model.backbone.init_args.options.dropout=0.5", "'dropout' is unknown"),
    ):
        assert main([*words, word]) == 2, word
        said = capsys.readouterr().err.strip()
        assert message in said
        assert len(said.splitlines()) == 1, said
    assert main([*words, f"{field}.vocab_size=49", "--data", "text_toys.NamedToys"]) == 2
    assert "its vocabulary has 50 tokens, and the network knows 49" in capsys.readouterr().err
