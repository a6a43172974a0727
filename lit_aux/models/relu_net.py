"""Two-layer ReLU networks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lit_aux.models._problems import Problems
from lit_aux.models._relu_objective import ReLUObjective
from lit_aux.models.student import StudentNet, generator_for
from lit_aux.ranges import COUNT, check


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

    def __init__(self, in_features: int = 15, *args: object, hidden: int = 1000, **kwargs: object) -> None:
        check("hidden", hidden, COUNT)
        self.hidden = hidden
        super().__init__(in_features, *args, **kwargs)  # type: ignore[arg-type]

    def _draw(self) -> None:
        drawn: dict[int, tuple[Tensor, Tensor]] = {}
        for seed in dict.fromkeys(self.seeds):
            generator = generator_for(seed, "weights")
            first = torch.randn(self.hidden, self.in_features, generator=generator, dtype=torch.float64)
            readout = torch.randn(self.outputs, self.hidden, generator=generator, dtype=torch.float64)
            drawn[seed] = (first * (2 / self.in_features) ** 0.5, readout * (2 / self.hidden) ** 0.5)
        scale = self.scales[:, None, None]
        first = torch.stack([drawn[seed][0] for seed in self.seeds]) * scale
        self.first["weight"] = nn.Parameter(first.to(self.dtype))
        readout = torch.stack([drawn[seed][1] for seed in self.seeds]) * scale
        self.readout["weight"] = nn.Parameter(readout.to(self.dtype))

    @torch.no_grad()
    def reset_readout(self, scale: float | Sequence[float] = 1.0, tasks: Iterable[str] | None = None) -> None:
        """Draw readouts anew, N(0, 2 / H) times the initial scale times ``scale``."""
        factors = (self.scales * self.factors(scale)).tolist()
        readout = self.readout["weight"]
        for task in self.tasks if tasks is None else tasks:
            where = self.task_slice(task)
            for row, (seed, factor) in enumerate(zip(self.seeds, factors, strict=True)):
                generator = generator_for(seed, "readout", task)
                values = torch.randn(readout[row, where].shape, generator=generator, dtype=torch.float64)
                readout[row, where] = (values * (2 / self.hidden) ** 0.5 * factor).to(readout)

    def _outputs(self, x: Tensor) -> Tensor:
        hidden = (x.to(self.dtype) @ self.first["weight"].transpose(1, 2)).relu()
        self._show(lambda replica: hidden[replica])
        outputs: Tensor = hidden @ self.readout["weight"].transpose(1, 2)
        return outputs

    def objective(
        self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int = 0
    ) -> ReLUObjective:
        """Return the losses of some replicas as a function of what trains.

        Args:
            problems: What they have to fit.
            rows: Indices of the replicas (k,).
            names: Parameters that train: all, or the readout.
            chunk: Most replicas in one product; 0 for one on a CPU, where more are slower, else 16.
        """
        frozen = None if len(names) == 2 else self.first["weight"].detach()[rows]
        return ReLUObjective.of(self, problems, rows.tolist(), frozen, chunk)
