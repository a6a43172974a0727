"""Small regression problems for the integrators, plain loops and exact solutions to hold them against."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_aux.integrators import Objective, Step
from lit_aux.models.diagonal_net import DiagonalNet
from lit_aux.models.relu_net import ReLUNet
from lit_aux.models.student import Problems, StudentNet

Data = tuple[Tensor, Tensor]
Floats = NDArray[np.float64]

torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports torch's compiler: not in the time of a test


def draw(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Data:
    """Inputs (n, d), and targets (n, 1) of a teacher that uses four of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = x[:, :4] @ torch.tensor([0.5, -0.6, 0.5, 0.4], dtype=torch.float64)
    return x.to(dtype), y[:, None].to(dtype)


def objective_of(net: StudentNet, data: Sequence[Data], names: Sequence[str] | None = None) -> Any:
    """The losses of all replicas; those with the same inputs object share it."""
    problems = Problems(["main"], key=lambda row, task: id(data[row][0]), load=lambda row, task: data[row])
    return net.objective(problems, torch.arange(net.replicas), names or list(net.weights()), 1)


def packed(net: StudentNet) -> Tensor:
    return net.pack(torch.arange(net.replicas), list(net.weights()))


def diagonal(seeds: Sequence[int], d: int, scale: float = 0.1) -> DiagonalNet:
    """Diagonal networks off their symmetric start, each replica by its seed."""
    net = DiagonalNet(d, replicas=len(seeds), init_scale=scale)
    with torch.no_grad():
        for parameter in net.parameters():
            for row, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(seed)
                parameter[row] *= 1 + torch.rand(parameter.shape[1:], generator=generator)
    return net


def relu(seeds: Sequence[int], d: int, hidden: int, scale: float = 1.0) -> ReLUNet:
    return ReLUNet(d, replicas=len(seeds), hidden=hidden, init_scale=scale, seeds=seeds)


def forward(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Outputs (n, 1) of one network, from the formulae of the paper."""
    if len(parameters) == 2:
        first, readout = parameters
        return (x @ first.T).clamp(min=0) @ readout.T
    w_plus, w_minus, v_plus, v_minus = parameters
    return x @ (w_plus * v_plus - w_minus * v_minus).T


def torch_loop(
    net: StudentNet,
    row: int,
    data: Data,
    build: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    batches: Sequence[Tensor | slice],
) -> Tensor:
    """One replica trained by autograd and an optimizer of torch, a step a batch; its parameters (P,)."""
    parameters = [nn.Parameter(p.detach()[row].clone()) for p in net.weights().values()]
    optimizer = build(parameters)
    for rows in batches:
        x, y = data[0][rows], data[1][rows]
        optimizer.zero_grad()
        ((forward(parameters, x) - y) ** 2).sum(1).mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in parameters])


def exact_limit(first: Floats, readout: Floats, x: Floats, y: Floats) -> Floats:
    """beta (D,) at the end of gradient flow of a diagonal network with one output, by Newton on the dual.

    ``first`` and ``readout`` are (2, D): plus and minus. The flow keeps beta = A e^{2z} - B e^{-2z} with
    z = X' nu; the limit minimises sum_d (A e^{2z} + B e^{-2z})/2 - y.nu. X must have full row rank.
    """
    a = ((first[0] + readout[0]) ** 2 + (first[1] - readout[1]) ** 2) / 4
    b = ((first[0] - readout[0]) ** 2 + (first[1] + readout[1]) ** 2) / 4

    def dual(nu: Floats) -> float:
        z = x.T @ nu
        return float((a * np.exp(2 * z) + b * np.exp(-2 * z)).sum() / 2 - y @ nu)

    nu = np.zeros(len(y))
    for _ in range(100):
        z = x.T @ nu
        up, down = a * np.exp(2 * z), b * np.exp(-2 * z)
        residual = x @ (up - down) - y
        if np.abs(residual).max() < 1e-12:
            break
        step = -np.linalg.solve((x * (2 * (up + down))) @ x.T, residual)
        size = min(1.0, 2 / np.abs(x.T @ step).max())
        while dual(nu + size * step) > dual(nu) + 1e-4 * size * (residual @ step) + 1e-13:
            size /= 2
        nu = nu + size * step
    assert np.abs(residual).max() < 1e-10
    return up - down


class Recorder:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.stretches: list[Step] = []
        self.restarted: list[int] = []

    def observe(self, step: Step) -> None:
        self.stretches.append(step)

    def restart(self, replicas: NDArray[np.int64]) -> None:
        self.restarted += replicas.tolist()


class Counting:
    """An objective that counts how often it is asked."""

    def __init__(self, inner: Objective, calls: list[int] | None = None) -> None:
        self.inner, self.replicas = inner, inner.replicas
        self.calls = [] if calls is None else calls

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        self.calls.append(len(theta))
        return self.inner.value_and_gradient(theta, out)

    def select(self, keep: Tensor) -> "Counting":
        return Counting(self.inner.select(keep), self.calls)


def finish(integrator: Any, state: Any) -> Any:
    while not state.finished:
        integrator.advance(state, 1000)
    return state
