"""Phases on two gloo processes: ranks stay equal, and what is logged is over all samples.

One launch of ``two_process_script.py`` trains everything (in float64, so that rounding hides nothing); the
tests look at what its two processes wrote down.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_helpers import launch
from torch import Tensor, nn
from two_process_script import LAYERS, PROBE, build, data

from lit_aux.modules import AuxiliaryModule

Report = dict[str, Any]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Report]]:
    """Return what each run's two processes wrote."""
    folder = tmp_path_factory.mktemp("two")
    launch(Path(__file__).with_name("two_process_script.py"), folder)
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]
        for name in ("probed", "stopped", "published")
    }


def network(name: str, state: dict[str, Tensor]) -> AuxiliaryModule:
    """Return a run's module with these weights, in float64, to be evaluated by hand."""
    module = build(name).double().eval()
    module.load_state_dict(state)
    return module


@torch.no_grad()
def evaluate(module: AuxiliaryModule, split: str, task: str) -> tuple[float, float]:
    """Return cross-entropy and accuracy on all samples of a task at once."""
    source = data()
    x, y = next(
        iter(source.samples(split, task).loader(source.view.transform(), batch_size=1000, training=False))
    )
    logits = module(x.double(), task)
    return float(nn.functional.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())


RUNS = {
    "probed": ["pretrain", "probe", "finetune"],
    "stopped": ["pretrain", "finetune"],
    "published": ["train"],
}


@pytest.mark.parametrize("name", RUNS)
def test_ranks_hold_the_same_weights_after_every_phase(reports: dict[str, list[Report]], name: str) -> None:
    first, second = reports[name]
    assert first["world"] == second["world"] == 2
    assert list(first["phases"]) == list(second["phases"]) == RUNS[name]
    for phase in RUNS[name]:
        mine, other = first["phases"][phase]["after"], second["phases"][phase]["after"]
        assert mine.keys() == other.keys()
        assert [key for key, value in mine.items() if not torch.equal(value, other[key])] == []


def test_the_ranks_trained_on_different_samples(reports: dict[str, list[Report]]) -> None:
    first, second = (report["phases"]["finetune"]["losses"] for report in reports["probed"])
    assert [size for _, size in first] == [6, 5]
    assert all(a != b for (a, _), (b, _) in zip(first, second, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_measures_are_over_all_samples(reports: dict[str, list[Report]], name: str) -> None:
    assert reports[name][0]["results"] == [
        {**result, "seconds": mine["seconds"]}
        for result, mine in zip(reports[name][1]["results"], reports[name][0]["results"], strict=True)
    ]
    for result in reports[name][0]["results"]:
        task = result["tasks"][0]
        state = torch.load(result["checkpoint"], weights_only=True)["state_dict"]
        module = network(name, state)
        for split in ("test",) if name == "published" else ("val", "test"):
            loss, accuracy = evaluate(module, split, task)
            assert result["metrics"][f"{task}/{split}_loss"] == pytest.approx(loss, rel=1e-9)
            assert result["metrics"][f"{task}/{split}_accuracy"] == np.float32(accuracy)


def test_training_loss_is_the_mean_over_the_samples_of_both_ranks(reports: dict[str, list[Report]]) -> None:
    for phase, result in zip(RUNS["probed"], reports["probed"][0]["results"], strict=True):
        steps = [step for report in reports["probed"] for step in report["phases"][phase]["losses"]]
        mean = sum(loss * size for loss, size in steps) / sum(size for _, size in steps)
        assert result["metrics"][f"{result['tasks'][0]}/train_loss"] == pytest.approx(mean, rel=1e-9)


def test_reestimated_statistics_are_those_of_all_training_images(reports: dict[str, list[Report]]) -> None:
    state = reports["probed"][0]["phases"]["finetune"]["after"]
    module = network("probed", state)
    source = data()
    loader = source.samples("train", "main").loader(source.view.transform(), batch_size=21, training=False)
    x = next(iter(loader))[0].double()
    assert len(x) == 21
    maps = module.net.backbone[0](x)  # type: ignore[index, operator]
    # 21 images on two ranks: one is used twice, and a batch's variance is the unbiased one.
    torch.testing.assert_close(
        state["net.backbone.1.running_mean"], maps.mean((0, 2, 3)).detach(), rtol=0.05, atol=0.02
    )
    torch.testing.assert_close(
        state["net.backbone.1.running_var"], maps.var((0, 2, 3)).detach(), rtol=0.1, atol=0.01
    )


def test_the_probe_phase_leaves_the_backbone_alone(reports: dict[str, list[Report]]) -> None:
    phase = reports["probed"][0]["phases"]["probe"]
    for name, value in phase["before"].items():
        assert torch.equal(value, phase["after"][name]) == (not name.startswith("net.readout")), name


def test_rescaling_acts_once_over_both_ranks(reports: dict[str, list[Report]]) -> None:
    for report in reports["probed"]:
        before, after = report["phases"]["pretrain"]["after"], report["phases"]["probe"]["before"]
        for name, value in before.items():
            if "running" not in name and "tracked" not in name:
                assert torch.equal(0.5 * value, after[name]), name


def brute_force(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return PR of x, PR of y and ENSD from explicit covariance matrices."""
    x, y = x - x.mean(0), y - y.mean(0)
    a, b = x.T @ x, y.T @ y
    pr = [np.trace(m) ** 2 / np.trace(m @ m) for m in (a, b)]
    ensd = np.trace(a @ b) * np.trace(a) * np.trace(b) / (np.trace(a @ a) * np.trace(b @ b))
    return float(pr[0]), float(pr[1]), float(ensd)


def test_dimensionality_is_that_of_one_process(reports: dict[str, list[Report]]) -> None:
    first, second = reports["probed"]
    assert first["dimensionality"] == second["dimensionality"]
    rows = {(row["phase"], row["layer"]): row for row in first["dimensionality"]}
    source = data()
    for phase, task in (("pretrain", "aux"), ("finetune", "main")):
        loader = source.samples("val", task).loader(source.view.transform(), batch_size=PROBE, training=False)
        x = next(iter(loader))[0].double()
        found = []
        for when in ("before", "after"):
            module = network("probed", first["phases"][phase][when])
            kept: dict[str, np.ndarray] = {}
            for layer in LAYERS:

                def note(_: nn.Module, __: Any, out: Tensor, at: Any = (kept, layer)) -> None:
                    at[0][at[1]] = out.detach().flatten(1).numpy()

                module.get_submodule(layer).register_forward_hook(note)
            module(x)
            found.append(kept)
        for layer in LAYERS:
            row = rows[phase, layer]
            expected = brute_force(found[0][layer], found[1][layer])
            assert [row["pr_before"], row["pr_after"], row["ensd"]] == pytest.approx(expected, rel=1e-9)


def test_a_first_phase_is_found_again_by_both_ranks(reports: dict[str, list[Report]]) -> None:
    assert [result["reused"] for result in reports["probed"][0]["results"]] == [False, False, False]
    for trained, reused in zip(reports["probed"], reports["stopped"], strict=True):
        assert [result["reused"] for result in reused["results"]] == [True, False]
        assert reused["phases"]["pretrain"]["steps"] == 0
        mine = reused["phases"]["pretrain"]["after"]
        for name, value in trained["phases"]["pretrain"]["after"].items():
            assert torch.equal(value, mine[name]), name


def test_both_ranks_stop_at_the_same_step(reports: dict[str, list[Report]]) -> None:
    first, second = (report["phases"]["finetune"]["steps"] for report in reports["stopped"])
    assert first == second
    assert 2 < first < 100
    reasons = {report["results"][-1]["reason"] for report in reports["stopped"]}
    assert len(reasons) == 1
    assert "training loss" in reasons.pop()


def test_one_run_has_one_folder(reports: dict[str, list[Report]]) -> None:
    folders = [Path(reports[name][0]["results"][0]["checkpoint"]).parent.parent for name in RUNS]
    assert [folder.name for folder in folders] == ["version_0", "version_1", "version_2"]
    assert len(list(folders[0].parent.glob("version_*"))) == 3
