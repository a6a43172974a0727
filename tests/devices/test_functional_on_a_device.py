"""Every function of `lit_aux.functional` on a device: numbers beside tensors, answers where tensors are."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from fake_device import fake_device, same_on_both, there
from torch import Tensor, nn

import lit_aux.functional as functional
from lit_aux.errors import ConfigurationError
from lit_aux.functional import (
    adaptive_sharpness,
    feature_dependence,
    fisher_trace,
    gradient_coherence,
    l_order,
    q_penalty,
    reestimate_batchnorm,
    relu_finetuning_penalty,
    relu_input_norm,
)
from lit_aux.functional.ridge import best_ridge, ridge_path
from lit_aux.functional.tangent import (
    diagonal_features,
    diagonal_tangent_kernel,
    relu_features,
    relu_tangent_kernel,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def start(d: int = 6, *rows: int) -> dict[str, Tensor]:
    names = ("w_plus", "v_plus", "w_minus", "v_minus")
    return {name: 0.5 + draw(*rows, d, seed=i).abs() for i, name in enumerate(names)}


def sharpness_of(x: Tensor, y: Tensor) -> float:
    torch.manual_seed(0)
    net = nn.Linear(4, 1).to(x.device)
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        return nn.functional.mse_loss(net(x), y)

    return adaptive_sharpness(
        loss, list(net.parameters()), 0.01, iterations=4, start="random", generator=generator
    )


def fisher_of(x: Tensor, weight: Tensor, chunk: int | None = None) -> float:
    generator = torch.Generator().manual_seed(0)
    return fisher_trace(lambda p, x: x @ p["w"].T, {"w": weight}, x, generator=generator, chunk=chunk)


def coherence_of(*gradients: Tensor) -> Any:
    found = gradient_coherence(iter([[g] for g in gradients]), batch_size=2, total=20, like=[gradients[0]])
    return found.trace, found.squared_norm


def statistics_of(x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).to(x.device)

    def forward(batch: Tensor) -> int:
        net(batch)
        return len(batch)

    assert reestimate_batchnorm(net, x.split([6, 1, 5]), forward) == 12
    return dict(net.state_dict())


def flow_of(x: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Any:
    found = functional.gradient_flow_limit(x, y, weights)
    return vars(found)


def probes_of(x: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Any:
    shared = {**weights, "w_plus": weights["w_plus"][0], "w_minus": weights["w_minus"][0]}
    return [
        vars(functional.gradient_flow_probe(x, y, shared, 3.0)),
        vars(functional.gradient_descent_probe(x, y, shared, 0.01, 5)),
        vars(functional.gradient_flow_probe(x, y, shared, float("inf"))),
    ]


ROWS = (draw(9, 4), draw(9, 4, seed=1))
WIDE = (draw(5, 8), draw(5, 8, seed=1))
UNITS, TEACHER = draw(12, 3), draw(2, 3, seed=1)
LAYERS = (draw(7, 4), draw(2, 7, seed=1))
GRADIENTS = [[draw(3, 2, seed=i), draw(4, seed=9 + i)] for i in range(3)]
RELU = (draw(6), draw(6, seed=1).abs())
PARTS = ("pr_x", "pr_y", "ensd")

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "participation_ratio": (functional.participation_ratio, ROWS[:1]),
    "participation_ratio wide, half": (functional.participation_ratio, (WIDE[0].half(),)),
    "participation_ratio unbiased": (
        lambda x: functional.participation_ratio(x, unbiased=True),
        ROWS[:1],
    ),
    "effective_shared_dimensions": (functional.effective_shared_dimensions, ROWS),
    "effective_shared_dimensions wide": (functional.effective_shared_dimensions, WIDE),
    "shared_dimensionality": (
        lambda x, y: [
            tuple(functional.shared_dimensionality(x, y, pairing=pairing, center=center, unbiased=unbiased))
            for pairing, center, unbiased in product(("feature", "sample"), (True, False), (True, False))
        ],
        ROWS,
    ),
    "feature_alignment": (lambda w, t: functional.feature_alignment(w, t, [2, 3]), (UNITS, TEACHER)),
    "kmeans_inertia": (
        lambda w, a: functional.kmeans_inertia(w, [1, 2], unit_weights=a),
        (UNITS, UNITS.norm(dim=1)),
    ),
    "l1_norm": (functional.l1_norm, ROWS[:1]),
    "l2_norm": (functional.l2_norm, ROWS[:1]),
    "l12_norm": (functional.l12_norm, ROWS[:1]),
    "f1_norm": (functional.f1_norm, LAYERS),
    "f12_norm": (functional.f12_norm, LAYERS),
    "unit_contributions": (functional.unit_contributions, LAYERS),
    "unit_products": (functional.unit_products, LAYERS),
    "top_share": (lambda x: functional.top_share(x, 2), ROWS[:1]),
    "entry_share": (lambda x: functional.entry_share(x, [0, 2]), ROWS[:1]),
    "entry_share mask": (lambda x: functional.entry_share(x, x > 0), ROWS[:1]),
    "entry_share list of booleans": (lambda x: functional.entry_share(x, [True, False] * 2), ROWS[:1]),
    "group_penalty": (functional.group_penalty, ROWS[:1]),
    "mtl_marginal_penalty": (functional.mtl_marginal_penalty, ROWS),
    "regime": (functional.regime, (-draw(9).abs(),)),
    "conserved": (functional.conserved, (start(),)),
    "gradient_flow_limit": (flow_of, (draw(4, 6), draw(3, 4), start(6, 3))),
    "gradient_flow_limit of full rank": (flow_of, (draw(6, 6), draw(3, 6), start(6, 3))),
    "gradient_descent_probe": (probes_of, (draw(4, 6), draw(3, 4), start(6, 3))),
    "gradient_flow_probe": (probes_of, (draw(9, 6), draw(3, 9), start(6, 3))),
    "minimal_group_norm": (
        lambda x, y: functional.minimal_group_norm([x, x], [y, 2 * y]),
        (draw(3, 5), draw(3)),
    ),
    "ridge_path": (ridge_path, (draw(5, 3), draw(5, 2), draw(4, 3))),
    "best_ridge": (
        lambda x, y, t, u: vars(best_ridge(x @ x.T, y, t @ x.T, u, kernel=True)),
        (draw(5, 3), draw(5, 2), draw(4, 3), draw(4, 2)),
    ),
    "relu_features": (relu_features, (LAYERS[0], ROWS[0])),
    "relu_tangent_kernel": (relu_tangent_kernel, (LAYERS[0], LAYERS[1][0], *ROWS)),
    "diagonal_features": (diagonal_features, (start(4), ROWS[0])),
    "diagonal_tangent_kernel": (diagonal_tangent_kernel, (start(4), *ROWS)),
    "reestimate_batchnorm": (statistics_of, (draw(12, 4, dtype=torch.float32),)),
}
NUMBERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "gradient_cosine": (functional.gradient_cosine, (GRADIENTS[0], GRADIENTS[1])),
    "pairwise_cosines": (functional.pairwise_cosines, (GRADIENTS,)),
    "gradient_conflict": (functional.gradient_conflict, (GRADIENTS, GRADIENTS[2])),
    "adaptive_sharpness": (sharpness_of, (draw(8, 4).float(), draw(8, 1).float())),
    "fisher_trace": (fisher_of, (draw(8, 4), draw(3, 4))),
    "fisher_trace one by one": (lambda x, w: fisher_of(x, w, 1), (draw(8, 4), draw(3, 4))),
    "draw_labels": (
        lambda x: functional.draw_labels(x, torch.Generator().manual_seed(1)),
        (draw(9, 3),),
    ),
    "gradient_coherence": (coherence_of, (draw(5), draw(5, seed=1), draw(5, seed=2))),
}
"""What may end on the CPU: numbers that Python reads next."""
ELSEWHERE = {
    "NESTED",
    "REGIMES",
    "FlowLimit",
    "GradientMoments",
    "ProbeSolution",
    "SharedDimensionality",
    "moments_from_norms",
    "nested_ratios",
}
"""Names that take no tensor."""
PAIR, UNIT = ("beta", "beta_aux"), ("beta", "beta_aux", "correlation", "readout")
PENALTIES: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "q_penalty": (q_penalty, (*PAIR, "gamma")),
    "relu_finetuning_penalty": (relu_finetuning_penalty, UNIT),
    "relu_input_norm": (relu_input_norm, UNIT),
    "mtl_marginal_penalty": (functional.mtl_marginal_penalty, PAIR),
}


for _order in (l_order, feature_dependence):
    for _penalty, _options in (("q", (*PAIR, "gamma")), ("mtl", PAIR), ("relu", UNIT)):
        PENALTIES[f"{_order.__name__} of {_penalty}"] = (partial(_order, _penalty), _options)
TENSORS = {
    "beta": draw(6),
    "beta_aux": draw(6, seed=1).abs(),
    "gamma": draw(6).abs(),
    "correlation": draw(6).tanh(),
    "readout": draw(6),
}


def test_every_function_is_here() -> None:
    tested = {name.split()[0] for name in (*CASES, *NUMBERS, *PENALTIES)}
    assert {*functional.__all__} - tested <= ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_the_cpu_and_stay(name: str) -> None:
    compute, inputs = CASES[name]
    same_on_both(compute, *inputs)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_cpu(name: str) -> None:
    compute, inputs = NUMBERS[name]
    same_on_both(compute, *inputs, stays=False)


@pytest.mark.parametrize("name", PENALTIES)
def test_numbers_go_beside_tensors(name: str) -> None:
    """One tensor on the device; the others are left out, numbers, or tensors of one number on the CPU."""
    compute, options = PENALTIES[name]
    for option in options:
        for number in (None, 0.25, torch.tensor(0.25)):
            rest = {other: 0.5 if number is None else number for other in options if other != option}
            if number is None:
                rest = {other: value for other, value in rest.items() if other in PAIR}
            same_on_both(
                lambda given, name=option, rest=rest: compute(**{name: given}, **rest), TENSORS[option]
            )
    same_on_both(lambda given: compute(**given), {option: TENSORS[option] for option in options})


@pytest.mark.parametrize("name", PENALTIES)
def test_derivatives_are_those_of_the_cpu(name: str) -> None:
    compute, _ = PENALTIES[name]

    def slopes(beta: Tensor, beta_aux: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(compute(beta=beta, beta_aux=beta_aux).sum(), (beta, beta_aux))

    same_on_both(slopes, *(TENSORS[option].clone().requires_grad_() for option in ("beta", "beta_aux")))


def test_tensors_on_two_devices_are_named() -> None:
    with fake_device(), pytest.raises(ConfigurationError, match="beta fakegpu:0, gamma cpu; give all on one"):
        q_penalty(there(TENSORS["beta"]), 0.5, gamma=TENSORS["gamma"])
