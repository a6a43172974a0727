"""Diagonal linear networks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lit_aux.models._diagonal_objective import DiagonalObjective
from lit_aux.models._problems import Problems
from lit_aux.models.student import StudentNet


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
    ) -> DiagonalObjective:
        """Return the losses of some replicas as a function of what trains.

        Args:
            problems: What they have to fit.
            rows: Indices of the replicas (k,).
            names: Parameters that train: all, or those of the readout.
            chunk: Not used: products are shared wherever inputs are.
        """
        frozen = None if len(names) == 4 else self.pack(rows, ["first.plus", "first.minus"])
        return DiagonalObjective.of(self, problems, rows.tolist(), frozen)
