"""Losses and gradients of the students by hand against autograd through the networks themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_aux.models.diagonal_net import DiagonalNet
from lit_aux.models.relu_net import ReLUNet
from lit_aux.models.student import Problems

D, R = 7, 4
KINDS = ["diagonal", "relu"]
Chosen = dict[str, Tensor]

# what the network has; rows of each task that it is given, for each replica, and who shares inputs
CASES: dict[str, tuple[dict[str, int], dict[str, list[int]], list[int]]] = {
    "few rows": ({"main": 1}, {"main": [5] * R}, [0, 1, 2, 3]),
    "as many rows as inputs": ({"main": 1}, {"main": [D] * R}, [0, 0, 1, 1]),
    "many rows, shared": ({"main": 1}, {"main": [12] * R}, [0, 0, 0, 0]),
    "many rows, three outputs": ({"main": 3}, {"main": [12] * R}, [0, 1, 1, 2]),
    "few rows, three outputs": ({"main": 3}, {"main": [4] * R}, [0, 0, 0, 1]),
    "mixed": ({"main": 1}, {"main": [5, 5, 12, 8]}, [0, 0, 1, 2]),
    "two tasks": ({"aux": 1, "main": 1}, {"aux": [12] * R, "main": [5, 5, 6, 3]}, [0, 0, 1, 2]),
    "two tasks, several outputs": ({"aux": 2, "main": 3}, {"main": [3] * R, "aux": [9] * R}, [0, 1, 1, 1]),
    "one of two tasks": ({"aux": 2, "main": 1}, {"main": [6] * R}, [0, 0, 1, 1]),
    "other of two tasks": ({"aux": 2, "main": 1}, {"aux": [11] * R}, [0, 1, 2, 3]),
    "very many rows": ({"main": 1}, {"main": [600] * R}, [0, 0, 1, 2]),
}


def network(kind: str, tasks: dict[str, int], dtype: str = "float64") -> Any:
    """A network with weights of order one."""
    options: dict[str, Any] = {"replicas": R, "init_scale": 0.5, "dtype": dtype}
    net = DiagonalNet(D, tasks, **options) if kind == "diagonal" else ReLUNet(D, tasks, hidden=9, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def draw(case: str, change: Callable[[Tensor], Tensor] | None = None) -> Problems:
    """Inputs of standard normal numbers, drawn once for those who share them, and targets."""
    outputs, sizes, owners = CASES[case]
    generator = torch.Generator().manual_seed(1)
    inputs: dict[tuple[str, int], Tensor] = {}
    targets: dict[tuple[str, int], Tensor] = {}
    for task, rows in sizes.items():
        for replica, n in enumerate(rows):
            x = torch.randn(n, D, generator=generator, dtype=torch.float64)
            inputs.setdefault((task, owners[replica]), change(x) if change else x)
            targets[task, replica] = torch.randn(n, outputs[task], generator=generator, dtype=torch.float64)
    return Problems(
        list(sizes),
        key=lambda row, task: (task, owners[row]),
        load=lambda row, task: (inputs[task, owners[row]], targets[task, row]),
    )


def right(
    net: Any, problems: Problems, row: int, names: Sequence[str], chosen: Chosen | None = None
) -> tuple[Tensor, Tensor]:
    """One replica's loss and flat gradient by autograd."""
    loss, all_rows = torch.zeros((), dtype=net.dtype), 0.0
    for task in problems.tasks:
        x, y = problems.load(row, task)
        share = problems.weights.get(task, 1.0) * len(x)
        all_rows += share
        if chosen is not None:
            x, y = x[chosen[task]], y[chosen[task]]
        if len(x):  # a task's share of all rows times the mean over those that are there
            loss = loss + share * (net(x, task)[row] - y.to(net.dtype)).square().sum(1).mean()
    loss = loss / all_rows
    parts = torch.autograd.grad(loss, [net.weights()[name] for name in names], allow_unused=True)
    full = [torch.zeros_like(net.weights()[n]) if p is None else p for n, p in zip(names, parts, strict=True)]
    return loss.detach(), torch.cat([p[row].flatten() for p in full])


def assert_right(
    net: Any,
    problems: Problems,
    objective: Any,
    rows: Sequence[int],
    names: Sequence[str],
    chosen: Chosen | None = None,
    rtol: float = 1e-10,
) -> None:
    theta = net.pack(torch.tensor(rows), names)
    out = torch.full_like(theta, float("nan"))
    before = theta.clone()
    losses = objective.value_and_gradient(theta, out)
    assert objective.replicas == len(rows) == len(losses)
    assert torch.equal(theta, before)
    for place, row in enumerate(rows):
        loss, gradient = right(net, problems, row, names, chosen)
        torch.testing.assert_close(losses[place], loss, rtol=rtol, atol=0)
        size = float(gradient.abs().max())
        torch.testing.assert_close(out[place], gradient, rtol=rtol, atol=rtol * size)
    torch.testing.assert_close(objective.value(theta), losses, rtol=rtol, atol=0)


def names_of(net: Any, readout_alone: bool) -> list[str]:
    return [n for n in net.weights() if n.startswith("readout.") or not readout_alone]


@pytest.mark.parametrize("readout_alone", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_the_network(kind: str, case: str, readout_alone: bool) -> None:
    net, problems = network(kind, CASES[case][0]), draw(case)
    names = names_of(net, readout_alone)
    for chunk in (1, 2) if kind == "relu" else (0,):
        whole = net.objective(problems, torch.arange(R), names, chunk)
        assert_right(net, problems, whole, range(R), names)
        for rows in ([0, 2, 3], [1]):
            some = whole.select(torch.tensor(rows))
            assert_right(net, problems, some, rows, names)
            last = some.select(torch.tensor([len(rows) - 1]))
            assert_right(net, problems, last, rows[-1:], names)
            assert_right(
                net, problems, net.objective(problems, torch.tensor(rows), names, chunk), rows, names
            )
        assert_right(net, problems, whole, range(R), names)  # it is still whole


@pytest.mark.parametrize("case", ["mixed", "two tasks", "many rows, three outputs"])
@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind: str, case: str) -> None:
    net, problems = network(kind, CASES[case][0], "float32"), draw(case)
    objective = net.objective(problems, torch.arange(R), list(net.weights()), 1)
    theta = net.pack(torch.arange(R), list(net.weights()))
    assert objective.value(theta).dtype == torch.float32
    assert_right(net, problems, objective, range(R), list(net.weights()), rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_task_may_weigh_less(kind: str) -> None:
    net, problems = network(kind, CASES["two tasks"][0]), draw("two tasks")
    problems.weights["aux"] = 0.25
    names = list(net.weights())
    objective = net.objective(problems, torch.arange(R), names, 1)
    assert_right(net, problems, objective, range(R), names)
    assert_right(net, problems, objective.select(torch.tensor([1, 3])), [1, 3], names)


DEFICIENT: dict[str, Callable[[Tensor], Tensor]] = {
    "twins": lambda x: torch.cat([x[:, :-1], x[:, :1]], 1),
    "almost twins": lambda x: torch.cat([x[:, :-1], x[:, :1] * (1 + 1e-9)], 1),
    "a zero": lambda x: x * (torch.arange(D) != 2),
    "rank three": lambda x: x[:, :3] @ torch.arange(3.0 * D).double().square().mul(0.7).sin().reshape(3, D),
    "almost rank three": lambda x: DEFICIENT["rank three"](x) + 1e-8 * x,
    "rank one": lambda x: x[:, :1] * torch.linspace(1, 2, D),
}


@pytest.mark.parametrize("inputs", DEFICIENT)
@pytest.mark.parametrize(
    "case", ["many rows, shared", "many rows, three outputs", "very many rows", "two tasks"]
)
def test_diagonal_inputs_that_depend_on_each_other(case: str, inputs: str) -> None:
    net, problems = network("diagonal", CASES[case][0]), draw(case, DEFICIENT[inputs])
    objective = net.objective(problems, torch.arange(R), list(net.weights()), 1)
    assert_right(net, problems, objective, range(R), list(net.weights()), rtol=1e-7)


@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("n", [D, 12, 300])
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-8])
def test_small_losses_keep_their_digits(size: float, n: int, deficient: bool) -> None:
    net = network("diagonal", {"main": 1})
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    if deficient:
        x = DEFICIENT["rank three"](x)
    off = size * torch.randn(R, D, generator=generator, dtype=torch.float64)
    teacher = net.coefficients("main").detach()[:, 0] - off
    problems = Problems(["main"], lambda row, task: 0, lambda row, task: (x, (x @ teacher[row])[:, None]))
    names = list(net.weights())
    theta = net.pack(torch.arange(R), names)
    out = torch.empty_like(theta)
    losses = net.objective(problems, torch.arange(R), names, 1).value_and_gradient(theta, out)
    error = off @ x.T
    assert float(losses.max()) < 1e3 * size**2
    # what the inputs cannot see is of order one there, and leaves some 1e-16 in the sum
    torch.testing.assert_close(losses, error.square().mean(1), rtol=1e-6, atol=1e-15 if deficient else 0)
    slope = 2 * error @ x / n
    found, slope = out[:, 2 * D : 3 * D], net.first["plus"].detach() * slope
    torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6 * size + 1e-14 * deficient)


# Mini-batches: rows are counted over all tasks, one after another


@pytest.mark.parametrize("readout_alone", [False, True])
@pytest.mark.parametrize("rows", [[0, 11, 3, 12, 16], [12, 14], [5], [13, 7, 8, 9]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mini_batch_over_two_tasks(kind: str, rows: list[int], readout_alone: bool) -> None:
    tasks, _, owners = CASES["two tasks, several outputs"]
    CASES["batch"] = (tasks, {"aux": [12] * R, "main": [5] * R}, owners)
    net, problems = network(kind, tasks), draw("batch")
    names = names_of(net, readout_alone)
    objective = net.objective(problems, torch.arange(R), names, 1)
    assert objective.rows() == 17
    index = torch.tensor(rows)
    chosen = {"aux": index[index < 12], "main": index[index >= 12] - 12}
    assert_right(net, problems, objective.batch(index), range(R), names, chosen)
    some = objective.select(torch.tensor([0, 3]))
    assert some.rows() == 17
    assert_right(net, problems, some.batch(index), [0, 3], names, chosen)
    assert_right(net, problems, objective, range(R), names)
