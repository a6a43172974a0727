"""Two-layer ReLU networks: the network, and its losses and gradients by hand."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_aux.models.relu_descent import Epoch, ReLUDescent
from lit_aux.models.relu_descent import TaskRows as TaskOfEpoch
from lit_aux.models.student import (
    Draws,
    Problems,
    SharedRows,
    StudentNet,
    TaskRows,
    batch_of,
    by_inputs,
    narrowed,
    sizes_of,
)
from lit_aux.ranges import COUNT, check

BLOCK = 256
"""Rows of inputs whose hidden activations are held at a time: few enough to stay in a core's cache."""


class ReLUNet(StudentNet):
    """f(x) = sum_h v_h relu(<w_h, x>), without biases.

    Weights are drawn from N(0, 2 / fan-in) and multiplied by ``init_scale`` (Lippl & Lindsey, arXiv
    2310.02396). Parameters: ``first.weight`` (R, H, d) and ``readout.weight`` (R, O, H).

    Args:
        in_features: Number of inputs d.
        *args: As for :class:`StudentNet`.
        hidden: Number of hidden units H.
        **kwargs: As for :class:`StudentNet`.
    """

    threads = 1  # products are so small that several threads would wait for each other most of the time

    def __init__(self, in_features: int = 15, *args: object, hidden: int = 1000, **kwargs: object) -> None:
        check("hidden", hidden, COUNT)
        self.hidden = hidden
        super().__init__(in_features, *args, **kwargs)  # type: ignore[arg-type]

    def _draw(self) -> None:
        drawn: dict[int, tuple[Tensor, Tensor]] = {}
        for seed in dict.fromkeys(self.seeds):
            generator = _generator_for(seed, "weights")
            first = torch.randn(
                self.hidden, self.in_features, generator=generator, dtype=torch.float64, device="cpu"
            )
            readout = torch.randn(
                self.outputs, self.hidden, generator=generator, dtype=torch.float64, device="cpu"
            )
            drawn[seed] = (first * (2 / self.in_features) ** 0.5, readout * (2 / self.hidden) ** 0.5)
        scale = self.scales.cpu()[:, None, None]
        first = torch.stack([drawn[seed][0] for seed in self.seeds]) * scale
        self.first["weight"] = nn.Parameter(first.to(self.dtype))
        readout = torch.stack([drawn[seed][1] for seed in self.seeds]) * scale
        self.readout["weight"] = nn.Parameter(readout.to(self.dtype))

    def as_drawn(self) -> bool:
        """Return whether the weights are those that the seeds give, untrained and not replaced."""
        options: dict[str, Any] = {"hidden": self.hidden, "init_scale": self.init_scale, "seeds": self.seeds}
        with torch.device("cpu"):  # Lightning may have another default
            own = ReLUNet(self.in_features, self.tasks, dtype=str(self.dtype)[6:], **options).weights()
        return all(torch.equal(weight.cpu(), own[name]) for name, weight in self.named_parameters())

    @torch.no_grad()
    def draw_from(self, draws: Draws, tasks: Sequence[str], *, start: bool = True) -> None:
        """Draw weights, now and in :meth:`reset_readout`, from published draws, if there are any.

        Args:
            draws: Such as a teacher data module; what has no generator for networks changes nothing.
            tasks: Those that train from this start on. Readouts of others stay as they are.
            start: Whether the start is drawn now.
        """
        if draws.network_generator(0, tasks) is None:
            return
        self.draws = draws
        if not start:
            return
        for row, scale in enumerate(self.scales.tolist()):
            first, readouts = self._published(row, tasks)[:2]
            self.first["weight"][row] = (first * scale).to(self.first["weight"])
            self._write(row, tasks, readouts * scale)

    @torch.no_grad()
    def reset_readout(self, scale: float | Sequence[float] = 1.0, tasks: Iterable[str] | None = None) -> None:
        """Draw readouts anew, N(0, 2 / H) times the initial scale times ``scale``."""
        factors = (self.scales * self.factors(scale)).tolist()
        chosen = list(self.tasks if tasks is None else tasks)
        for row, factor in enumerate(factors):
            if self.draws is None:
                parts = [self._own_readout(self.seeds[row], task) for task in chosen]
                self._write(row, chosen, torch.cat(parts) * factor)
            else:
                self._write(row, chosen, self._published(row, chosen)[2] * factor)

    def _own_readout(self, seed: int, task: str) -> Tensor:
        """Return a task's readout (o, H), drawn from the seed alone."""
        where = self.task_slice(task)
        shape = (where.stop - where.start, self.hidden)
        drawn = torch.randn(
            shape, generator=_generator_for(seed, "readout", task), dtype=torch.float64, device="cpu"
        )
        return drawn.mul_((2 / self.hidden) ** 0.5)

    def _published(self, row: int, tasks: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return first layer (H, d), readouts (o, H), ``aux`` first, and the readouts drawn after them."""
        assert self.draws is not None
        generator = self.draws.network_generator(row, tasks)
        assert generator is not None
        shapes = [(self.hidden, self.in_features), (sum(self.tasks[task] for task in tasks), self.hidden)]
        drawn = []
        for shape in shapes:
            numbers = torch.empty(shape, device="cpu")
            numbers.uniform_(generator=generator)  # torch's own start of a layer, which is not kept
            drawn.append(numbers.normal_(generator=generator) * (2 / shape[1]) ** 0.5)
        again = torch.empty(shapes[1], device="cpu").normal_(generator=generator) * (2 / self.hidden) ** 0.5
        return drawn[0], drawn[1], again

    def _write(self, row: int, tasks: Sequence[str], readouts: Tensor) -> None:
        """Put the readouts (o, H) of tasks, the auxiliary ones first, in their places."""
        readout, begin = self.readout["weight"], 0
        for task in sorted(tasks, key=lambda task: task == "main"):
            where = self.task_slice(task)
            readout[row, where] = readouts[begin : begin + self.tasks[task]].to(readout)
            begin += self.tasks[task]

    def _outputs(self, x: Tensor) -> Tensor:
        hidden = (x.to(self.dtype) @ self.first["weight"].transpose(1, 2)).relu()
        self._show(lambda replica: hidden[replica])
        outputs: Tensor = hidden @ self.readout["weight"].transpose(1, 2)
        return outputs

    def objective(
        self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int = 0
    ) -> "ReLUObjective":
        """Return the losses of some replicas as a function of what trains.

        Args:
            problems: What they have to fit.
            rows: Indices of the replicas (k,).
            names: Parameters that train: all, or the readout.
            chunk: Most replicas in one product; 0 for one on a CPU, where more are slower, else 16.
        """
        frozen = None if len(names) == 2 else self.first["weight"].detach()[rows]
        return ReLUObjective.of(self, problems, rows.tolist(), frozen, chunk)


def _generator_for(seed: int, *purpose: str) -> torch.Generator:
    """Return a generator of its own for every seed and purpose; torch uses 32 bits of a seed."""
    digest = blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    words = np.random.SeedSequence(int.from_bytes(digest, "little")).generate_state(1)
    return torch.Generator().manual_seed(int(words[0]))


class ReLUObjective:
    """Mean squared error over all rows of all tasks, each on its own outputs, for many replicas.

    Parameters (k, P): first layer (H, d) and readouts (O, H), or only the readouts. With g_h the sum over
    rows of error times x where unit h is active, the gradients are v_h g_h and <w_h, g_h>: one thin product
    serves both layers, and the hidden activations are written once into a buffer that is used again.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        tasks: list[TaskRows],
        scale: Tensor,
        frozen: Tensor | None,
        chunk: int,
    ) -> None:
        self.hidden, self.width, self.count = size  # H, d and O
        self._tasks, self._scale, self._frozen, self._chunk = tasks, scale, frozen, chunk
        self.replicas = len(scale)
        self._buffers: dict[tuple[int, ...], Tensor] = {}
        self._descent: ReLUDescent | None = None
        self._targets: list[Tensor] = []

    @classmethod
    def of(
        cls, net: ReLUNet, problems: Problems, rows: Sequence[int], frozen: Tensor | None, chunk: int
    ) -> "ReLUObjective":
        """Group replicas by the inputs they share."""
        like = net.first["weight"]
        tasks, scale = by_inputs(net, problems, rows, like)
        chunk = chunk or (1 if like.device.type == "cpu" else 16)
        size = (net.hidden, net.in_features, net.outputs)
        return cls(size, tasks, scale, frozen, chunk)

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        """Return the losses (k,) and write the gradients."""
        out.zero_()
        return self._evaluate(theta, out)

    def value(self, theta: Tensor) -> Tensor:
        """Return the losses (k,)."""
        return self._evaluate(theta, None)

    def _views(self, theta: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return first layer (k, H, d), None where it is frozen, and readouts (k, O, H)."""
        size = self.hidden * self.width if self._frozen is None else 0
        k = len(theta)
        readout = theta[:, size:].view(k, self.count, self.hidden)
        return (theta[:, :size].view(k, self.hidden, self.width) if size else None), readout

    def _evaluate(self, theta: Tensor, out: Tensor | None) -> Tensor:
        first, readout = self._views(theta)
        first = first if first is not None else self._frozen
        assert first is not None
        gradients = None if out is None else self._views(out)
        losses = torch.zeros_like(self._scale)
        for groups, members in self._tasks:
            for group, rows in zip(groups, members, strict=True):
                for start in range(group.start, group.stop, self._chunk):
                    some = slice(start, min(start + self._chunk, group.stop))
                    inside = slice(some.start - group.start, some.stop - group.start)
                    self._add(rows, inside, some, first[some], readout[some], losses, gradients)
        return losses.mul_(self._scale)

    def _add(
        self,
        rows: SharedRows,
        inside: slice,
        some: slice,
        first: Tensor,
        readout: Tensor,
        losses: Tensor,
        gradients: tuple[Tensor | None, Tensor] | None,
    ) -> None:
        """Add the squared errors of some replicas on one task, and their gradients."""
        outputs = range(rows.start, rows.start + rows.targets.shape[2])
        scale = (2 * rows.weight) * self._scale[some, None]
        pulls: list[Tensor | None] = [None] * len(outputs)
        for begin in range(0, len(rows.x), BLOCK):
            x = rows.x[begin : begin + BLOCK]
            hidden = self._hidden(x, first)
            errors = []
            for number, output in enumerate(outputs):
                error = torch.bmm(readout[:, output, None], hidden)[:, 0]
                error.sub_(rows.targets[inside, begin : begin + BLOCK, number])
                losses[some].add_(torch.linalg.vecdot(error, error), alpha=rows.weight)
                errors.append(error.mul_(scale))
            if gradients is None:
                continue
            if gradients[0] is None:  # readouts alone need the activations themselves
                for output, error in zip(outputs, errors, strict=True):
                    gradients[1][some, output].add_(torch.bmm(hidden, error[..., None])[..., 0])
                continue
            active = hidden.gt_(0).transpose(1, 2)  # inputs before units: MKL is slow with few columns
            for number, error in enumerate(errors):
                pull, inputs = pulls[number], (error[..., None] * x).transpose(1, 2)
                pulls[number] = torch.bmm(inputs, active) if pull is None else pull.baddbmm_(inputs, active)
        for output, pull in zip(outputs, pulls, strict=True):
            if pull is not None and gradients is not None and gradients[0] is not None:
                pull = pull.transpose(1, 2).contiguous()
                gradients[0][some].addcmul_(readout[:, output, :, None], pull)
                gradients[1][some, output].add_(torch.linalg.vecdot(first, pull))

    def _hidden(self, x: Tensor, first: Tensor) -> Tensor:
        """Return relu(w x') (k, H, n) in a buffer; units before rows, which makes both products faster."""
        shape = (len(first), self.hidden, len(x))
        if shape not in self._buffers:
            self._buffers[shape] = first.new_empty(shape)
        buffer = self._buffers[shape]
        if len(first) == 1:
            torch.mm(first[0], x.T, out=buffer[0])
        else:
            torch.matmul(first, x.T, out=buffer)
        return buffer.relu_()

    def rows(self) -> int:
        """Return the number of training rows over all tasks; see ``equal_sizes``."""
        return sum(sizes_of(self._tasks))

    def batch(self, chosen: Tensor) -> "ReLUObjective":
        """Return the objective of some rows, counted over tasks one after another.

        As published, a task keeps its share of all rows: its mean over its rows in the batch is weighed by
        it. A task without rows there adds nothing.
        """
        return self._like(batch_of(self._tasks, chosen), self._scale, self._frozen)

    @property
    def kinked(self) -> bool:
        """Whether units turn on and off: not where readouts alone train."""
        return self._frozen is None

    @property
    def descends(self) -> bool:
        """Whether there is :meth:`descend`: on a CPU, if all weights train and each task has one output."""
        single = all(rows.targets.shape[2] == 1 for _, members in self._tasks for rows in members)
        return self._frozen is None and self._chunk == 1 and self._scale.device.type == "cpu" and single

    def descend(
        self, theta: Tensor, order: Tensor, batch_size: int, which: range, lr: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Take steps as :meth:`batch` weighs the rows; see ``lit_aux.integrators.objective.Descending``."""
        most = min(batch_size, len(order))
        if self._descent is None or self._descent.rows < most:
            self._descent = ReLUDescent(self.hidden, self.width, most, self._scale)
        total = sum(members[0].weight * len(members[0].x) for _, members in self._tasks)
        epochs: dict[tuple[int, ...], Epoch] = {}
        losses = np.empty((self.replicas, len(which)))
        for row, own in enumerate(self._by_replica()):
            key = tuple(id(rows.x) for rows, _ in own)
            if key not in epochs:
                tasks = [
                    TaskOfEpoch(rows.x, rows.start, rows.weight * len(rows.x) / total) for rows, _ in own
                ]
                epochs[key] = Epoch(tasks, order, batch_size)
            if len(self._targets) == row:
                self._targets.append(torch.cat([rows.targets[inside, :, 0] for rows, inside in own]))
            rate = float(lr[row])
            losses[row] = self._descent.descend(theta[row], self._targets[row], epochs[key], which, rate)
        return losses

    def _by_replica(self) -> list[list[tuple[SharedRows, int]]]:
        """Return each replica's rows of every task, and its place among those who share them."""
        found: list[list[tuple[SharedRows, int]]] = [[] for _ in range(self.replicas)]
        for groups, members in self._tasks:
            for group, rows in zip(groups, members, strict=True):
                for row in range(group.start, group.stop):
                    found[row].append((rows, row - group.start))
        return found

    def select(self, keep: Tensor) -> "ReLUObjective":
        """Return the objective of some of the replicas."""
        wanted = keep.tolist()
        tasks = [narrowed(groups, members, wanted) for groups, members in self._tasks]
        return self._like(tasks, self._scale[keep], None if self._frozen is None else self._frozen[keep])

    def _like(self, tasks: list[TaskRows], scale: Tensor, frozen: Tensor | None) -> "ReLUObjective":
        """Return one of other rows that computes in the same memory."""
        size = (self.hidden, self.width, self.count)
        made = ReLUObjective(size, tasks, scale, frozen, self._chunk)
        made._buffers, made._descent = self._buffers, self._descent
        return made
