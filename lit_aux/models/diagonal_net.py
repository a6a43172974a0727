"""Diagonal linear networks: the network, its losses and gradients by hand, and its solution."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.functional._row_space import TOLERANCE, TOLERANCE_FLOAT32
from lit_aux.functional.gradient_flow import conserved, gradient_flow_limit, grown, growth_to
from lit_aux.functional.readout_path import ReadoutPath
from lit_aux.models._designs import Design, SecondMoments
from lit_aux.models.student import Problems, StudentNet, equal_sizes, narrowed, neighbours, split_rows


class DiagonalNet(StudentNet):
    """f(x) = <beta, x> with beta = w+ v+ - w- v-: a linear network with two diagonal pathways.

    The first layer w is shared by all outputs, the readout v is each output's own. All weights start at
    ``init_scale``, so that beta starts at 0 (Lippl & Lindsey, arXiv 2310.02396; Woodworth et al. 2020).
    Parameters: ``first.plus`` and ``first.minus`` (R, D), ``readout.plus`` and ``readout.minus`` (R, O, D).

    Args:
        in_features: Number of inputs D.
        *args: As for :class:`StudentNet`.
        **kwargs: Likewise.
    """

    def __init__(self, in_features: int = 1000, *args: object, **kwargs: object) -> None:
        super().__init__(in_features, *args, **kwargs)  # type: ignore[arg-type]

    def _draw(self) -> None:
        scale = self.scales.to(self.dtype)
        for sign in ("plus", "minus"):
            first = scale[:, None].expand(self.replicas, self.in_features)
            self.first[sign] = nn.Parameter(first.clone())
            readout = scale[:, None, None].expand(self.replicas, self.outputs, self.in_features)
            self.readout[sign] = nn.Parameter(readout.clone())

    @torch.no_grad()
    def reset_readout(self, scale: float | Sequence[float] = 1.0, tasks: Iterable[str] | None = None) -> None:
        """Set readouts to the initial scale times ``scale`` (for all replicas, or for each)."""
        value = (self.scales * self.factors(scale)).to(self.readout["plus"])[:, None, None]
        for task in self.tasks if tasks is None else tasks:
            for readout in self.readout.values():
                readout[:, self.task_slice(task)] = value

    def coefficients(self, task: str | None = None) -> Tensor:
        """Return beta (R, O, D) of all outputs, or of one task's."""
        where = slice(None) if task is None else self.task_slice(task)
        plus, minus = self.readout["plus"][:, where], self.readout["minus"][:, where]
        beta: Tensor = self.first["plus"][:, None] * plus - self.first["minus"][:, None] * minus
        return beta

    def _outputs(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)

        def hidden(replica: int) -> Tensor:
            rows = x if x.ndim == 2 else x[replica]
            return torch.cat([rows * first[replica] for first in self.first.values()], dim=1)

        self._show(hidden)
        return x @ self.coefficients().transpose(1, 2)

    def objective(
        self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int = 0
    ) -> "DiagonalObjective":
        """Return the losses of some replicas as a function of what trains.

        Args:
            problems: What they have to fit.
            rows: Indices of the replicas (k,).
            names: Parameters that train: all, or those of the readout.
            chunk: Not used: products are shared wherever inputs are.
        """
        frozen = None if len(names) == 4 else self.pack(rows, ["first.plus", "first.minus"])
        return DiagonalObjective.of(self, problems, rows.tolist(), frozen)


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
        cls, net: DiagonalNet, problems: Problems, rows: Sequence[int], frozen: Tensor | None
    ) -> "DiagonalObjective":
        """Group replicas by the inputs they share."""
        like = net.first["plus"]
        outputs, total = [], torch.zeros(len(rows), dtype=torch.float64)
        for task in problems.tasks:
            groups = neighbours([problems.key(row, task) for row in rows])
            numbers = range(net.outputs)[net.task_slice(task)]
            designs: list[list[Design]] = [[] for _ in numbers]
            for group in groups:
                loaded = [problems.load(row, task) for row in rows[group]]
                x, targets = loaded[0][0], torch.stack([y for _, y in loaded])
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

    def probe(self, theta: Tensor, lr: float | None) -> "DiagonalProbes | None":
        """Return the path of linear probes from parameters (k, P); None where the first layer trains."""
        output = self._single()
        if self._frozen is None:
            return None
        readouts = theta.view(self.replicas, 2, self.count, self.width)
        return DiagonalProbes(output, self._frozen, readouts, lr)

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
        """Return the objective of some rows, counted over tasks one after another.

        A task keeps its share of all rows, as in :meth:`ReLUObjective.batch`.
        """
        tasks = list(dict.fromkeys(output.task for output in self._outputs))
        parts = dict(zip(tasks, split_rows(chosen, self._sizes()), strict=True))
        outputs = []
        for output in self._outputs:
            part = parts[output.task]
            more = output.designs[0].n / max(len(part), 1)
            designs = [design.batch(part) for design in output.designs]
            outputs.append(replace(output, designs=designs, weight=output.weight * more))
        return DiagonalObjective((self.width, self.count), outputs, self._scale, self._frozen)

    def select(self, keep: Tensor) -> "DiagonalObjective":
        """Return the objective of some of the replicas."""
        rows, outputs = keep.tolist(), []
        for output in self._outputs:
            groups, designs = narrowed(output.groups, output.designs, rows)
            outputs.append(replace(output, groups=groups, designs=designs))
        frozen = None if self._frozen is None else self._frozen[keep]
        return DiagonalObjective((self.width, self.count), outputs, self._scale[keep], frozen)


def _design(
    problems: Problems, rows: Sequence[int], task: str, output: int, x: Tensor, targets: Tensor, like: Tensor
) -> Design:
    key = (task, output, problems.key(rows[0], task), tuple(rows), like.dtype, like.device)
    if key not in problems.cache:
        inputs = (problems.key(rows[0], task), like.device)
        if len(x) >= x.shape[1] and inputs not in problems.moments:
            problems.moments[inputs] = SecondMoments.of(x, like.device)
        moments, y = problems.moments.get(inputs), targets[..., output]
        problems.cache[key] = Design.of(x, y, like.dtype, like.device, moments=moments, whole=problems.whole)
    design: Design = problems.cache[key]
    return design


def solve_limit(design: Design, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
    """Return the end weights of gradient flow, float64, and the number of iterations.

    Args:
        design: Inputs and targets of k replicas.
        weights: ``w_plus``, ``v_plus``, ``w_minus`` and ``v_minus`` (k, D).

    Raises:
        ConfigurationError: As :func:`~lit_aux.functional.gradient_flow_limit`.
    """
    if design.rest is None:
        found = gradient_flow_limit(design.matrix, design.target, weights)
        return found.weights, found.iterations.cpu().numpy()
    # moments of full rank: the least-squares coefficients are the limit if they fit
    beta, rest = design.target.double(), design.rest.double()
    size = torch.linalg.vecdot(beta, beta @ design.matrix.double()) + rest
    share = (rest.clamp(min=0) / size.clamp(min=1e-300)).sqrt()
    tolerance = TOLERANCE if design.rest.dtype == torch.float64 else TOLERANCE_FLOAT32
    if bool((share > tolerance).any()):
        raise ConfigurationError(
            f"integrator: exact has no interpolating limit: {float(share.max()):.2g} of the targets' norm is "
            f"outside of what {design.n} rows of {beta.shape[1]} inputs can give; choose gradient_flow"
        )
    weights = {name: value.double() for name, value in weights.items()}
    growth = growth_to(beta, *conserved(weights))
    return grown(weights, growth), np.zeros(len(beta), dtype=np.int64)


@dataclass
class _Group:
    """Replicas that share inputs and first layer."""

    rows: slice
    path: ReadoutPath
    error: Tensor
    """Of the start: residuals, or slopes where the design holds moments."""


class DiagonalProbes:
    """Where the linear probes of one output are after any time.

    Args:
        output: The output, with the inputs that the replicas share.
        frozen: First layers w+ and w- (k, 2D).
        readouts: Readouts of all outputs at the start (k, 2, O, D).
        lr: Learning rate of descent; None for flow.
    """

    def __init__(self, output: _Output, frozen: Tensor, readouts: Tensor, lr: float | None) -> None:
        d = readouts.shape[-1]
        self.output, self.readouts, self.lr = output.number, readouts, lr
        self.w_plus, self.w_minus = frozen[:, :d].double(), frozen[:, d:].double()
        self.v_plus, self.v_minus = readouts[:, :, output.number].double().unbind(1)
        self.beta = self.w_plus * self.v_plus - self.w_minus * self.v_minus
        self.groups: list[_Group] = []
        for rows, design in zip(output.groups, output.designs, strict=True):
            start = rows.start
            for row in range(rows.start, rows.stop):
                if row + 1 == rows.stop or not torch.equal(frozen[row], frozen[row + 1]):
                    self.groups.append(self._group(slice(start, row + 1), rows.start, design))
                    start = row + 1

    def _group(self, rows: slice, first: int, design: Design) -> _Group:
        matrix = design.matrix.double()
        target = design.target.double()[rows.start - first : rows.stop - first]
        moments = design.rest is not None
        w_plus, w_minus = self.w_plus[rows.start], self.w_minus[rows.start]
        path = ReadoutPath(matrix, w_plus, w_minus, design.n if moments else None)
        path.check_rate(self.lr)
        beta = self.beta[rows]
        error = (beta - target) @ matrix if moments else beta @ matrix.T - target
        return _Group(rows, path, error)

    def at(self, time: NDArray[np.float64]) -> Tensor:
        """Return the readouts of all outputs, (k, 2 O D), at times (k,)."""
        when = torch.from_numpy(np.ascontiguousarray(time)).to(self.v_plus.device)
        moved = torch.empty_like(self.v_plus)
        for group in self.groups:
            moved[group.rows] = group.path.moved(group.error, when[group.rows], self.lr)
        ends = [self.v_plus + self.w_plus * moved, self.v_minus - self.w_minus * moved]
        found = self.readouts.clone()
        found[:, :, self.output] = torch.stack(ends, dim=1).to(found.dtype)
        return found.flatten(1)
