"""Any function as an objective over a matrix of parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import FunctionObjective, GradientDescent, GradientFlow


def start(replicas: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = () if replicas is None else (replicas,)
    shapes = {"a": (2, 3), "bias": (), "b": (3,)}
    return {
        name: torch.randn((*rows, *shape), generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def one(w: dict[str, Tensor]) -> Tensor:
    return ((w["a"] @ w["b"] + w["bias"]) ** 2).sum()


def many(w: dict[str, Tensor]) -> Tensor:
    return ((torch.einsum("rij,rj->ri", w["a"], w["b"]) + w["bias"][:, None]) ** 2).sum(1)


def right(w: dict[str, Tensor]) -> Tensor:
    """The gradient of ``one`` by hand, flat."""
    error = 2 * (w["a"] @ w["b"] + w["bias"])
    return torch.cat([torch.outer(error, w["b"]).flatten(), error.sum()[None], w["a"].T @ error])


def test_one_network_is_packed_and_differentiated() -> None:
    w = start()
    objective = FunctionObjective(one, w)
    theta = objective.pack(w)
    assert objective.replicas == 1
    assert theta.shape == (1, 10)
    back = objective.unpack(theta)
    assert list(back) == ["a", "bias", "b"]
    assert all(torch.equal(back[name], w[name]) for name in w)
    gradient = torch.full_like(theta, float("nan"))
    losses = objective.value_and_gradient(theta, gradient)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, one(w)[None])
    torch.testing.assert_close(gradient[0], right(w))


@pytest.mark.parametrize("keep", [[0, 1, 2, 3], [2], [0, 3]])
def test_some_of_many_replicas(keep: list[int]) -> None:
    w = start(4)
    whole = FunctionObjective(many, w)
    theta = whole.pack(w)
    assert theta.shape == (4, 10)
    chosen = whole.select(torch.tensor(keep))
    gradient = torch.empty(len(keep), 10, dtype=torch.float64)
    losses = chosen.value_and_gradient(theta[keep], gradient)
    for place, row in enumerate(keep):
        single = {name: tensor[row] for name, tensor in w.items()}
        torch.testing.assert_close(losses[place], one(single))
        torch.testing.assert_close(gradient[place], right(single))


def test_some_of_some() -> None:
    w = start(5)
    theta = FunctionObjective(many, w).pack(w)
    chosen = FunctionObjective(many, w).select(torch.tensor([1, 2, 4])).select(torch.tensor([0, 2]))
    assert chosen.replicas == 2
    losses = chosen.value_and_gradient(theta[[1, 4]], torch.empty(2, 10, dtype=torch.float64))
    torch.testing.assert_close(losses, many(w)[[1, 4]])


def test_who_was_left_out_cannot_spoil_the_others() -> None:
    def loss(y: Tensor) -> Tensor:
        return torch.log(y).sum(1)  # NaN below 0

    objective = FunctionObjective(loss, torch.ones(3, 2)).select(torch.tensor([1]))
    gradient = torch.empty(1, 2)
    assert objective.value_and_gradient(torch.full((1, 2), 2.0), gradient)[0].isfinite()
    assert torch.equal(gradient, torch.full((1, 2), 0.5))


def test_each_replica_may_have_a_problem_of_its_own() -> None:
    targets = torch.arange(4.0, dtype=torch.float64)

    def loss(y: Tensor) -> Tensor:
        return (y[:, 0] - targets) ** 2

    for integrator in (GradientFlow(1e-4), GradientDescent(0.1)):
        end = integrator.run(loss, torch.ones(4, 1, dtype=torch.float64), threshold=1e-8)
        assert end.converged.all()
        assert end.evaluations[1] < end.evaluations[3]  # the others go on without it
        torch.testing.assert_close(end.parameters[:, 0], targets, rtol=0, atol=1.01e-4)


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        (lambda y: y.square(), torch.ones(3, 2)),  # neither a scalar nor one a replica
        (lambda y: y.square().sum(0), torch.ones(3, 2)),  # two losses, three rows
        (lambda w: w["a"].sum(1), {"a": torch.ones(3, 2), "b": torch.ones(2, 2)}),
        (lambda w: w["a"].sum(1), {"a": torch.ones(3, 2), "b": torch.tensor(1.0)}),
    ],
)
def test_a_loss_of_another_shape_is_refused_in_one_line(loss: Any, parameters: Any) -> None:
    with pytest.raises(ConfigurationError, match="loss: ") as caught:
        GradientFlow().run(loss, parameters)
    assert "\n" not in str(caught.value)
    assert "scalar" in str(caught.value)
