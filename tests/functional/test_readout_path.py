"""Linear probes in closed form, against the steps themselves, integration and the pseudo-inverse."""

from math import inf

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional import gradient_descent_probe, gradient_flow_probe

SHAPES = [(6, 20), (20, 20), (50, 20)]


def problem(n: int, d: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    y = torch.randn(n, dtype=torch.float64, generator=generator)
    names = ("w_plus", "v_plus", "w_minus", "v_minus")
    start = {name: torch.randn(d, dtype=torch.float64, generator=generator) for name in names}
    start["w_plus"][3] = start["w_minus"][3] = 0  # an entry that cannot change
    return x, y, start


def features(x: Tensor, start: dict[str, Tensor]) -> Tensor:
    return torch.cat([x * start["w_plus"], -x * start["w_minus"]], dim=1)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.99, 1.9], ids=["slow", "fast", "overshooting"])
@pytest.mark.parametrize("steps", [0, 1, 7, 400])
def test_it_is_descent_step_by_step(n: int, d: int, share: float, steps: int) -> None:
    x, y, start = problem(n, d)
    phi = features(x, start)
    lr = share / float(torch.linalg.eigvalsh(2 / n * phi.T @ phi)[-1])
    v = torch.cat([start["v_plus"], start["v_minus"]])
    for _ in range(steps):
        v = v - lr * 2 / n * phi.T @ (phi @ v - y)
    found = gradient_descent_probe(x, y, start, lr, steps)
    assert torch.allclose(
        torch.cat([found.weights["v_plus"], found.weights["v_minus"]]), v, rtol=0, atol=1e-11
    )
    assert torch.allclose(found.beta, v[:d] * start["w_plus"] - v[d:] * start["w_minus"], rtol=0, atol=1e-11)
    assert float(found.loss) == pytest.approx(float((phi @ v - y).square().mean()), rel=1e-9, abs=1e-20)
    assert torch.equal(found.weights["w_minus"], start["w_minus"])


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_a_million_steps_from_small_weights(n: int, d: int) -> None:
    """As the published probes of random networks, which end far from convergence."""
    x, y, start = problem(n, d)
    start = {name: 1e-3 * value for name, value in start.items()}
    values, vectors = np.linalg.eigh((2 / n * features(x, start).T @ features(x, start)).numpy())
    v = torch.cat([start["v_plus"], start["v_minus"]]).numpy()
    best = (torch.linalg.pinv(features(x, start), rtol=1e-12) @ y).numpy()
    inside = vectors.T @ (v - best)
    later = best + vectors @ (np.where(values > 1e-14, inside * (1 - 0.1 * values) ** 10**6, 0))
    kept = vectors @ np.where(values > 1e-14, 0, vectors.T @ v)  # what no step reaches
    found = gradient_descent_probe(x, y, start, 0.1, 10**6)
    end = torch.cat([found.weights["v_plus"], found.weights["v_minus"]]).numpy()
    assert np.allclose(end, later + kept, rtol=0, atol=1e-7 * np.abs(end).max())


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_it_is_the_flow(n: int, d: int) -> None:
    x, y, start = problem(n, d)
    phi, targets = features(x, start).numpy(), y.numpy()
    v = torch.cat([start["v_plus"], start["v_minus"]]).numpy()
    done = solve_ivp(
        lambda _, v: -2 / n * phi.T @ (phi @ v - targets),
        (0, 3.0),
        v,
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    found = gradient_flow_probe(x, y, start, 3.0)
    end = torch.cat([found.weights["v_plus"], found.weights["v_minus"]]).numpy()
    assert np.abs(end - done.y[:, -1]).max() < 1e-9


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_limit_is_the_nearest_fit(n: int, d: int) -> None:
    x, y, start = problem(n, d)
    phi = features(x, start)
    v = torch.cat([start["v_plus"], start["v_minus"]])
    nearest = v + torch.linalg.pinv(phi, rtol=1e-12) @ (y - phi @ v)
    for found in (gradient_descent_probe(x, y, start, 1e-3, inf), gradient_flow_probe(x, y, start, inf)):
        end = torch.cat([found.weights["v_plus"], found.weights["v_minus"]])
        assert torch.allclose(end, nearest, rtol=0, atol=1e-9)


def test_small_steps_are_the_flow() -> None:
    x, y, start = problem(6, 20)
    flow = gradient_flow_probe(x, y, start, 0.05).beta
    errors = [
        float((gradient_descent_probe(x, y, start, 0.05 / k, k).beta - flow).norm()) for k in (40, 80, 160)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)


def test_batches() -> None:
    x, y, start = problem(6, 20)
    v_plus = torch.stack([start["v_plus"], 2 * start["v_plus"], 0 * start["v_plus"]])
    found = gradient_descent_probe(x, torch.stack([y, -y])[:, None], {**start, "v_plus": v_plus}, 1e-2, 5)
    assert found.beta.shape == (2, 3, 20)
    assert found.loss.shape == (2, 3)
    alone = gradient_descent_probe(x, -y, {**start, "v_plus": v_plus[1]}, 1e-2, 5)
    assert torch.allclose(found.beta[1, 1], alone.beta, rtol=0, atol=1e-12)


def test_errors_name_what_is_wrong() -> None:
    x, y, start = problem(6, 20)
    with pytest.raises(ConfigurationError, match="descent diverges at 10; it must be below"):
        gradient_descent_probe(x, y, start, 10.0, 5)
    with pytest.raises(ConfigurationError, match="lr: 0"):
        gradient_descent_probe(x, y, start, 0, 5)
    with pytest.raises(ConfigurationError, match=r"steps: 1\.5"):
        gradient_descent_probe(x, y, start, 0.1, 1.5)
    with pytest.raises(ConfigurationError, match="time: -1"):
        gradient_flow_probe(x, y, start, -1)
    with pytest.raises(ConfigurationError, match=r"w_plus is \(2, 20\); probes of a call share it"):
        gradient_flow_probe(x, y, {**start, "w_plus": torch.stack([start["w_plus"]] * 2)}, 1)
    with pytest.raises(ConfigurationError, match="not finite"):
        gradient_flow_probe(x, y * torch.nan, start, 1)
