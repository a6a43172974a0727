"""Low-rank finetuning: outputs by hand, what trains, what is merged and written, bad input."""

from collections.abc import Callable
from importlib import util
from typing import Any

import peft
import pytest
import timm
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from toys import FEATURES, TASKS, ToyData, toy_backbone, toy_module, toy_trainer
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model
from transformers.pytorch_utils import Conv1D

from lit_aux.adapters import adapted_layers, merged_weight
from lit_aux.callbacks._layers import named_layers
from lit_aux.callbacks._parameters import by_any_name
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet, LoRA, MultiHeadNet, TimmBackbone, export_state_dict
from lit_aux.models.low_rank import described, inject, merge, merged_state, plain_state, targets
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule
from lit_aux.modules.optimization import build_optimizer, trainable_names
from lit_aux.phases import Phase, PhaseSettings

IMAGES = {"test_vit": 160, "test_resnet": 32, "resnet18": 32}
USUAL = {
    "test_vit": ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"],
    "test_resnet": ["conv1", "conv2", "conv3", "downsample"],
    "resnet18": ["conv1", "conv2", "downsample"],
}


def double(net: nn.Module) -> nn.Module:
    return net.double().eval()


def filled(net: nn.Module, size: float = 0.1) -> None:
    """Give the factors that start from zero some numbers."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


class Layered(nn.Module):
    """One layer of each kind that can be adapted, of which the last returns features (batch, 4)."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3, padding_idx=0)
        self.strided = nn.Conv1d(3, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv1d(6, 6, 3, groups=2, padding=1)
        self.flat = nn.Conv2d(1, 2, (3, 2), padding=(1, 0), bias=False)
        self.point = nn.Conv2d(2, 2, 1)
        self.solid = nn.Conv3d(1, 2, 2)
        self.turned = Conv1D(5, 6)
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.grouped(self.strided(self.embedding(x).transpose(1, 2)))  # (n, 6, 4)
        maps = self.point(self.flat(found.unsqueeze(1)))  # (n, 2, 6, 3)
        solid = self.solid(maps.unsqueeze(1)).mean((1, 2, 4))  # (n, 5)
        return self.linear(self.turned(nn.functional.pad(solid, (0, 1))))


KINDS = ["embedding", "strided", "flat", "point", "solid", "turned", "linear"]


def by_hand(net: nn.Module, r: int, scale: float) -> dict[str, Tensor]:
    """Return the weights W + scale B A of adapted layers, from the definition of each kind of layer."""
    found = {}
    for name, layer in adapted_layers(net).items():
        state, base = layer.state_dict(), layer.get_base_layer()
        weight = base.weight.detach().clone()
        if isinstance(base, nn.Embedding):
            a, b = state["lora_embedding_A.lit_aux"], state["lora_embedding_B.lit_aux"]
            for row in range(weight.shape[0]):
                weight[row] += scale * sum(b[:, k] * a[k, row] for k in range(r))
        else:
            a, b = state["lora_A.lit_aux.weight"], state["lora_B.lit_aux.weight"].flatten(1)
            for k in range(r):
                for row in range(len(b)):
                    update = scale * b[row, k] * a[k]
                    if isinstance(base, Conv1D):
                        weight[:, row] += update
                    else:
                        weight[row] += update
        found[f"{name}.weight"] = weight
    return found


@pytest.mark.parametrize("rslora", [False, True])
def test_outputs_are_those_of_the_weights_by_hand(rslora: bool) -> None:
    torch.manual_seed(0)
    net = double(MultiHeadNet(Layered(), TASKS))
    x = torch.randint(0, 7, (5, 7))
    before = net.features(x)
    r, alpha = 3, 5.0
    options = LoRA(r=r, lora_alpha=alpha, target_modules=KINDS, use_rslora=rslora)
    assert options.scale == pytest.approx(alpha / (r**0.5 if rslora else r))
    inject(net, options)
    assert torch.equal(net.features(x), before)  # zero at the start
    assert list(adapted_layers(net)) == [f"backbone.{kind}" for kind in KINDS]
    filled(net, 0.5)
    after = net.features(x)
    assert float((after - before).detach().abs().max()) > 1e-2
    weights = by_hand(net, r, options.scale)
    other = double(MultiHeadNet(Layered(), TASKS))
    plain = {k.replace(".base_layer", ""): v for k, v in net.state_dict().items() if "lora_" not in k}
    other.load_state_dict(plain | weights)
    torch.testing.assert_close(other.features(x), after, rtol=1e-12, atol=1e-12)
    for name, layer in adapted_layers(net).items():
        torch.testing.assert_close(merged_weight(layer), weights[f"{name}.weight"], rtol=1e-12, atol=1e-14)
    # from tensors alone, as a checkpoint has them, and in the network
    state = merged_state(net.state_dict(), described(net), "it")
    torch.testing.assert_close(state, other.state_dict(), rtol=1e-12, atol=1e-14)
    merge(net)
    torch.testing.assert_close(dict(net.state_dict()), state, rtol=1e-12, atol=1e-14)
    assert [type(m) for m in net.modules()] == [type(m) for m in other.modules()]
    assert not adapted_layers(net)
    assert not hasattr(net, "peft_config")


@pytest.mark.parametrize("name", IMAGES)
def test_networks_of_timm(name: str) -> None:
    torch.manual_seed(0)
    net = double(MultiHeadNet(TimmBackbone(name), {"main": 3, "aux": 2}))
    x = torch.randn(2, 3, IMAGES[name], IMAGES[name], dtype=torch.float64)
    layers, parameters = list(named_layers(net)), set(by_any_name(net))
    chosen = targets(net, LoRA())
    kinds = nn.Linear if name == "test_vit" else nn.Conv2d
    assert chosen == [n for n, m in net.named_modules() if isinstance(m, kinds) and "readout" not in n]
    assert {next(end for end in USUAL[name] if end in n or "conv" in n) for n in chosen}
    before = net(x)
    inject(net, LoRA(r=2, lora_alpha=6))
    assert list(adapted_layers(net)) == chosen
    assert list(named_layers(net)) == layers  # their names stay
    assert parameters < set(by_any_name(net))
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    filled(net)
    outputs = net(x, "main")
    weights = export_state_dict(net, "main")
    assert adapted_layers(net)  # still there
    whole = timm.create_model(name, num_classes=3).double().eval()
    whole.load_state_dict(weights)
    assert float((outputs - before["main"]).detach().abs().max()) > 1e-3
    torch.testing.assert_close(whole(x), outputs, rtol=1e-9, atol=1e-11)


class Text(nn.Module):
    """A network of transformers' as a backbone."""

    num_features = 16

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.network(input_ids=input_ids, attention_mask=attention_mask)
        return found.last_hidden_state.mean(1)  # type: ignore[no-any-return]


BERT = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)
GPT = GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2)


@pytest.mark.parametrize(
    ("network", "count"),
    [(lambda: BertModel(BERT, add_pooling_layer=False), 12), (lambda: GPT2Model(GPT), 8)],
)
def test_networks_of_transformers(network: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(0)
    net = double(MultiHeadNet(Text(network()), TASKS))
    x = {"input_ids": torch.randint(0, 30, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    before, layers, state = net(x, "main"), list(named_layers(net)), net.state_dict()
    inject(net, LoRA(r=2))
    assert len(adapted_layers(net)) == count  # attention and MLP of two blocks
    assert torch.equal(net(x, "main"), before)
    assert list(named_layers(net)) == layers
    filled(net, 0.3)
    outputs = net(x, "main")
    assert float((outputs - before).detach().abs().max()) > 1e-2
    merged = plain_state(net)
    assert merged.keys() == state.keys()
    merge(net)
    torch.testing.assert_close(net(x, "main"), outputs, rtol=1e-10, atol=1e-12)
    net.load_state_dict(merged)
    torch.testing.assert_close(net(x, "main"), outputs, rtol=1e-10, atol=1e-12)


def test_adapters_of_the_backbone_itself_stay(tmp_path: Any) -> None:
    backbone = toy_backbone()
    config = peft.LoraConfig(r=2, target_modules=["0"])
    peft.inject_adapter_in_model(config, backbone)
    phases = [Phase(name="low", tasks=["main"], lora=LoRA(r=3)), Phase(name="rest", tasks=["main"])]
    module = MultiTaskModule(backbone, TASKS, phases=phases)
    module.enter_phase(phases[0])
    assert [*adapted_layers(module)] == ["net.backbone.0", "net.backbone.4"]
    training = {n.partition(".lora_")[0] for n, p in module.named_parameters() if p.requires_grad}
    assert training == {"net.backbone.4", "net.readout.weight", "net.readout.bias"}
    module.enter_phase(phases[1])
    assert [*adapted_layers(module)] == ["net.backbone.0"]
    with pytest.raises(ConfigurationError, match="it has adapters of its own"):
        targets(module.net, LoRA(target_modules=["0.base_layer"]))


def test_compiled(tmp_path: Any) -> None:
    """Of a backbone that is compiled, layers have the names that they have otherwise."""
    compiled = torch.compile(toy_backbone(), backend="eager")
    module = MultiTaskModule(
        compiled,  # type: ignore[arg-type]
        TASKS,
        num_features=10,
        phases=[
            Phase(name="low", tasks=["main"], lora=LoRA(target_modules=["net.backbone.4"]), max_epochs=1)
        ],
    )
    toy_trainer(tmp_path, phase_store=False).fit(module, datamodule=ToyData())
    (name,) = adapted_layers(module)
    assert name == "net.backbone._orig_mod.4"
    assert float(adapted_layers(module)[name].lora_B["lit_aux"].weight.detach().abs().max()) > 0
    plain = MultiTaskModule(toy_backbone(), TASKS)
    plain.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in plain_state(module).items()})
    x = torch.randn(5, FEATURES)
    torch.testing.assert_close(plain.eval()(x, "main"), module.eval()(x, "main"), rtol=1e-5, atol=1e-6)


def test_names_may_be_globs_or_ends() -> None:
    net = MultiHeadNet(TimmBackbone("test_vit"), TASKS)
    blocks = [n for n in targets(net, LoRA()) if "attn.qkv" in n]
    prefix = "net.backbone.network.blocks.*.attn.qkv"
    for patterns in ([prefix], ["qkv"], ["attn.qkv"], ["blocks.*.qkv"]):
        assert targets(net, LoRA(target_modules=patterns)) == blocks
    assert targets(net, LoRA(exclude_modules=["mlp.*", "proj"])) == blocks
    # what a glob matches beside layers with weights that can be adapted stays as it is
    assert len(targets(net, LoRA(target_modules=["blocks.0.*"]))) == 4


def test_only_adapters_and_readout_train() -> None:
    module = toy_module(finetune="lora", lora=LoRA(r=2))
    pretrain, finetune = module.phases
    assert (pretrain.lora, finetune.lora) == (None, LoRA(r=2))
    module.enter_phase(pretrain)
    assert all(p.requires_grad for p in module.parameters())
    module.enter_phase(finetune)
    training = {name for name, p in module.named_parameters() if p.requires_grad}
    assert training == trainable_names(module, finetune)
    factor = "net.backbone.{}.lora_{}.lit_aux.weight"
    expected = {factor.format(layer, side) for layer in (0, 4) for side in "AB"}
    assert training == expected | {"net.readout.weight", "net.readout.bias"}
    loss = module(torch.randn(4, FEATURES), "main").square().sum()
    loss.backward()
    assert {n for n, p in module.named_parameters() if p.grad is not None} == training


def test_patterns_name_what_trains_beside_them() -> None:
    phase = Phase(name="some", tasks=["main"], trainable=["net.backbone.1.*", "*.4.weight"], lora=LoRA())
    module = MultiTaskModule(toy_backbone(), TASKS, phases=[phase])
    module.enter_phase(phase)
    training = {n for n, p in module.named_parameters() if p.requires_grad and "lora_" not in n}
    own = {"net.backbone.1.weight", "net.backbone.1.bias", "net.backbone.4.base_layer.weight"}
    assert training == own | {"net.readout.weight", "net.readout.bias"}


@pytest.mark.parametrize("name", ["test_vit", "resnet18"])
def test_learning_rates_fall_with_the_layers_that_are_adapted(name: str) -> None:
    settings = PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=0.1), layer_decay=0.5)
    phase = Phase(name="some", tasks=["main"], **vars(settings))
    module = MultiTaskModule(TimmBackbone(name), TASKS, phases=[phase])

    def rates() -> dict[str, float]:
        names = {id(p): n for n, p in module.named_parameters()}
        groups = build_optimizer(phase, module).param_groups
        return {names[id(p)]: g["lr"] for g in groups for p in g["params"]}

    module.enter_phase(phase)
    full = rates()
    phase.lora = LoRA(r=2)
    module.enter_phase(phase)
    low = rates()
    assert len(low) == 2 + 2 * len(adapted_layers(module))
    for key, rate in low.items():
        assert rate == full[f"{key.partition('.lora_')[0]}.weight" if "lora_" in key else key], key


def test_statistics_stay_unless_asked_otherwise(tmp_path: Any) -> None:
    found = {}
    for mode in ("eval", "train"):
        module = toy_module(finetune="lora", lora=LoRA(batchnorm=mode), rescale=0.5)  # type: ignore[arg-type]
        kept: dict[str, Any] = {}
        trainer = toy_trainer(tmp_path / mode, callbacks=[_Watch(kept)], phase_store=False)
        trainer.fit(module, datamodule=ToyData())
        norm = next(m for m in module.modules() if isinstance(m, _BatchNorm))
        found[mode] = (kept["modes"], kept["mean"], norm.running_mean.clone())  # type: ignore[operator, union-attr]
    assert found["eval"][0] == {False}
    assert torch.equal(*found["eval"][1:])  # as the rescale has left them
    assert found["train"][0] == {True}
    assert not torch.equal(*found["train"][1:])


class _Watch(Callback):
    """Keeps what batch normalization is like in the last phase."""

    changes_training = False

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        norm = next(m for m in pl_module.modules() if isinstance(m, _BatchNorm))
        self.kept |= {"modes": set(), "mean": norm.running_mean.clone()}  # type: ignore[union-attr, operator]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.kept["modes"] |= {m.training for m in pl_module.modules() if isinstance(m, _BatchNorm)}


class Fast(nn.Module):
    """torch's own transformer layer, which reads the weights of its parts when nothing trains."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(1)  # type: ignore[no-any-return]


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    network[1].weight = network[0].weight
    network.num_features = 6  # type: ignore[assignment]
    return network


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "rank": (lambda: LoRA(r=0), "lora.r: 0 must be at least 1"),
    "half a rank": (lambda: LoRA(r=2.5), "lora.r: 2.5 must be a whole number"),  # type: ignore[arg-type]
    "scale": (lambda: LoRA(lora_alpha=-1), "lora.lora_alpha: -1 must be above 0"),
    "dropout": (lambda: LoRA(lora_dropout=1.0), "lora.lora_dropout: 1.0 must be"),
    "no layers": (lambda: LoRA(target_modules=[]), r"lora.target_modules: \[\] names no layer"),
    "text": (lambda: LoRA(target_modules="qkv"), "'qkv' is no list"),  # type: ignore[arg-type]
    "mode": (lambda: LoRA(batchnorm="off"), "lora.batchnorm: 'off' is unknown"),  # type: ignore[arg-type]
    "no match": (
        lambda: toy_module(finetune="lora", lora=LoRA(target_modules=["query"])),
        "lora.target_modules: 'query' is unknown; .*net.backbone",
    ),
    "normalization": (
        lambda: toy_module(finetune="lora", lora=LoRA(target_modules=["net.backbone.1"])),
        "'net.backbone.1' is 'net.backbone.1', which cannot be adapted: a BatchNorm1d is neither",
    ),
    "grouped": (
        lambda: targets(MultiHeadNet(Layered(), TASKS), LoRA(target_modules=["grouped"])),
        "cannot be adapted: it is a convolution with groups",
    ),
    "past the layer": (
        lambda: targets(MultiHeadNet(Fast(), TASKS), LoRA(target_modules=["linear1"])),
        "torch's TransformerEncoderLayer reads its weight past the layer",
    ),
    "nothing left": (
        lambda: targets(MultiHeadNet(Fast(), TASKS), LoRA()),
        "lora: by default leaves no layer of Fast to adapt",
    ),
    "tied": (
        lambda: targets(MultiHeadNet(tied(), TASKS), LoRA(target_modules=["backbone.0"])),
        "its weight is also another layer's",
    ),
    "all excluded": (
        lambda: toy_module(finetune="lora", lora=LoRA(exclude_modules=["0", "4"])),
        r"lora: exclude_modules \['0', '4'\] leaves no layer of Sequential",
    ),
    "nothing to exclude": (
        lambda: toy_module(finetune="lora", lora=LoRA(exclude_modules=["head"])),
        "lora.exclude_modules: 'head' is unknown",
    ),
    "full": (lambda: toy_module(lora=LoRA()), "lora: .* are for finetune lora, not full"),
    "unknown": (lambda: toy_module(finetune="lroa"), "finetune: 'lroa' is unknown; did you mean 'lora'"),
    "readout alone": (
        lambda: Phase(name="some", tasks=["main"], trainable="readout", lora=LoRA()),
        "trainable: 'readout' trains no low-rank update",
    ),
    "no options": (
        lambda: Phase(name="some", tasks=["main"], lora=8),  # type: ignore[arg-type]
        "lora: 8 is no LoRA",
    ),
    "students": (
        lambda: PretrainFinetuneModule(DiagonalNet(4), TASKS, finetune="lora"),
        "lora: it is for deep networks, not for students",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    make, expected = BAD[case]
    with pytest.raises(ConfigurationError, match=expected) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_peft_is_missed_before_anything_trains(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name == "peft" else found(name, *a))
    module = toy_module(finetune="lora")
    with pytest.raises(
        ConfigurationError, match=r"lora: peft is not installed; run: pip install 'lit-aux\[lora\]'"
    ):
        toy_trainer(tmp_path).fit(module, datamodule=ToyData())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_defaults_are_those_of_peft() -> None:
    own, theirs = LoRA(), peft.LoraConfig()
    for name in ("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora"):
        assert getattr(own, name) == getattr(theirs, name)
