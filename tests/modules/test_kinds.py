"""Each setup, resuming, the store, measurements, gradient methods and processes: on tasks of every kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kind_helpers import KINDS, METRIC, KindData, dimensionality, fitted, module_of, trainer_of
from lightning.pytorch import Callback, seed_everything
from process_helpers import together

SCRIPT = Path(__file__).parent / "kinds_two_processes_script.py"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setup", ["STL", "MTL", "PT+FT", "LP"])
def test_setups(tmp_path: Path, setup: str, kind: str) -> None:
    module, trainer = fitted(tmp_path, setup, kind, [dimensionality()])
    results = trainer.phase_results
    last = results[-1].metrics
    assert -1 < last[f"main/test_{METRIC[kind]}"] <= 1
    assert ("aux/test_accuracy" in last) == (setup == "MTL")
    if setup != "LP":
        untrained = module_of(setup, kind)
        found = trainer_of(tmp_path).test(untrained, KindData(kind), verbose=False)[0]
        before = next(value for name, value in found.items() if name.endswith("main/test_loss"))
        assert last["main/test_loss"] < before
    if setup == "LP":
        pretrained = dict(module_of(setup, kind).net.backbone.named_parameters())
        assert any(not torch.equal(p, pretrained[n]) for n, p in module.net.backbone.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_dimensionality_of_layers(tmp_path: Path, kind: str) -> None:
    measured = dimensionality()
    fitted(tmp_path, "PT+FT", kind, [measured])
    rows = measured.results
    assert {row.phase for row in rows} == {"pretrain", "finetune"}
    assert all(row.pr_after >= 1 and row.ensd > 0 for row in rows if row.phase == "finetune")


class Stop(Callback):
    """Ends the fit as a crash would, in the middle of an epoch of a phase."""

    def __init__(self, phase: str, step: int) -> None:
        self.phase, self.step = phase, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == self.phase and trainer.global_step == self.step:
            raise RuntimeError("crash")


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_bit_for_bit(tmp_path: Path, kind: str) -> None:
    whole, _ = fitted(tmp_path / "whole", "PT+FT", kind)
    with pytest.raises(RuntimeError, match="crash"):
        fitted(tmp_path / "parts", "PT+FT", kind, [Stop("finetune", 7)])
    again = module_of("PT+FT", kind)
    trainer_of(tmp_path / "parts").fit(again, datamodule=KindData(kind), ckpt_path="last")
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_once(tmp_path: Path, kind: str) -> None:
    seed_everything(0)
    store = {"phase_store": str(tmp_path / "store")}
    first, one = fitted(tmp_path / "a", "PT+FT", kind, **store)
    second, two = fitted(tmp_path / "b", "PT+FT", kind, **store)
    assert [r.reused for r in one.phase_results] == [False, False]
    assert [r.reused for r in two.phase_results] == [True, False]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_methods(tmp_path: Path, kind: str) -> None:
    module, _ = fitted(tmp_path, "MTL", kind, of_module={"aggregator": "PCGrad"})
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    start = dict(module_of("MTL", kind).named_parameters())
    assert all(not torch.equal(p, start[name]) for name, p in module.named_parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    together(SCRIPT, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(two_processes: Path, tmp_path: Path, kind: str) -> None:
    from kinds_two_processes_script import run

    module, metrics = run(kind, tmp_path, 1)
    for rank in (0, 1):
        found = torch.load(two_processes / f"{kind}-{rank}.pt")
        for name, value in module.state_dict().items():
            if "measures" not in name and "means" not in name:
                assert torch.allclose(found["state"][name], value, atol=1e-5), (rank, name)
        for name, number in metrics.items():
            assert found["metrics"][name] == pytest.approx(number, abs=1e-5), (rank, name)
