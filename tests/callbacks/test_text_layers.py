"""Layers of networks of transformers: names, dimensionality without padding, and all diagnostics."""

import sys
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from text_toys import TASKS, TextToys, backbone, settings, text, trainer_in
from torch import Tensor, nn

from lit_aux.callbacks import (
    L2SP,
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    KMeansInertia,
    RepresentationDimensionality,
    Sharpness,
    TrajectoryLog,
    WeightRescaling,
    WiSEFT,
)
from lit_aux.callbacks._blocks import blocks_of
from lit_aux.callbacks._layers import default_layers
from lit_aux.models import MultiHeadNet, TransformersBackbone
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.modules.optimization import build_optimizer
from lit_aux.phases import PhaseSettings

sys.path.append(str(Path(__file__).parents[1] / "models"))
from transformers_models import MODELS, config

LAYERS = {
    "bert": "embeddings encoder.layer.0 encoder.layer.1",
    "distilbert": "embeddings transformer.layer.0 transformer.layer.1",
    "deberta-v2": "embeddings encoder.layer.0 encoder.layer.1 encoder.LayerNorm",
    "albert": "embeddings encoder.embedding_hidden_mapping_in encoder.albert_layer_groups.0",
    "electra": "embeddings embeddings_project encoder.layer.0 encoder.layer.1",
    "modernbert": "embeddings layers.0 layers.1 final_norm",
    "gpt2": "wte h.0 h.1 ln_f",
    "llama": "embed_tokens layers.0 layers.1 norm",
    "mamba": "embeddings layers.0 layers.1 norm_f",
    "clip_text_model": "embeddings encoder.layers.0 encoder.layers.1 final_layer_norm",
    "vit": "embeddings layers.0 layers.1 layernorm",
    "dinov2": "embeddings encoder.layer.0 encoder.layer.1 layernorm",
    "resnet": "embedder encoder.stages.0 encoder.stages.1",
    "convnext": "embeddings encoder.stages.0 encoder.stages.1",
}


@pytest.mark.parametrize("name", LAYERS)
def test_names_of_layers(name: str) -> None:
    net = MultiHeadNet(TransformersBackbone(config(name)), TASKS)
    expected = [f"backbone.network.{layer}" for layer in LAYERS[name].split()]
    assert default_layers(net) == [*expected, "readout"]


def test_every_parameter_has_a_depth() -> None:
    for name in MODELS:
        network = TransformersBackbone(config(name)).network
        blocks = blocks_of(network)
        assert blocks is not None
        depths = {blocks.depth(n) for n, _ in network.named_parameters()}
        assert {*range(len(blocks.blocks) + 1)} <= depths <= {*range(len(blocks.blocks) + 2)}, name
    assert blocks_of(nn.Linear(1, 1)) is None


def test_rates_fall_with_the_distance_from_the_readout() -> None:
    torch.manual_seed(0)
    how = PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), layer_decay=0.5)
    module = SingleTaskModule(TransformersBackbone(config("gpt2")), {"main": 2}, settings=how)
    built = build_optimizer(module.phases[0], module)
    named = {id(p): n.removeprefix("net.backbone.network.") for n, p in module.named_parameters()}
    rates = {named[id(p)]: group["lr"] for group in built.param_groups for p in group["params"]}
    assert set(rates) == set(named.values())
    expected = {"wte": 1 / 8, "wpe": 1 / 8, "h.0": 1 / 4, "h.1": 1 / 2, "ln_f": 1.0, "net.readout": 1.0}
    for name, rate in rates.items():
        assert rate == next(value for begin, value in expected.items() if name.startswith(f"{begin}.")), name


def pr(x: Tensor) -> float:
    centred = x - x.mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    return float(values.sum() ** 2 / values.square().sum())


def ensd(x: Tensor, y: Tensor) -> float:
    (a, b) = ((z - z.mean(0)).T @ (z - z.mean(0)) for z in (x, y))
    return float((a @ b).trace() * a.trace() * b.trace() / ((a @ a).trace() * (b @ b).trace()))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("spatial", ["flatten", "mean"])
def test_dimensionality_leaves_padding_out(tmp_path: Path, spatial: Any, kernel: str) -> None:
    probe = text(20, 5, 2)[0]
    there = probe["attention_mask"].bool()
    measured = RepresentationDimensionality(probe=probe, spatial=spatial, picture=False)
    net = backbone(options={"attn_implementation": kernel})
    module = SingleTaskModule(net, dict(TASKS), settings=settings(1))
    before = backbone(options={"attn_implementation": kernel}).double()
    trainer_in(tmp_path, callbacks=[measured], precision="64-true").fit(module, datamodule=TextToys())

    def states(network: Any) -> list[Tensor]:
        """Return what each layer gives of each sentence alone, its real tokens, and then zeros."""
        found = []
        for row, length in enumerate(there.sum(1).tolist()):
            one = network.eval()(
                input_ids=probe["input_ids"][row : row + 1, :length], output_hidden_states=True
            )
            found.append([nn.functional.pad(h[0], (0, 0, 0, 8 - length)) for h in one.hidden_states])
        layers = [torch.stack(each).detach() for each in zip(*found, strict=True)]
        counts = there.sum(1, keepdim=True).double()
        return [x.flatten(1) if spatial == "flatten" else x.sum(1) / counts for x in layers]

    after = module.double().net.backbone.network
    rows = {row.layer.removeprefix("net.backbone.network."): row for row in measured.results}
    assert list(rows) == ["embeddings", "encoder.layer.0", "encoder.layer.1", "net.readout"]
    for name, x, y in zip(rows, states(before.network), states(after), strict=False):
        assert rows[name].pr_before == pytest.approx(pr(x), rel=1e-9)
        assert rows[name].pr_after == pytest.approx(pr(y), rel=1e-9)
        assert rows[name].ensd == pytest.approx(ensd(x, y), rel=1e-9)


@pytest.mark.parametrize("name", ["deberta-v2", "albert", "gpt2", "t5", "llama", "mamba"])
def test_dimensionality_of_other_networks(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    measured = RepresentationDimensionality(picture=False, num_samples=8)
    module = SingleTaskModule(TransformersBackbone(config(name)), dict(TASKS), settings=settings(1))
    trainer_in(tmp_path, callbacks=[measured]).fit(module, datamodule=TextToys())
    assert len(measured.results) >= 4
    assert all(row.pr_after >= 1 for row in measured.results)
    assert not any("LayerNorm" in row.layer for row in measured.results)


@pytest.mark.parametrize("name", ["bert", "llama", "albert"])
@pytest.mark.filterwarnings("error:.*failed at step")
def test_diagnostics_run_on_text(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    weights = {"llama": "*.mlp.up_proj", "albert": "*.ffn"}
    inertia = KMeansInertia(f"net.backbone.network{weights.get(name, '*.intermediate.dense')}", 4)
    found: list[Any] = [inertia, FisherTrace(num_samples=8), Sharpness(num_samples=8)]
    found += [GradientConflict(every_n_steps=1), GradientCoherence(num_batches=2, batch_size=4)]
    found += [TrajectoryLog()]
    net = TransformersBackbone(config(name))
    module = MultiTaskModule(net, dict(TASKS), settings=settings(1))
    trainer_in(tmp_path, callbacks=found, limit_train_batches=2).fit(module, datamodule=TextToys())
    for one in found:
        assert one.results, type(one).__name__
        assert all(isfinite(row.value) for row in one.results), type(one).__name__


def test_diagnostics_leave_no_trace(tmp_path: Path) -> None:
    def run(*callbacks: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = MultiTaskModule(backbone(), dict(TASKS), settings=settings(1))
        trainer_in(tmp_path, callbacks=[*callbacks]).fit(module, datamodule=TextToys())
        return module.state_dict()

    measured = [
        RepresentationDimensionality(picture=False),
        FisherTrace(num_samples=8),
        Sharpness(num_samples=8),
    ]
    plain, other = run(), run(*measured)
    assert all(torch.equal(value, other[name]) for name, value in plain.items())


@pytest.mark.parametrize(("name", "left"), [("bert", "LayerNorm"), ("llama", "norm"), ("t5", "layer_norm")])
def test_rescaling_weights_leaves_norms_alone(tmp_path: Path, name: str, left: str) -> None:
    torch.manual_seed(0)
    module = SingleTaskModule(TransformersBackbone(config(name)), dict(TASKS), settings=settings(1))
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    rescale = WeightRescaling(0.5, preset="weights")
    rescale.on_fit_start(trainer_with(tmp_path, module), module)
    halved = {n for n, p in module.named_parameters() if torch.equal(p, before[n] / 2) and before[n].any()}
    same = {n for n, p in module.named_parameters() if torch.equal(p, before[n])}
    assert halved.isdisjoint(same - {n for n in same if not before[n].any()})
    assert not [n for n in rescale.names if left in n or n.endswith("bias")]
    assert [n for n in rescale.names if "embed" in n or "shared" in n], "tables of tokens are weights"
    assert {n for n, p in module.named_parameters() if p.ndim > 1} == {*rescale.names}


def trainer_with(root: Path, module: Any) -> Any:
    trainer = trainer_in(root)
    trainer.strategy.connect(module)
    module.trainer = trainer
    return trainer


def test_l2_sp_and_mixtures_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PretrainFinetuneModule(
        backbone(), dict(TASKS), pretrain_settings=settings(1), finetune_settings=settings(1), rescale=0.5,
        finetune_callbacks=[L2SP(0.1), WiSEFT([0.0, 1.0])],
    )  # fmt: skip
    trainer = trainer_in(tmp_path)
    trainer.fit(module, datamodule=TextToys())
    assert [result.name for result in trainer.phase_results] == ["pretrain", "finetune"]
