"""Students of a run's folder, against what gradient flow conserves and against direct formulas."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from regime_helpers import fit_run

from lit_aux.cli.regime import run
from lit_aux.errors import ConfigurationError
from lit_aux.regimes import StudentFeatures, read_run, suggest, summarize

FACTOR = {"diagonal": 0.5, "relu": [0.8, 0.4]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {kind: fit_run(kind, root / kind, rescale=factor) for kind, factor in FACTOR.items()}


def final(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / "finetune.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value.double() for name, value in content.items()}


def q_orders(beta: float, alpha: float, beta_aux: float) -> tuple[float, float]:
    """Return l-order and feature dependence of alpha q(2 beta / alpha), by differences of the penalty."""

    def cost(b: float, a: float) -> float:
        z = 2 * abs(b) / a
        return a * (2 - math.sqrt(4 + z * z) + z * math.asinh(z / 2))

    e = 1e-5
    order = (math.log(cost(beta * (1 + e), alpha)) - math.log(cost(beta * (1 - e), alpha))) / (2 * e)
    up, down = alpha + e * beta_aux, alpha - e * beta_aux
    return order, (math.log(cost(beta, up)) - math.log(cost(beta, down))) / (2 * e)


def test_diagonal_places(runs: dict[str, Path]) -> None:
    students, note = read_run(runs["diagonal"])
    assert len(students) == 4
    assert note.endswith("replicas converged")
    end = final(runs["diagonal"])
    for replica, student in enumerate(students):
        w = torch.stack([end["first.plus"][replica], end["first.minus"][replica]])
        v = torch.stack([end["readout.plus"][replica, 0], end["readout.minus"][replica, 0]])
        assert torch.equal(student.beta, w[0] * v[0] - w[1] * v[1])
        # AB is conserved: the scale of the penalty can be read off the weights at the end
        a = ((w[0] + v[0]).square() + (w[1] - v[1]).square()) / 4
        b = ((w[0] - v[0]).square() + (w[1] + v[1]).square()) / 4
        place = student.place()
        alpha = place.beta_aux[0] + 0.05**2
        torch.testing.assert_close(alpha, 2 * (a * b).sqrt(), rtol=0.01, atol=0)
        top = int(student.beta.abs().argmax())
        numbers = float(student.beta[top]), float(alpha[top]), float(place.beta_aux[0, top])
        order, dependence = q_orders(*numbers)
        assert float(place.l_order[0, top]) == pytest.approx(order, abs=1e-6)
        assert float(place.dependence[0, top]) == pytest.approx(dependence, abs=1e-6)


def test_relu_places(runs: dict[str, Path]) -> None:
    students, _ = read_run(runs["relu"] / "checkpoints" / "finetune.ckpt")
    end = final(runs["relu"])
    assert [student.factor for student in students] == [0.8, 0.4]
    for replica, student in enumerate(students):
        w, v = end["first.weight"][replica], end["readout.weight"][replica, 0]
        torch.testing.assert_close(student.beta, v * w.norm(dim=1))
        # ||w||^2 - v^2 of every unit is conserved
        start = w.square().sum(1) - v.square() + student.readout[0].square()
        beta_aux = student.place().beta_aux[0]
        torch.testing.assert_close(beta_aux, start, rtol=0.02, atol=2e-4 * float(start.max()))
        top = int(student.beta.abs().argmax())
        assert student.correlation is not None
        b, s, rho = float(student.beta[top]), float(beta_aux[top]), float(student.correlation[top])
        v0 = float(student.readout[0, top])
        order, dependence = relu_orders(b, s, rho, v0)
        assert float(student.place().l_order[0, top]) == pytest.approx(order, abs=1e-5)
        assert float(student.place().dependence[0, top]) == pytest.approx(dependence, abs=1e-5)


def relu_orders(beta: float, beta_aux: float, rho: float, v0: float) -> tuple[float, float]:
    """The same of the ReLU penalty, minimised numerically."""
    from scipy.optimize import minimize_scalar

    def cost(b: float, s: float) -> float:
        def of(log_m: float) -> float:
            m = math.exp(log_m)
            return (b / m - v0) ** 2 + m * m + s - 2 * m * math.sqrt(s) * rho

        return min(
            minimize_scalar(of, bounds=(x - 1, x + 1), method="bounded", options={"xatol": 1e-11}).fun
            for x in range(-6, 4)
        )

    e = 1e-4
    ups = (cost(beta * (1 + e), beta_aux), cost(beta, beta_aux * (1 + e)))
    downs = (cost(beta * (1 - e), beta_aux), cost(beta, beta_aux * (1 - e)))
    found = [(math.log(u) - math.log(d)) / (2 * e) for u, d in zip(ups, downs, strict=True)]
    return found[0], found[1]


def test_what_is_written(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs["diagonal"]
    assert run([str(folder / "checkpoints" / "finetune.ckpt")], fit=lambda words: None) == 0
    told = capsys.readouterr().out
    assert "overlap" in told
    assert "first-order suggestion" in told
    assert "2 sqrt(AB)" in told
    content = json.loads((folder / "regime.json").read_text())
    assert [cell["cell"]["overlap"] for cell in content["cells"]] == [0, 3]
    for cell in content["cells"]:
        assert sum(cell["shares"].values()) == pytest.approx(1)
        assert cell["seeds"] == [0, 1]
    assert (folder / "regime.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".regime*"))
    assert content["cells"][1]["pretrained_share"] > 0.9
    assert content["cells"][0]["pretrained_share"] < content["cells"][1]["pretrained_share"]


def test_the_readout_follows_where_all_weights_are_rescaled(tmp_path: Path) -> None:
    folder = fit_run("diagonal", tmp_path / "all", rescale=0.5, rescale_preset="all")
    students, _ = read_run(folder)
    assert all(student.readout_follows for student in students)
    assert [student.gamma for student in students] == pytest.approx([0.025] * 4)
    end = final(folder)
    w, v = end["first.plus"][0], end["readout.plus"][0, 0]
    wm, vm = end["first.minus"][0], end["readout.minus"][0, 0]
    product = ((w + v) ** 2 + (wm - vm) ** 2) * ((w - v) ** 2 + (wm + vm) ** 2) / 16
    alpha = students[0].place().beta_aux[0] + 0.025**2
    torch.testing.assert_close(alpha, 2 * product.sqrt(), rtol=0.01, atol=0)
    # without a factor, none acts; the next one would act on all weights too
    plain, _ = read_run(fit_run("diagonal", tmp_path / "none", rescale_preset="all"))
    assert {(student.factor, student.readout_follows) for student in plain} == {(1.0, True)}


def test_another_pretraining_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = fit_run("diagonal", tmp_path / "other", rescale=0.5, pretrain_settings={"max_evaluations": 30})
    with pytest.raises(ConfigurationError, match="not what this run was finetuned from"):
        read_run(runs["diagonal"], other / "checkpoints" / "pretrain.ckpt")
    read_run(runs["diagonal"], runs["diagonal"] / "checkpoints" / "pretrain.ckpt")


def edited(folder: Path, to: Path, **model: Any) -> Path:
    shutil.copytree(folder, to)
    config = yaml.safe_load((to / "config.yaml").read_text())
    config["model"] |= {key: value for key, value in model.items() if key == "class_path"}
    config["model"]["init_args"] |= {key: value for key, value in model.items() if key != "class_path"}
    (to / "config.yaml").write_text(yaml.safe_dump(config))
    return to


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"class_path": "lit_aux.modules.SingleTaskModule"}, "a run of SingleTaskModule"),
        ({"class_path": "lit_aux.modules.Nothing"}, "no configuration of lit-aux fit"),
        ({"backbone": "resnet18"}, "no student"),
        ({"finetune": "probe"}, "finetuning of all weights"),
        ({"finetune": "probe_then_full"}, "the phases pretrain, probe, finetune"),
        ({"finetune_tasks": ["main", "aux"]}, "on one task"),
        ({"rescale": -1.0}, "rescale"),
    ],
)
def test_other_runs(runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], part: str) -> None:
    if "finetune_tasks" in change:
        change = {**change, "pretrain_tasks": ["aux"]}
    with pytest.raises(ConfigurationError, match=part) as raised:
        read_run(edited(runs["diagonal"], tmp_path / "edited", **change))
    assert "\n" not in str(raised.value)


def test_files_that_are_not_there(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(runs["diagonal"], folder)
    (folder / "checkpoints" / "pretrain.ckpt").rename(tmp_path / "elsewhere.ckpt")
    with pytest.raises(ConfigurationError, match=r"--pretrained .*no such file"):
        read_run(folder)
    assert len(read_run(folder, tmp_path / "elsewhere.ckpt")[0]) == 4
    shutil.copy(tmp_path / "elsewhere.ckpt", folder / "checkpoints" / "pretrain.ckpt")
    with pytest.raises(ConfigurationError, match="of the phase pretrain; name the one of finetune"):
        read_run(folder / "checkpoints" / "pretrain.ckpt")
    (folder / "checkpoints" / "finetune.ckpt").write_text("nothing")
    with pytest.raises(ConfigurationError, match="not a readable checkpoint"):
        read_run(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"no config\.yaml"):
        read_run(folder)
    with pytest.raises(ConfigurationError, match="no such folder"):
        read_run(folder / "none")


def test_a_suggestion_holds(runs: dict[str, Path]) -> None:
    """At the suggested factor, the weighted median of what is recomputed by hand is nested."""
    students, _ = read_run(runs["diagonal"])
    shared = [student for student in students if student.cell["overlap"] == 3]
    found = suggest(shared)
    assert found.factor is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.factor <= found.high
    for factor, inside in ((found.factor, True), (found.low, True), (found.low / 1.03, False)):
        assert (nested_by_hand(shared, factor) > 0.5) == inside
    assert nested_by_hand(shared, found.factor) == pytest.approx(found.share, abs=2e-3)
    summary = summarize(shared)
    assert summary.suggestion == found


def nested_by_hand(students: list[StudentFeatures], factor: float) -> float:
    total = 0.0
    for student in students:
        w, v = factor * student.first, student.readout
        strength = student.first.square().sum(0)
        made = (strength >= 0.01 * strength.max()).nonzero()[:, 0].tolist()
        size = student.beta.abs()
        nested = 0.0
        for d in made:
            (p, m), (x, y) = w[:, d].tolist(), v[:, d].tolist()
            a, b = ((p + x) ** 2 + (m - y) ** 2) / 4, ((p - x) ** 2 + (m + y) ** 2) / 4
            alpha = 2 * math.sqrt(a * b)
            _, dependence = q_orders(float(size[d]), alpha, alpha - 0.05**2)
            nested += float(size[d]) * (-0.5 <= dependence <= -0.1)
        total += nested / float(size[made].sum())
    return total / len(students)


def test_a_deep_run_is_judged_by_its_own_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"class_path": "lit_aux.modules.PretrainFinetuneModule", "init_args": {"backbone": "resnet18"}}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "lit_aux.data.DigitsDataModule"}})
    )
    numbers = {"pr_before": 10.0, "pr_after": 4.0, "ensd": 3.9, "pr_ratio": 0.4, "ensd_ratio": 0.975}
    layers = [
        {
            "phase": "pretrain",
            "layer": "net.backbone.network.layer1",
            **numbers,
            "verdict": "lazy",
            "note": "",
        },
        {
            "phase": "finetune",
            "layer": "net.backbone.network.layer4",
            **numbers,
            "verdict": "nested",
            "note": "",
        },
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"phases": [], "layers": layers}))
    assert run([str(tmp_path)], fit=lambda words: None) == 0
    printed = capsys.readouterr().out
    assert "layer4" in printed
    assert "nested" in printed
    assert "layer1" not in printed
    (tmp_path / "summary.json").unlink()
    with pytest.raises(ConfigurationError, match="no layers were measured"):
        run([str(tmp_path)], fit=lambda words: None)


def test_classes_of_the_working_folder_are_known(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_regime_module.py").write_text(
        "from lit_aux.modules import PretrainFinetuneModule as Base\n\nclass Mine(Base):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    folder = edited(runs["diagonal"], tmp_path / "edited", class_path="my_regime_module.Mine")
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert run([str(folder)], fit=lambda words: None) == 0
