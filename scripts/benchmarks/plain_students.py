"""Students as a user would write them, with autograd and ``torch.optim.SGD``, beside batches of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule, TeacherDataModule
from lit_aux.models import DiagonalNet, Problems, ReLUNet, StudentNet

Row = tuple[str, float, str]
Clock = Callable[[], float]


class PlainDiagonal(nn.Module):
    """A diagonal linear network with one output and the start of ``net``'s first replica."""

    def __init__(self, net: StudentNet) -> None:
        super().__init__()
        self.w_plus, self.w_minus, self.v_plus, self.v_minus = (
            nn.Parameter(weight.detach()[0].reshape(-1).clone()) for weight in net.weights().values()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w_plus * self.v_plus - self.w_minus * self.v_minus)


class PlainReLU(nn.Module):
    """A two-layer ReLU network with the start of ``net``'s first replica; called: its first output."""

    def __init__(self, net: StudentNet) -> None:
        super().__init__()
        first, readout = (weight.detach()[0].clone() for weight in net.weights().values())
        self.first = nn.Linear(first.shape[1], first.shape[0], bias=False, dtype=first.dtype)
        self.readout = nn.Linear(first.shape[0], readout.shape[0], bias=False, dtype=first.dtype)
        self.first.weight.data, self.readout.weight.data = first, readout

    def outputs(self, x: Tensor) -> Tensor:
        """Return all outputs (n, O)."""
        return self.readout(self.first(x).relu())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)[:, 0]


def plain(net: StudentNet) -> nn.Module:
    """Return the plain network that starts where a student's first replica does."""
    return PlainDiagonal(net) if isinstance(net, DiagonalNet) else PlainReLU(net)


def plain_loop(
    network: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int, threshold: float = 0.0
) -> int:
    """Descend on all rows until the loss is below a threshold; return the number of gradients."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for step in range(1, steps + 1):
        loss = ((network(x) - y) ** 2).mean()
        if loss.item() < threshold:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps


class PlainBatches:
    """Mini-batch descent on several tasks, one output each, with a look at the last one's test loss.

    Args:
        network: What trains.
        tasks: Inputs (n, d) and targets (n, 1) of each.
        test: Test inputs and targets of the last task.
        lr: Learning rate.
        batch_size: Rows of a batch.
    """

    def __init__(
        self,
        network: PlainReLU,
        tasks: Sequence[tuple[Tensor, Tensor]],
        test: tuple[Tensor, Tensor],
        lr: float,
        batch_size: int,
    ) -> None:
        self.network, self.test, self.batch_size = network, test, batch_size
        self.x, self.y = (torch.cat(parts) for parts in zip(*tasks, strict=True))
        sizes = [len(x) for x, _ in tasks]
        self.task = torch.repeat_interleave(torch.tensor(sizes))
        self.shares = [n / sum(sizes) for n in sizes]
        self.optimizer = torch.optim.SGD(network.parameters(), lr=lr)

    def epochs(self, number: int) -> float:
        """Train for so many epochs; return the test loss after the first of them."""
        best = torch.inf
        for epoch in range(number):
            losses = []
            for chosen in torch.split(torch.randperm(len(self.x)), self.batch_size):
                errors = (self.network.outputs(self.x[chosen]) - self.y[chosen]) ** 2
                loss = torch.zeros(())
                for task, share in enumerate(self.shares):
                    own = self.task[chosen] == task
                    if own.any():
                        loss = loss + share * errors[own, task].mean()
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                losses.append(loss.item())
            if epoch == 0:
                with torch.no_grad():
                    outputs = self.network.outputs(self.test[0])[:, -1:]
                    best = min(best, float(((outputs - self.test[1]) ** 2).mean()))
        return best


@dataclass(frozen=True)
class Batch:
    """Replicas of a network and what they have to fit.

    Attributes:
        data: Their teachers.
        net: Their network, one replica for each of the data's, or several copies of these.
        tasks: The tasks that train.
    """

    data: TeacherDataModule
    net: StudentNet
    tasks: Sequence[str] = ("main",)

    def objective(self, split: str = "train", tasks: Sequence[str] | None = None) -> Any:
        """Return the training (or test) losses of all replicas."""
        load = self.data.train_set if split == "train" else self.data.test_set
        count = len(self.data.replicas)
        problems = Problems(
            list(tasks or self.tasks),
            lambda row, task: self.data.inputs_key(split, row % count, task),
            lambda row, task: load(row % count, task),
        )
        return self.net.objective(problems, torch.arange(self.net.replicas), list(self.net.weights()), 0)

    def start(self) -> Tensor:
        """Return the weights at the start as a matrix (R, P)."""
        return self.net.pack(torch.arange(self.net.replicas), list(self.net.weights()))


def batch(
    kind: type[DiagonalNet] | type[ReLUNet],
    data: TeacherDataModule,
    tasks: Sequence[str] = ("main",),
    hidden: int = 1000,
    copies: int = 1,
) -> Batch:
    """Return students of a data module's teachers."""
    seeds = [cell["seed"] for cell in data.replicas] * copies
    options: dict[str, Any] = {"dtype": data.dtype, "seeds": seeds}
    if kind is ReLUNet:
        options["hidden"] = hidden
    return Batch(data, kind(data.in_features, dict.fromkeys(tasks, 1), **options), tasks)


def diagonal(seeds: int, each: int, quick: bool = False, dtype: Any = "float32") -> Batch:
    """Return diagonal students; those of a seed share their inputs."""
    small: Any = {"in_features": 90, "n_aux": 8} if quick else {}
    n_main, overlap = 16 if quick else 512, list(range(each))
    data = DiagonalTeacherDataModule(list(range(seeds)), n_main, overlap, dtype=dtype, **small)
    return batch(DiagonalNet, data)


def relu(
    replicas: int,
    quick: bool = False,
    dtype: Any = "float32",
    n_main: int = 512,
    tasks: Sequence[str] = ("main",),
) -> Batch:
    """Return ReLU students of one seed, H 1000, whose teachers differ in their magnitude."""
    sizes = [1 + row / 100 for row in range(replicas)]
    n_main = 16 if quick else n_main
    data = ReLUTeacherDataModule(0, n_main, magnitude=sizes, n_aux=8 if quick else 1024, dtype=dtype)
    return batch(ReLUNet, data, tasks, hidden=8 if quick else 1000)
