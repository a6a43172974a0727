"""The limit of gradient flow, against integration, descent, convex programs and what the flow conserves."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import null_space
from scipy.optimize import minimize
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional import conserved, gradient_flow_limit

NAMES = ("w_plus", "v_plus", "w_minus", "v_minus")


def problem(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    beta = torch.zeros(d, dtype=torch.float64)
    beta[: max(1, d // 4)] = 1.0
    return x, x @ beta


def any_start(d: int, scale: float = 0.5, seed: int = 1) -> dict[str, Tensor]:
    """Neither balanced nor alike."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(d, dtype=torch.float64, generator=generator) for name in NAMES}


def even_start(d: int, scale: float) -> dict[str, Tensor]:
    return {name: torch.full((d,), scale, dtype=torch.float64) for name in NAMES}


def pretrained_start(d: int, gamma: float = 1e-3) -> dict[str, Tensor]:
    start = even_start(d, gamma)
    start["w_plus"][: d // 5] = 0.4
    start["w_minus"][d // 5 : d // 3] = 0.3
    return start


STARTS = {
    "random": any_start,
    "small": lambda d: even_start(d, 1e-3),
    "tiny": lambda d: even_start(d, 1e-8),
    "large": lambda d: even_start(d, 3.0),
    "pretrained": pretrained_start,
    "pretrained, tiny readout": lambda d: pretrained_start(d, 1e-6),
}


def beta_of(weights: dict[str, Tensor]) -> Tensor:
    return weights["w_plus"] * weights["v_plus"] - weights["w_minus"] * weights["v_minus"]


def flow(x: Tensor, y: Tensor, start: dict[str, Tensor], time: float) -> np.ndarray:
    """Integrate the flow of all four vectors; the loss is half the squared norm of the residual."""
    inputs, targets = x.numpy(), y.numpy()

    def slope(_: float, theta: np.ndarray) -> np.ndarray:
        w, v, u, s = theta.reshape(4, -1)
        pull = -inputs.T @ (inputs @ (w * v - u * s) - targets)
        return np.concatenate([v * pull, w * pull, -s * pull, -u * pull])

    theta = np.concatenate([start[name].numpy() for name in NAMES])
    done = solve_ivp(slope, (0, time), theta, method="DOP853", rtol=1e-12, atol=1e-14)
    return done.y[:, -1].reshape(4, -1)


@pytest.mark.parametrize("kind", ["random", "large", "pretrained"])
def test_it_is_where_the_flow_ends(kind: str) -> None:
    x, y = problem(4, 12)
    start = STARTS[kind](12)
    found = gradient_flow_limit(x, y, start)
    end = flow(x, y, start, 20.0 if kind == "large" else 400.0)  # large weights get there sooner
    assert np.abs(end[0] * end[1] - end[2] * end[3] - found.beta.numpy()).max() < 1e-8
    for name, values in zip(NAMES, end, strict=True):
        assert np.abs(values - found.weights[name].numpy()).max() < 1e-8, name


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize(("n", "d"), [(1, 30), (16, 200), (100, 200)])
def test_residual_row_space_and_conservation(kind: str, n: int, d: int) -> None:
    x, y = problem(n, d)
    start = STARTS[kind](d)
    found = gradient_flow_limit(x, y, start)
    assert float(found.residual) <= 1e-12
    assert float((x @ found.beta - y).norm() / y.norm()) <= 1e-12
    # the penalty's derivative, from beta alone
    a, b = conserved(start)
    slope = torch.asinh(found.beta / (2 * (a * b).sqrt())) + (b / a).log() / 2
    reached = x.T @ torch.linalg.lstsq(x.T, slope[:, None]).solution[:, 0]
    assert float((slope - reached).norm() / slope.norm()) < 1e-8
    # w^2 - v^2 of each pathway, and (w+ + v+)(w- + v-), do not change
    end = found.weights
    size = max(float(value.abs().max()) for value in end.values())
    for first, readout in (("w_plus", "v_plus"), ("w_minus", "v_minus")):
        before = start[first] ** 2 - start[readout] ** 2
        assert torch.allclose(end[first] ** 2 - end[readout] ** 2, before, rtol=0, atol=1e-10 * size**2)
    before = (start["w_plus"] + start["v_plus"]) * (start["w_minus"] + start["v_minus"])
    after = (end["w_plus"] + end["v_plus"]) * (end["w_minus"] + end["v_minus"])
    assert torch.allclose(after, before, rtol=0, atol=1e-10 * size**2)
    assert torch.allclose(beta_of(end), found.beta, rtol=0, atol=1e-12 * size**2)


def test_descent_approaches_it_in_proportion_to_its_step() -> None:
    x, y = problem(6, 30)
    start = pretrained_start(30, 0.1)
    limit = gradient_flow_limit(x, y, start).beta
    errors = []
    for lr in (8e-3, 4e-3, 2e-3):
        w, v, u, s = (start[name].clone() for name in NAMES)
        for _ in range(int(60 / lr)):
            pull = lr * ((w * v - u * s) @ x.T - y) @ x
            w, v, u, s = w - v * pull, v - w * pull, u + s * pull, s + u * pull
        assert float((x @ (w * v - u * s) - y).norm()) < 1e-10
        errors.append(float((w * v - u * s - limit).norm()))
    assert errors[0] > 1e-4
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("n", "gamma"), [(4, 0.0), (9, 0.05)])
def test_a_balanced_start_gives_the_least_q_penalty(n: int, gamma: float) -> None:
    d = 20
    x, y = problem(n, d)
    aux = torch.rand(d, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.05
    start = {
        "w_plus": aux.sqrt(),
        "w_minus": aux.sqrt(),
        "v_plus": torch.full((d,), gamma, dtype=torch.float64),
        "v_minus": torch.full((d,), gamma, dtype=torch.float64),
    }
    found = gradient_flow_limit(x, y, start).beta.numpy()
    alpha = aux.numpy() + gamma**2
    basis = null_space(x.numpy())
    anywhere = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]

    def penalty(u: np.ndarray) -> tuple[float, np.ndarray]:
        z = 2 * (anywhere + basis @ u) / alpha
        value = alpha * (2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2))
        return float(value.sum()), basis.T @ (2 * np.arcsinh(z / 2))

    def curvature(u: np.ndarray) -> np.ndarray:
        z = 2 * (anywhere + basis @ u) / alpha
        return np.asarray((basis.T * (4 / (alpha * np.sqrt(4 + z**2)))) @ basis)

    best = minimize(
        penalty,
        np.zeros(basis.shape[1]),
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-11},
    )
    assert np.abs(anywhere + basis @ best.x - found).max() < 1e-8


def test_a_published_start_differs_from_the_q_penalty() -> None:
    """Pretraining leaves one pathway of an entry large: 2 sqrt(AB) is then about half of |beta_aux|."""
    a, b = conserved(pretrained_start(30))
    assert torch.allclose(2 * (a * b).sqrt()[:6], torch.full((6,), 0.08, dtype=torch.float64), rtol=1e-4)
    assert torch.allclose(2 * (a * b).sqrt()[12:], torch.full((18,), 2e-6, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["random", "small", "pretrained"])
@pytest.mark.parametrize(("n", "d"), [(20, 20), (60, 20)])
def test_as_many_rows_as_columns(kind: str, n: int, d: int) -> None:
    x, _ = problem(n, d)
    beta = torch.linspace(-1, 2, d, dtype=torch.float64)
    found = gradient_flow_limit(x, x @ beta, STARTS[kind](d))
    assert torch.allclose(found.beta, beta, rtol=0, atol=1e-11)
    assert torch.allclose(beta_of(found.weights), beta, rtol=0, atol=1e-11)
    assert float(found.residual) < 1e-12


@pytest.mark.parametrize(("n", "d"), [(12, 30), (60, 30)])
def test_dependent_rows(n: int, d: int) -> None:
    """Rows that say the same again change nothing."""
    x, y = problem(6, d)
    mix = torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    start = any_start(d)
    alone = gradient_flow_limit(x, y, start)
    again = gradient_flow_limit(mix @ x, mix @ y, start)
    assert torch.allclose(again.beta, alone.beta, rtol=0, atol=1e-10)
    assert float(again.residual) < 1e-12


def test_batches_share_inputs() -> None:
    x, y = problem(10, 40)
    starts = [any_start(40, seed=i) for i in range(3)]
    targets = torch.stack([y, -y])
    batch = {name: torch.stack([start[name] for start in starts])[:, None] for name in NAMES}
    found = gradient_flow_limit(x, targets, batch)
    assert found.beta.shape == (3, 2, 40)
    assert found.weights["v_minus"].shape == (3, 2, 40)
    assert found.residual.shape == found.iterations.shape == (3, 2)
    for i, start in enumerate(starts):
        for j in range(2):
            alone = gradient_flow_limit(x, targets[j], start)
            assert torch.allclose(found.beta[i, j], alone.beta, rtol=0, atol=1e-12)


def test_sizes_do_not_matter() -> None:
    """Targets and weights of 1e-100 or 1e+100 are solved as those of 1."""
    x, y = problem(8, 30)
    start = any_start(30)
    one = gradient_flow_limit(x, y, start).beta
    for size in (1e-50, 1e50):
        scaled = {name: value * size for name, value in start.items()}
        found = gradient_flow_limit(x, y * size**2, scaled).beta / size**2
        assert torch.allclose(found, one, rtol=0, atol=1e-11)


def test_targets_of_zero() -> None:
    x, y = problem(5, 20)
    found = gradient_flow_limit(x, 0 * y, any_start(20))
    assert float((x @ found.beta).abs().max()) < 1e-12
    nothing = gradient_flow_limit(x, 0 * y, even_start(20, 0.1))
    assert float(nothing.beta.abs().max()) == 0


def test_what_starts_at_zero_stays_there() -> None:
    x, _ = problem(5, 20)
    start = any_start(20)
    for name in NAMES:
        start[name][15:] = 0
    beta = torch.cat([torch.ones(15), torch.zeros(5)]).double()
    found = gradient_flow_limit(x, x @ beta, start)
    assert float(found.beta[15:].abs().max()) == 0
    tall, _ = problem(40, 20)
    assert torch.allclose(gradient_flow_limit(tall, tall @ beta, start).beta, beta, atol=1e-11)
    with pytest.raises(ConfigurationError, match=r"entry 15 of start 0 cannot become 1\b"):
        gradient_flow_limit(tall, tall.sum(1), start)


def test_one_sided_pathways() -> None:
    """Without the minus pathway, and with w = v, beta cannot become negative."""
    x, _ = problem(30, 10)
    start = {name: torch.zeros(10, dtype=torch.float64) for name in NAMES}
    start["w_plus"] += 0.3
    start["v_plus"] += 0.3
    beta = torch.linspace(0.1, 2, 10, dtype=torch.float64)
    assert torch.allclose(gradient_flow_limit(x, x @ beta, start).beta, beta, atol=1e-12)
    with pytest.raises(ConfigurationError, match="keep their sign"):
        gradient_flow_limit(x, -x @ beta, start)
    wide = torch.ones(1, 10, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="may not reach them"):
        gradient_flow_limit(wide, torch.tensor([-1.0]), start)


def test_float32_is_solved_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (8, 40):
        x = torch.randn(n, 20, generator=generator)
        y = x @ torch.ones(20)
        start = {name: value.float() for name, value in any_start(20).items()}
        found = gradient_flow_limit(x, y, start)
        assert found.beta.dtype == torch.float64
        assert float((x.double() @ found.beta - y).norm() / y.norm()) < 1e-6


def test_errors_name_what_is_wrong() -> None:
    x, y = problem(5, 20)
    start = any_start(20)
    with pytest.raises(ConfigurationError, match=r"give inputs \(n, D\)"):
        gradient_flow_limit(x[0], y, start)
    with pytest.raises(ConfigurationError, match=r"give targets \(\.\.\., 5\)"):
        gradient_flow_limit(x, y[:4], start)
    with pytest.raises(ConfigurationError, match="w_plus, v_plus, w_minus, v_minus"):
        gradient_flow_limit(x, y, {"w": start["w_plus"]})
    with pytest.raises(ConfigurationError, match=r"v_plus is \(19,\)"):
        gradient_flow_limit(x, y, {**start, "v_plus": start["v_plus"][:19]})
    three = {name: value.expand(3, 20) for name, value in start.items()}
    with pytest.raises(ConfigurationError, match=r"leading dimensions \(2,\), \(3,\).* do not go together"):
        gradient_flow_limit(x, torch.stack([y, y]), three)
    with pytest.raises(ConfigurationError, match="y: it holds values that are not finite"):
        gradient_flow_limit(x, y * torch.inf, start)
    with pytest.raises(ConfigurationError, match="w_minus: it holds"):
        gradient_flow_limit(x, y, {**start, "w_minus": start["w_minus"] * torch.nan})
    tall, _ = problem(40, 20)
    noise = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ConfigurationError, match="no coefficients fit targets 1"):
        gradient_flow_limit(tall, torch.stack([tall.sum(1), noise]), start)
    doubled = torch.cat([x, x])
    with pytest.raises(ConfigurationError, match="no coefficients fit targets 0"):
        gradient_flow_limit(doubled, torch.cat([y, y + 1]), start)
    with pytest.raises(ConfigurationError, match="weights:"):
        gradient_flow_limit(x, y, even_start(20, 1e-170))
