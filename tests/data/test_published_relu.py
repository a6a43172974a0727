"""The published ReLU draws against the plain code that they follow: torch's global generator and layers."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import ortho_group
from teacher_helpers import relu
from torch import Tensor, nn
from torch.distributions import Normal

from lit_aux.data import ReLUTeacherDataModule
from lit_aux.models import ReLUNet
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseSettings, PhaseTrainer

D, HIDDEN, N_AUX, N_TEST = 15, 40, 24, 30


def rows(n: int) -> Tensor:
    x = Normal(0.0, 1.0).sample((n, D))
    return x / x.square().mean(1, keepdim=True).sqrt()


def network(outputs: int) -> tuple[nn.Linear, nn.Linear]:
    first = nn.Linear(D, HIDDEN, bias=False)
    nn.init.normal_(first.weight, std=math.sqrt(2 / D))
    readout = nn.Linear(HIDDEN, outputs, bias=False)
    nn.init.normal_(readout.weight, std=math.sqrt(2 / HIDDEN))
    return first, readout


def plain(seed: int, k_main: int | None, n_main: int, outputs: int) -> dict[str, Tensor]:
    """Draw as the published code did; pretraining has no main task."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = {"aux": torch.sign(torch.rand(6) - 0.5)}
        if k_main is not None:
            found["main"] = torch.sign(torch.rand(k_main) - 0.5)
        found["x_aux"] = rows(N_AUX)
        if k_main is not None:
            found["x_main"] = rows(n_main)
        found["x_test"] = rows(N_TEST)
        first, readout = network(outputs)
        found["first"], found["readout"] = first.weight.detach(), readout.weight.detach().clone()
        nn.init.normal_(readout.weight, std=math.sqrt(2 / HIDDEN))
        found["again"] = readout.weight.detach()
    return found


def data_of(seed: int = 3, k_main: int = 4, n_main: int = 9, **options: object) -> ReLUTeacherDataModule:
    given = {"correlation": 0.9, "n_aux": N_AUX, "n_test": N_TEST, "dtype": "float32", **options}
    return ReLUTeacherDataModule(seed=seed, k_main=k_main, n_main=n_main, **given)


def same(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours.float(), plain, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("seed", "k_main", "n_main"), [(0, 6, 16), (3, 1, 9), (5, 4, 3)])
def test_rows_and_teachers(seed: int, k_main: int, n_main: int) -> None:
    data, expected = data_of(seed, k_main, n_main), plain(seed, k_main, n_main, 2)
    basis = torch.from_numpy(ortho_group.rvs(D, random_state=seed)).float()
    units = 0.9 * basis[:k_main] + math.sqrt(1 - 0.81) * basis[6 : 6 + k_main]
    for task, directions in (("main", units), ("aux", basis[:6])):
        x, y = data.train_set(0, task)
        same(x, expected[f"x_{task}"])
        outputs = torch.relu(x @ directions.T) @ expected[task] / math.sqrt(len(directions))
        torch.testing.assert_close(y[:, 0], outputs, rtol=1e-4, atol=1e-5)
    same(data.test_set(0, "main")[0], expected["x_test"])


def test_pretraining_has_rows_of_its_own_whatever_the_main_task_is() -> None:
    for k_main, n_main in ((4, 9), (2, 30)):
        data, expected = data_of(3, k_main, n_main), plain(3, None, 0, 1)
        data.set_phase(["aux"])
        same(data.train_set(0, "aux")[0], expected["x_aux"])
        same(data.test_set(0, "aux")[0], expected["x_test"])
        data.set_phase(["main"])
        assert not torch.equal(data.train_set(0, "aux")[0].float(), expected["x_aux"])


def start_of(module_class: type, data: ReLUTeacherDataModule, **options: object) -> ReLUNet:
    """Return the network as a fit of no step leaves it."""
    net = ReLUNet(D, data.num_classes, hidden=HIDDEN, init_scale=1e-3, dtype="float32")
    settings = PhaseSettings(max_evaluations=1, max_flow_time=1e-12)
    keys = ("pretrain_settings", "finetune_settings") if options else ("settings",)
    module = module_class(net, data.num_classes, **dict.fromkeys(keys, settings), **options)
    trainer = PhaseTrainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    return net


def test_a_single_task_starts_from_the_published_weights() -> None:
    net, expected = start_of(SingleTaskModule, data_of()), plain(3, 4, 9, 1)
    same(net.first["weight"][0], 1e-3 * expected["first"])
    same(net.readout["weight"][0, net.task_slice("main")], 1e-3 * expected["readout"])


def test_several_tasks_start_from_the_published_weights_the_auxiliary_one_first() -> None:
    net, expected = start_of(MultiTaskModule, data_of()), plain(3, 4, 9, 2)
    same(net.first["weight"][0], 1e-3 * expected["first"])
    for row, task in enumerate(("aux", "main")):
        same(net.readout["weight"][0, net.task_slice(task)], 1e-3 * expected["readout"][row : row + 1])


def test_finetuning_has_the_pretrained_first_layer_and_the_published_readout() -> None:
    net = start_of(PretrainFinetuneModule, data_of(), pretrain_tasks=["aux"], readout="reset")
    same(net.first["weight"][0], 1e-3 * plain(3, None, 0, 1)["first"])
    same(net.readout["weight"][0, net.task_slice("aux")], 1e-3 * plain(3, None, 0, 1)["readout"])
    same(net.readout["weight"][0, net.task_slice("main")], 1e-3 * plain(3, 4, 9, 1)["again"])


def test_replicas_have_their_own_and_weights_that_were_given_stay() -> None:
    data = data_of(k_main=[2, 4], seed=[0, 3], correlation=1.0)
    net = start_of(SingleTaskModule, data)
    for row, cell in enumerate(data.replicas):
        same(net.first["weight"][row], 1e-3 * plain(cell["seed"], cell["k_main"], 9, 1)["first"])
    given = ReLUNet(D, data.num_classes, hidden=HIDDEN, seeds=[c["seed"] for c in data.replicas])
    with torch.no_grad():
        given.first["weight"].fill_(0.5)
    module = SingleTaskModule(given, data.num_classes)
    module.attach_data(data)
    assert (given.first["weight"] == 0.5).all()


def test_independent_networks_draw_from_their_seed_alone() -> None:
    data = data_of(sampling="independent")
    assert data.network_generator(0, ["main"]) is None
    net = start_of(SingleTaskModule, data)
    own = ReLUNet(D, {"main": 1}, hidden=HIDDEN, init_scale=1e-3, seeds=[3], dtype="float32")
    same(net.first["weight"], own.first["weight"])


@pytest.mark.parametrize("given", ["units", {"main": "units"}, {"aux": "units", "pretrain": "units"}])
def test_every_teacher_has_a_size_of_its_own(given: str | dict[str, str]) -> None:
    data = relu(k_main=3, output_scale=given)
    scales = given if isinstance(given, dict) else dict.fromkeys(("main", "aux", "pretrain"), given)
    for phase, task, units, name in (
        (["main"], "main", 3, "main"),
        (["main", "aux"], "aux", 6, "aux"),
        (["aux"], "aux", 6, "pretrain"),
    ):
        data.set_phase(phase)
        size = 1 / units if scales.get(name) == "units" else 1 / math.sqrt(units)
        teacher = data.teacher(0, task)
        torch.testing.assert_close(teacher.readout.abs(), torch.full((units,), size).to(teacher.readout))
        x, y = data.train_set(0, task)
        torch.testing.assert_close(y[:, 0], teacher(x))


def test_teachers_of_others_may_leave_the_weights_to_the_network() -> None:
    theirs = SimpleNamespace(replicas=data_of().replicas, in_features=D)
    net = ReLUNet(D, {"main": 1}, hidden=HIDDEN)
    module = SingleTaskModule(net, {"main": 1})
    module.way.attach(theirs, 1, module.phases)
    assert torch.equal(net.first["weight"], ReLUNet(D, {"main": 1}, hidden=HIDDEN, seeds=[3]).first["weight"])
