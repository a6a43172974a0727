"""Networks of transformers in every way of training, resumed, shared between runs, and on two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from lightning.pytorch import Callback, seed_everything
from process_helpers import together
from text_toys import TASKS, TINY, TextToys, backbone, settings, trainer_in

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.models import TransformersBackbone
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseCheckpoint
from lit_aux.runs import read_rows

SCRIPT = Path(__file__).parent / "text_two_processes_script.py"


def module_of(setup: str, **options: Any) -> Any:
    net = backbone(**options)
    if setup == "STL":
        return SingleTaskModule(net, dict(TASKS), settings=settings())
    if setup == "MTL":
        return MultiTaskModule(net, dict(TASKS), settings=settings())
    how = {"finetune": "probe"} if setup == "LP" else {"rescale": 0.5}
    return PretrainFinetuneModule(
        net, dict(TASKS), pretrain_settings=settings(), finetune_settings=settings(layer_decay=0.8), **how
    )


def fit(root: Path, module: Any, *callbacks: Callback, ckpt_path: str | None = None, **options: Any) -> Any:
    seed_everything(5)
    kept = PhaseCheckpoint(budget=1.0)
    trainer = trainer_in(root, callbacks=[kept, *callbacks], **{"phase_store": False, **options})
    trainer.fit(module, datamodule=TextToys(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("setup", ["STL", "MTL", "PT+FT", "LP"])
def test_setups(tmp_path: Path, setup: str) -> None:
    start = {n: p.detach().clone() for n, p in module_of(setup).named_parameters()}
    module = module_of(setup)
    trainer = fit(tmp_path, module)
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, start[n])}
    assert moved == {*start}
    assert "main/test_accuracy" in trainer.phase_results[-1].metrics


class Stop(Callback):
    """Ends the fit as a crash would, in the middle of an epoch of a phase."""

    changes_training = False

    def __init__(self, phase: str, step: int) -> None:
        self.phase, self.step = phase, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == self.phase and trainer.global_step == self.step:
            raise RuntimeError("crash")


@pytest.mark.parametrize(("phase", "step"), [("pretrain", 3), ("finetune", 3)])
def test_resumed_bit_for_bit(tmp_path: Path, phase: str, step: int) -> None:
    whole = module_of("PT+FT")
    fit(tmp_path / "whole", whole)
    with pytest.raises(RuntimeError, match="crash"):
        fit(tmp_path / "parts", module_of("PT+FT"), Stop(phase, step))
    again = module_of("PT+FT")
    fit(tmp_path / "parts", again, ckpt_path="last")
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def folder(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    TransformersBackbone(TINY).network.save_pretrained(path)
    return str(path)


def test_first_phases_are_shared_by_equal_networks_alone(tmp_path: Path) -> None:
    store = {"phase_store": str(tmp_path / "store")}

    def reused(name: str, net: TransformersBackbone) -> bool:
        torch.manual_seed(0)  # of the readout
        how = {"pretrain_settings": settings(1), "finetune_settings": settings(1)}
        trainer = fit(tmp_path / name, PretrainFinetuneModule(net, dict(TASKS), **how), **store)
        return bool(trainer.phase_results[0].reused)

    assert not reused("first", backbone())
    assert reused("again", backbone())
    assert not reused("other kernel", backbone(options={"attn_implementation": "eager"}))
    assert not reused("other dropout", backbone(options={"hidden_dropout_prob": 0.3}))
    one = folder(tmp_path / "bert", 1)
    assert not reused("folder", TransformersBackbone(one))
    assert reused("folder again", TransformersBackbone(one))
    folder(tmp_path / "bert", 2)
    assert not reused("other weights", TransformersBackbone(one))


def test_runs_of_other_weights_are_other_runs(tmp_path: Path) -> None:
    """A run is not resumed from a folder that has other weights by now."""
    one = folder(tmp_path / "bert", 1)
    with pytest.raises(RuntimeError, match="crash"):
        fit(
            tmp_path,
            SingleTaskModule(TransformersBackbone(one), dict(TASKS), settings=settings()),
            Stop("train", 3),
        )
    folder(tmp_path / "bert", 2)
    again = SingleTaskModule(TransformersBackbone(one), dict(TASKS), settings=settings())
    with pytest.raises(ConfigurationError, match="pretrained_content"):
        fit(tmp_path, again, ckpt_path="last")


def test_rows_of_other_weights_are_other_rows(tmp_path: Path) -> None:
    net = {
        "class_path": "lit_aux.models.TransformersBackbone",
        "init_args": {"model": str(tmp_path / "bert")},
    }
    how = {"task": "main", "backbone": net, "settings": {"max_epochs": 1}}
    config = {
        "model": {"class_path": "lit_aux.modules.SingleTaskModule", "init_args": how},
        "data": {"class_path": "text_toys.TextToys"},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path / "runs")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for seed in (1, 2):
        folder(tmp_path / "bert", seed)
        assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 0
    rows = [row for file in (tmp_path / "runs").rglob("results.csv") for row in read_rows(file)]
    assert len({row["run"] for row in rows}) == 2


def test_weights_of_a_file_of_another_kind(tmp_path: Path) -> None:
    """A backbone within a model for masked words gives its weights to the option ``pretrained``."""
    theirs = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.for_model(**TINY))
    theirs.save_pretrained(tmp_path / "theirs")
    file = str(tmp_path / "theirs/model.safetensors")
    module = SingleTaskModule(backbone(), dict(TASKS), pretrained=file)
    ours = module.net.backbone.network.state_dict()
    expected = theirs.bert.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.items())
    # the folder itself is a model as well, without its head
    found = TransformersBackbone(str(tmp_path / "theirs")).network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    together(SCRIPT, root)
    return root


@pytest.mark.parametrize("name", ["bert", "wav2vec2", "dinov2"])
def test_no_parameter_is_left_out_on_two_processes(two_processes: Path, name: str) -> None:
    first, second = (torch.load(two_processes / f"{name}-{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_sweep_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    net = {"class_path": "lit_aux.models.TransformersBackbone", "init_args": {"model": TINY}}
    how = {"max_epochs": 1}
    config = {
        "model": {
            "class_path": "lit_aux.modules.PretrainFinetuneModule",
            "init_args": {"backbone": net, "pretrain_settings": how, "finetune_settings": how},
        },
        "data": {"class_path": "text_toys.TextToys"},
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path / "runs")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    sweep = {
        "program": "lit-aux",
        "method": "grid",
        "metric": {"name": "finetune/main/test_accuracy", "goal": "maximize"},
        "command": ["lit-aux", "fit", "--config", str(tmp_path / "config.yaml"), "${args}"],
        "parameters": {
            "model.backbone.init_args.model.hidden_size": {"values": [8]},
            "model.rescale": {"values": [1.0, 0.5]},
        },
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "runs/sweeps/sweep/results.csv"
    assert main(["sweep", str(tmp_path / "sweep.yaml")]) == 0
    rows = read_rows(results)
    assert len(rows) == 2
    assert main(["table", str(results)]) == 0
    assert "PT+FT" in capsys.readouterr().out
    assert main(["figures", "all", "--results", str(results), "--out", str(tmp_path / "pictures")]) == 0
    assert any((tmp_path / "pictures").iterdir())
