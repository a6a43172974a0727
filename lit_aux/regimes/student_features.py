"""The features of one student: what pretraining made of them and what finetuning learned with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_aux.functional import feature_dependence, l_order
from lit_aux.functional.gradient_flow import conserved
from lit_aux.models import ReLUNet, StudentNet

MADE = 0.01
"""A feature counts as made by pretraining from this share of the strongest one's strength on."""


@dataclass(frozen=True)
class Placement:
    """Where each feature stands on the regime map.

    Attributes:
        beta_aux: Strength (G, D) with which the feature enters finetuning, for each of G rescale factors.
        l_order: ``d log R / d log|beta|`` (G, D) of the finetuning penalty R.
        dependence: ``d log R / d log|beta_aux|`` (G, D).
    """

    beta_aux: Tensor
    l_order: Tensor
    dependence: Tensor


@dataclass(frozen=True)
class StudentFeatures:
    """What is known of the features of a student that was pretrained and finetuned.

    A feature is an input of the diagonal network, or a hidden unit of the ReLU network. Its place is worked
    out from the weights that finetuning started from, which are the pretrained ones times the rescale factor
    beside the readout that was drawn anew.

    Diagonal: gradient flow conserves A and B of every input, and its penalty is R(beta) = alpha q(2 beta /
    alpha) / 2 with the exact scale alpha = 2 sqrt(AB), up to a term linear in beta that moves its minimum to
    where finetuning starts. alpha is the ``|beta_aux| + gamma^2`` of the paper's penalty where both pathways
    are equal; the published protocol does not make them so, and then alpha is about half of that.
    ``beta_aux`` is what is left of alpha beside gamma^2: the *effective* strength.

    ReLU: ``beta_aux`` is ``||w||^2`` at the start of finetuning and the penalty the explicit one of the
    paper, with each unit's own correlation of w before and after, and its own readout at the start.

    Source: Lippl & Lindsey, arXiv 2310.02396; Woodworth et al. 2020 and Azulay et al. 2021 for A and B.

    Args:
        penalty: ``"q"`` for the diagonal network, ``"relu"`` for the ReLU network.
        cell: Its place in the grid, ``seed`` among the names.
        factor: The rescale factor that it was trained with.
        beta: What finetuning learned (D,), with sign; float64.
        first: The pretrained first layer before it was rescaled: w+ and w- (2, D), or ||w|| (1, D).
        readout: The readout at the start of finetuning, before rescaling: v+ and v- (2, D), or v (1, D).
        correlation: Of ReLU units, the cosine (D,) of w before and after finetuning.
        readout_follows: Whether the factor multiplies that readout too.
    """

    penalty: Literal["q", "relu"]
    cell: Mapping[str, Any]
    factor: float
    beta: Tensor
    first: Tensor
    readout: Tensor
    correlation: Tensor | None = None
    readout_follows: bool = False

    @classmethod
    def of_relu(
        cls,
        cell: Mapping[str, Any],
        factor: float,
        start: tuple[Tensor, Tensor],
        end: tuple[Tensor, Tensor],
        *,
        readout_follows: bool = False,
    ) -> "StudentFeatures":
        """Return the units of a ReLU network as features.

        Args:
            cell: Its place in the grid.
            factor: The rescale factor that it was trained with.
            start: The first layer (H, d) before it was rescaled, and the readout (H,).
            end: Both after finetuning.
            readout_follows: Whether the factor multiplies the readout too.
        """
        (w, v), (w_end, v_end) = start, end
        norm, norm_end = w.norm(dim=1), w_end.norm(dim=1)
        cosine = (w * w_end).sum(1) / (norm * norm_end).clamp(min=1e-300)
        kept = cosine.clamp(-1.0, 1.0)
        return cls("relu", cell, factor, v_end * norm_end, norm[None], v[None], kept, readout_follows)

    @property
    def weight(self) -> Tensor:
        """Each feature's share (D,) of the sum of ``|beta|``; 0 everywhere where nothing was learned."""
        size = self.beta.abs()
        total = size.sum()
        return size / total if total > 0 else size

    @property
    def made(self) -> Tensor:
        """Which features (D,) pretraining made, those at least 1 % as strong as the strongest."""
        strength = self.first.square().sum(0)
        return strength >= MADE * strength.max()

    @property
    def gamma(self) -> float:
        """Of a diagonal network, the readout's scale at the start of finetuning, rescaled or not."""
        scale = self.factor if self.readout_follows else 1.0
        return scale * float(self.readout.square().mean().sqrt())

    def place(self, factors: float | Tensor | None = None, features: Tensor | None = None) -> Placement:
        """Return where the features stand at some rescale factors; ``beta`` is held as it was learned.

        Args:
            factors: Factors (G,) on the pretrained weights, or one; by default the student's own.
            features: Indices (k,) of the features that are wanted; all by default.
        """
        given = torch.as_tensor(self.factor if factors is None else factors, dtype=torch.float64)
        s = given.reshape(-1, 1)
        chosen = torch.arange(len(self.beta)) if features is None else features
        first, readout, beta = self.first[:, chosen], self.readout[:, chosen], self.beta[chosen]
        readouts = s * readout[:, None] if self.readout_follows else readout[:, None].expand(-1, len(s), -1)
        firsts = s * first[:, None]
        if self.penalty == "q":
            beta_aux, gamma = _effective(firsts, readouts)
            options: dict[str, Any] = {"gamma": gamma}
        else:
            assert self.correlation is not None
            beta_aux = firsts[0].square()
            options = {"correlation": self.correlation[chosen], "readout": readouts[0]}
        order = l_order(self.penalty, beta, beta_aux, **options)
        dependence = feature_dependence(self.penalty, beta, beta_aux, **options)
        return Placement(beta_aux, order, dependence)


def _effective(first: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
    """Return effective beta_aux and gamma (G, D) of pathways (2, G, D), so that the scale is exact."""
    names = ("w_plus", "w_minus", "v_plus", "v_minus")
    a, b = conserved(dict(zip(names, (*first, *readout), strict=True)))
    gamma_squared = readout.square().mean(0)
    return (2 * (a * b).sqrt() - gamma_squared).clamp(min=0.0), gamma_squared.sqrt()


def student_weights(net: StudentNet, task: str) -> tuple[Tensor, Tensor]:
    """Return first layer and a task's readout, float64, on the CPU: (R, 2, D), or (R, H, d) and (R, 1, H)."""
    where = net.task_slice(task).start
    with torch.no_grad():
        if isinstance(net, ReLUNet):
            first, readout = net.first["weight"].clone(), net.readout["weight"][:, where, None].clone()
        else:
            first = torch.stack([net.first[sign] for sign in ("plus", "minus")], dim=1)
            readout = torch.stack([net.readout[sign][:, where] for sign in ("plus", "minus")], dim=1)
        return first.cpu().double(), readout.cpu().double()
