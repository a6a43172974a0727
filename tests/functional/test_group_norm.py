"""The least group norm, against linear programming, its optimality conditions and smooth minimisation."""

import subprocess
import sys

import cvxpy
import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.optimize import linprog, minimize
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional import group_norm, l12_norm, minimal_group_norm

Tasks = tuple[list[Tensor], list[Tensor]]


def tasks(sizes: list[int], d: int, seed: int = 0) -> Tasks:
    """Random targets, which no sparse coefficients give; those of tasks with d rows or more can be given."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(n, d, dtype=torch.float64, generator=generator) for n in sizes]
    beta = torch.randn(len(sizes), d, dtype=torch.float64, generator=generator)
    return inputs, [x @ b for x, b in zip(inputs, beta, strict=True)]


def misfit(problem: Tasks, beta: Tensor) -> float:
    return max(float((x @ b - y).norm() / y.norm()) for x, y, b in zip(*problem, beta, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_one_task_is_basis_pursuit(seed: int) -> None:
    """In the form beta = p - q with p, q >= 0 the least l1 norm is a linear program."""
    (x,), (y,) = problem = tasks([12], 40, seed)
    wanted = linprog(np.ones(80), A_eq=np.hstack([x, -x]), b_eq=y.numpy(), method="highs").x
    beta = minimal_group_norm(*problem)
    assert beta.shape == (1, 40)
    assert np.abs(beta[0].numpy() - (wanted[:40] - wanted[40:])).max() < 1e-9
    assert int((beta != 0).sum()) == 12


@pytest.mark.parametrize("sizes", [[20], [10, 14], [6, 18], [5, 10, 15], [12, 40], [8, 9, 33]], ids=str)
def test_it_meets_the_optimality_conditions(sizes: list[int]) -> None:
    """B_d / ||B_d|| = (x' nu)_d where feature d is used; ||(x' nu)_d|| <= 1 elsewhere.

    For tasks with as many rows as features, nothing is to be met but their targets.
    """
    d = 30
    problem = tasks(sizes, d, seed=1)
    beta = minimal_group_norm(*problem)
    assert misfit(problem, beta) < 1e-12
    used = (beta.norm(dim=0) > 0).numpy()
    assert used.sum() >= max(min(n, d) for n in sizes)
    pull = np.zeros((0, d))
    for x, own in zip(problem[0], beta, strict=True):
        if len(x) < d:
            wanted = (own / beta.norm(dim=0))[used].numpy()
            nu = np.linalg.lstsq(x.numpy()[:, used].T, wanted, rcond=None)[0]
            assert np.abs(x.numpy()[:, used].T @ nu - wanted).max() < 1e-10
            pull = np.vstack([pull, x.numpy().T @ nu])
    assert np.linalg.norm(pull, axis=0).max() <= 1 + 1e-10


@pytest.mark.parametrize("sizes", [[3, 4], [2, 5], [3, 9], [2, 3, 2]], ids=str)
def test_it_is_the_minimum_of_the_smoothed_norm(sizes: list[int]) -> None:
    """Minimise sum_d sqrt(||B_d||^2 + eps^2) along the null spaces, for smaller and smaller eps."""
    d = 7
    problem = tasks(sizes, d, seed=2)
    given = [np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0] for x, y in zip(*problem, strict=True)]
    spaces = [null_space(x.numpy()) for x in problem[0]]
    ends = np.cumsum([space.shape[1] for space in spaces])[:-1]

    def coefficients(steps: np.ndarray) -> np.ndarray:
        return np.stack([g + s @ p for g, s, p in zip(given, spaces, np.split(steps, ends), strict=True)])

    def smoothed(steps: np.ndarray, eps: float) -> tuple[float, np.ndarray]:
        beta = coefficients(steps)
        norms = np.sqrt((beta**2).sum(0) + eps**2)
        slopes = [s.T @ slope for s, slope in zip(spaces, beta / norms, strict=True)]
        return norms.sum(), np.concatenate(slopes)

    steps = np.zeros(sum(space.shape[1] for space in spaces))
    for eps in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        options = {"gtol": 1e-9, "maxiter": 5000}
        steps = minimize(smoothed, steps, args=(eps,), jac=True, method="BFGS", options=options).x
    beta = minimal_group_norm(*problem)
    assert np.abs(beta.numpy() - coefficients(steps)).max() < 1e-4
    assert float(l12_norm(beta)) <= np.linalg.norm(coefficients(steps), axis=0).sum() + 1e-12


@pytest.mark.parametrize("sizes", [[8, 10], [8, 25]], ids=str)
def test_it_is_what_the_least_weight_norm_gives(sizes: list[int]) -> None:
    """Train the weights of a diagonal network with less and less decay, in place of its coefficients."""
    d = 20
    inputs, targets = problem = tasks(sizes, d, seed=9)
    weights = 0.5 * torch.randn(6 * d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def coefficients(theta: Tensor) -> Tensor:
        w, u, *readouts = theta.view(6, d)
        return torch.stack([w * readouts[0] - u * readouts[1], w * readouts[2] - u * readouts[3]])

    def loss(flat: np.ndarray, decay: float) -> tuple[float, np.ndarray]:
        theta = torch.tensor(flat, requires_grad=True)
        misses = zip(inputs, targets, coefficients(theta), strict=True)
        total = sum((x @ b - y).square().sum() for x, y, b in misses) / 2 + decay * theta.square().sum() / 2
        total.backward()
        return float(total.detach()), theta.grad.numpy()

    flat = weights.numpy()
    for decay in (1.0, 1e-1, 1e-2, 1e-3, 1e-4):
        options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-10}
        flat = minimize(loss, flat, args=(decay,), jac=True, method="L-BFGS-B", options=options).x
    beta = minimal_group_norm(*problem)
    assert (flat**2).sum() / 2 == pytest.approx(float(l12_norm(beta)), rel=1e-4)
    assert float((coefficients(torch.from_numpy(flat)) - beta).norm() / beta.norm()) < 1e-3


def shared_teacher(n_main: int, n_aux: int, d: int = 80, k: int = 8) -> tuple[Tasks, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.zeros(2, d, dtype=torch.float64)
    teacher[:, :k] = torch.randn(2, k, generator=generator, dtype=torch.float64).sign() / k**0.5
    inputs = [torch.randn(n, d, dtype=torch.float64, generator=generator) for n in (n_main, n_aux)]
    return (inputs, [x @ b for x, b in zip(inputs, teacher, strict=True)]), teacher


@pytest.mark.parametrize("n_aux", [60, 100])
def test_shared_features_are_found_in_fewer_rows(n_aux: int) -> None:
    problem, teacher = shared_teacher(26, n_aux)
    beta = minimal_group_norm(*problem)
    assert float((beta - teacher).abs().max()) < 1e-12
    assert bool((beta[:, 8:] == 0).all()) == (n_aux < 80)
    alone = minimal_group_norm(problem[0][:1], problem[1][:1])
    assert float((alone[0] - teacher[0]).norm()) > 0.5
    assert float(alone.norm(p=1)) < float(teacher[0].norm(p=1))


@pytest.mark.parametrize("sizes", [[9, 30], [9, 12, 24, 31]], ids=str)
def test_tasks_with_nothing_to_choose(sizes: list[int]) -> None:
    """Putting in the coefficients of tasks of full rank is the same as asking for everything at once."""
    problem = tasks(sizes, 24, seed=3)
    whole = cvxpy.Variable((len(sizes), 24))
    fits = [x.numpy() @ whole[t] == y.numpy() for t, (x, y) in enumerate(zip(*problem, strict=True))]
    cvxpy.Problem(cvxpy.Minimize(cvxpy.mixed_norm(whole.T, 2, 1)), fits).solve(solver=cvxpy.CLARABEL)
    beta = minimal_group_norm(*problem)
    assert np.abs(beta.numpy() - whole.value).max() < 1e-3
    assert float(l12_norm(beta)) == pytest.approx(np.linalg.norm(whole.value, axis=0).sum(), rel=1e-8)
    assert misfit(problem, beta) < 1e-12
    for t, n in enumerate(sizes):
        if n >= 24:
            wanted = torch.linalg.lstsq(problem[0][t], problem[1][t][:, None]).solution[:, 0]
            assert torch.allclose(beta[t], wanted, rtol=0, atol=1e-12)


def test_dependent_rows_change_nothing() -> None:
    inputs, targets = tasks([8, 11], 30, seed=4)
    beta = minimal_group_norm(inputs, targets)
    mix = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for more in (torch.cat([torch.eye(8), torch.eye(8)]).double(), mix, torch.cat([mix, mix])):
        again = minimal_group_norm([more @ inputs[0], inputs[1]], [more @ targets[0], targets[1]])
        assert torch.allclose(again, beta, rtol=0, atol=1e-11)


def test_sizes_do_not_matter() -> None:
    inputs, targets = tasks([8, 11, 30], 30, seed=5)
    beta = minimal_group_norm(inputs, targets)
    for size in (1e-100, 1e-6, 1e6, 1e100):
        some = minimal_group_norm(inputs, [size * y for y in targets])
        assert torch.allclose(some / size, beta, rtol=0, atol=1e-11)
        some = minimal_group_norm([size**0.5 * x for x in inputs], targets)
        assert torch.allclose(some * size**0.5, beta, rtol=0, atol=1e-11)


def test_several_equally_good_coefficients() -> None:
    """A feature that is there twice can be divided between its copies; the norm stays the same."""
    (x, z), targets = tasks([8, 11], 20, seed=6)
    wanted = float(l12_norm(minimal_group_norm([x, z], targets)))
    doubled = [torch.cat([own, own], dim=1) for own in (x, z)]
    beta = minimal_group_norm(doubled, targets)
    assert float(l12_norm(beta)) == pytest.approx(wanted, rel=1e-7)
    assert misfit((doubled, targets), beta) < 1e-8


def test_targets_of_zero_and_least_squares() -> None:
    inputs, targets = tasks([8, 11, 20], 20, seed=7)
    beta = minimal_group_norm(inputs, [0 * targets[0], targets[1], targets[2]])
    assert float(beta[0].abs().max()) == 0
    assert torch.allclose(beta[1:], minimal_group_norm(inputs[1:], targets[1:]), rtol=0, atol=1e-12)
    assert float(minimal_group_norm(inputs[:2], [0 * y for y in targets[:2]]).abs().max()) == 0
    only = minimal_group_norm(inputs[2:], targets[2:])
    assert torch.allclose(inputs[2] @ only[0], targets[2], rtol=0, atol=1e-11)


def test_float32_is_solved_in_float64() -> None:
    inputs, targets = tasks([8, 40], 30, seed=8)
    beta = minimal_group_norm([x.float() for x in inputs], [y.float() for y in targets])
    assert beta.dtype == torch.float64
    assert torch.allclose(beta, minimal_group_norm(inputs, targets), rtol=0, atol=1e-4)


def test_errors_name_what_is_wrong() -> None:
    inputs, targets = tasks([5, 30], 20)
    with pytest.raises(ConfigurationError, match="of 2 tasks, inputs of 1"):
        minimal_group_norm(inputs[:1], targets)
    with pytest.raises(ConfigurationError, match="of 0 tasks"):
        minimal_group_norm([], [])
    with pytest.raises(ConfigurationError, match=r"inputs\[0\]: its shape is \(20,\); give inputs \(n, D\)"):
        minimal_group_norm([inputs[0][0], inputs[1]], targets)
    with pytest.raises(ConfigurationError, match=r"inputs\[1\]: .* \(30, 19\); give inputs \(n, 20\)"):
        minimal_group_norm([inputs[0], inputs[1][:, 1:]], targets)
    with pytest.raises(ConfigurationError, match=r"targets\[0\]: .* \(5, 1\); give targets \(5,\)"):
        minimal_group_norm(inputs, [targets[0][:, None], targets[1]])
    with pytest.raises(ConfigurationError, match=r"targets\[1\]: it holds values that are not finite"):
        minimal_group_norm(inputs, [targets[0], targets[1] * torch.nan])
    with pytest.raises(ConfigurationError, match=r"targets\[1\]: no coefficients .* 30 inputs of rank 20"):
        minimal_group_norm(inputs, [targets[0], targets[1] + torch.arange(30)])
    with pytest.raises(ConfigurationError, match=r"targets\[0\]: no coefficients .* 10 inputs of rank 5"):
        minimal_group_norm([inputs[0].repeat(2, 1), inputs[1]], [torch.arange(10.0), targets[1]])


def test_a_solver_that_gets_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tasks([5, 9], 20)
    solve = group_norm.solve_cone_program

    def poor(program: group_norm.GroupProgram) -> object:
        found, _ = solve(program)
        found.beta.fill_(1.0)
        return found, "optimal_inaccurate"

    with monkeypatch.context() as patch:
        patch.setattr(group_norm, "solve_cone_program", poor)
        with pytest.raises(ConfigurationError, match=r"ended as optimal_inaccurate, .* from the optimum"):
            minimal_group_norm(*problem)
    with monkeypatch.context() as patch:
        patch.setattr(cvxpy.Problem, "solve", lambda self, **_: None)
        with pytest.raises(ConfigurationError, match="the solver of the cone program ended as"):
            minimal_group_norm(*problem)

    def fail(self: object, **_: object) -> None:
        raise cvxpy.error.SolverError("no luck")

    monkeypatch.setattr(cvxpy.Problem, "solve", fail)
    with pytest.raises(ConfigurationError, match="failed; no luck"):
        minimal_group_norm(*problem)


@pytest.mark.parametrize("package", ["cvxpy", "clarabel"])
def test_without_the_solver(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    inputs, targets = tasks([5, 30], 20)
    with pytest.raises(ConfigurationError, match=r'pip install "lit-aux\[theory\]"'):
        minimal_group_norm(inputs, targets)
    minimal_group_norm(inputs[1:], targets[1:])  # least squares needs none


def test_the_solver_is_imported_when_it_is_needed() -> None:
    code = "import sys, lit_aux.functional; print([n for n in ('cvxpy', 'clarabel') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
