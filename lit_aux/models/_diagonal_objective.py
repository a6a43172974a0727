"""Losses and gradients of diagonal networks, by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.models._designs import Design, Moments
from lit_aux.models._diagonal_solution import DiagonalProbes, solve_limit
from lit_aux.models._problems import Problems, equal_sizes, narrow, neighbours, split_rows

if TYPE_CHECKING:
    from lit_aux.models.diagonal_net import DiagonalNet


@dataclass
class _Output:
    """One output: which replicas share which inputs."""

    task: str
    number: int
    weight: float
    groups: list[slice]
    designs: list[Design]


class DiagonalObjective:
    """Mean squared error over all rows of all tasks, each on its own output, for many replicas.

    Parameters (k, P): w+, w-, v+ and v-, or only the readouts v where the first layer is frozen.
    """

    def __init__(self, size: tuple[int, int], outputs: list[_Output], scale: Tensor, frozen: Tensor | None):
        self.width, self.count = size  # D and O
        self._outputs, self._scale, self._frozen = outputs, scale, frozen
        self.replicas = len(scale)
        self._beta = scale.new_empty(self.replicas, self.width)
        self._slope = torch.empty_like(self._beta)

    @classmethod
    def of(
        cls, net: "DiagonalNet", problems: Problems, rows: Sequence[int], frozen: Tensor | None
    ) -> "DiagonalObjective":
        """Group replicas by the inputs they share."""
        like = net.first["plus"]
        outputs, total = [], torch.zeros(len(rows), dtype=torch.float64)
        for task in problems.tasks:
            groups = neighbours([problems.key(row, task) for row in rows])
            numbers = range(net.outputs)[net.task_slice(task)]
            designs: list[list[Design]] = [[] for _ in numbers]
            for group in groups:
                x, targets = _load(problems, rows[group], task)
                total[group] += len(x) * problems.weights.get(task, 1.0)
                for output in range(len(numbers)):
                    designs[output].append(_design(problems, rows[group], task, output, x, targets, like))
            weight = problems.weights.get(task, 1.0)
            outputs += [_Output(task, n, weight, groups, d) for n, d in zip(numbers, designs, strict=True)]
        return cls((net.in_features, net.outputs), outputs, (1 / total).to(like), frozen)

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        """Return the losses (k,) and write the gradients."""
        return self._evaluate(theta, out)

    def value(self, theta: Tensor) -> Tensor:
        """Return the losses (k,)."""
        return self._evaluate(theta, None)

    def _evaluate(self, theta: Tensor, out: Tensor | None) -> Tensor:
        k, d, o = self.replicas, self.width, self.count
        first = theta[:, : 2 * d] if self._frozen is None else self._frozen
        w_plus, w_minus = first[:, :d], first[:, d:]
        v = theta[:, 2 * d :] if self._frozen is None else theta
        v = v.view(k, 2, o, d)
        losses = torch.zeros_like(self._scale)
        if out is not None:
            out.zero_() if len(self._outputs) != o else None
            g_first = out[:, : 2 * d] if self._frozen is None else None
            g_readout = (out[:, 2 * d :] if self._frozen is None else out).view(k, 2, o, d)
        for position, output in enumerate(self._outputs):
            v_plus, v_minus = v[:, 0, output.number], v[:, 1, output.number]
            beta = torch.mul(w_plus, v_plus, out=self._beta).addcmul_(w_minus, v_minus, value=-1)
            for group, design in zip(output.groups, output.designs, strict=True):
                slope = None if out is None else self._slope[group]
                losses[group].add_(design.errors(beta[group], slope), alpha=output.weight)
            if out is None:
                continue
            slope = self._slope.mul_((2 * output.weight) * self._scale[:, None])
            torch.mul(w_plus, slope, out=g_readout[:, 0, output.number])
            torch.mul(w_minus, slope, out=g_readout[:, 1, output.number]).neg_()
            if g_first is None:
                continue
            if position == 0:
                torch.mul(v_plus, slope, out=g_first[:, :d])
                torch.mul(v_minus, slope, out=g_first[:, d:]).neg_()
            else:
                g_first[:, :d].addcmul_(v_plus, slope)
                g_first[:, d:].addcmul_(v_minus, slope, value=-1)
        return losses.mul_(self._scale)

    # Solving

    def limit(self, theta: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
        """Return where gradient flow ends from parameters (k, P), and how many iterations that took."""
        output = self._single()
        end, iterations = theta.clone(), np.zeros(self.replicas, dtype=np.int64)
        for group, design in zip(output.groups, output.designs, strict=True):
            weights, iterations[group] = solve_limit(design, self._pathways(theta[group], output.number))
            for name, place in self._pathways(end[group], output.number).items():
                place.copy_(weights[name])
        return end, iterations

    def probe(self, theta: Tensor, lr: float | None) -> "_Probes | None":
        """Return the path of linear probes from parameters (k, P); None where the first layer trains."""
        output = self._single()
        if self._frozen is None:
            return None
        designs = list(zip(output.groups, output.designs, strict=True))
        v = theta.view(self.replicas, 2, self.count, self.width)[:, :, output.number]
        found = DiagonalProbes(designs, self._frozen, v[:, 0], v[:, 1], lr)
        return _Probes(found, theta, (self.replicas, 2, self.count, self.width), output.number)

    def _single(self) -> _Output:
        """Return the only output that counts."""
        if len(self._outputs) > 1:
            names = ", ".join(output.task for output in self._outputs)
            raise ConfigurationError(
                f"integrator: exact solves one output at a time, this phase trains {len(self._outputs)} "
                f"({names}); choose gradient_flow"
            )
        return self._outputs[0]

    def _pathways(self, theta: Tensor, output: int) -> dict[str, Tensor]:
        """Return views of the weights of one output, each (k, D)."""
        d = self.width
        v = theta[:, 2 * d :].view(len(theta), 2, self.count, d)
        return {
            "w_plus": theta[:, :d],
            "v_plus": v[:, 0, output],
            "w_minus": theta[:, d : 2 * d],
            "v_minus": v[:, 1, output],
        }

    # Mini-batches, and some of the replicas

    def rows(self) -> int:
        """Return the number of training rows over all tasks; see ``equal_sizes``."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        first = {output.task: [design.n for design in output.designs] for output in self._outputs}
        return equal_sizes(list(first.values()))

    def batch(self, chosen: Tensor) -> "DiagonalObjective":
        """Return the objective of some rows, counted over tasks one after another."""
        tasks = list(dict.fromkeys(output.task for output in self._outputs))
        parts = dict(zip(tasks, split_rows(chosen, self._sizes()), strict=True))
        weights = {output.task: output.weight for output in self._outputs}
        outputs = [
            replace(output, designs=[design.batch(parts[output.task]) for design in output.designs])
            for output in self._outputs
        ]
        total = sum(weights[task] * len(part) for task, part in parts.items())
        return DiagonalObjective(
            (self.width, self.count), outputs, torch.full_like(self._scale, 1 / total), self._frozen
        )

    def select(self, keep: Tensor) -> "DiagonalObjective":
        """Return the objective of some of the replicas."""
        rows = keep.tolist()
        outputs = []
        for output in self._outputs:
            groups, designs, start = [], [], 0
            for number, inside in narrow(output.groups, rows):
                groups.append(slice(start, start + len(inside)))
                designs.append(output.designs[number].select(inside))
                start += len(inside)
            outputs.append(replace(output, groups=groups, designs=designs))
        frozen = None if self._frozen is None else self._frozen[keep]
        return DiagonalObjective((self.width, self.count), outputs, self._scale[keep], frozen)


@dataclass
class _Probes:
    """Probes of one output within the parameters of all."""

    found: DiagonalProbes
    theta: Tensor
    shape: tuple[int, int, int, int]
    output: int

    def at(self, time: NDArray[np.float64]) -> Tensor:
        """Return parameters (k, P) at times (k,)."""
        end = self.theta.clone()
        k, _, _, d = self.shape
        end.view(self.shape)[:, :, self.output] = self.found.at(time).view(k, 2, d)
        return end


def _load(problems: Problems, rows: Sequence[int], task: str) -> tuple[Tensor, Tensor]:
    """Return shared inputs (n, D) and targets (k, n, o)."""
    loaded = [problems.load(row, task) for row in rows]
    return loaded[0][0], torch.stack([y for _, y in loaded])


def _design(
    problems: Problems, rows: Sequence[int], task: str, output: int, x: Tensor, targets: Tensor, like: Tensor
) -> Design:
    key = (task, output, problems.key(rows[0], task), tuple(rows), like.dtype, like.device)
    if key not in problems.cache:
        inputs = (problems.key(rows[0], task), like.device)
        if len(x) >= x.shape[1] and inputs not in problems.moments:
            problems.moments[inputs] = Moments.of(x, like.device)
        problems.cache[key] = Design.of(
            x,
            targets[..., output],
            like.dtype,
            like.device,
            moments=problems.moments.get(inputs),
            whole=problems.whole,
        )
    design: Design = problems.cache[key]
    return design
