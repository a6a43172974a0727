"""The weights that a fit starts from: a copy of them, and whether anything has trained them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lit_aux.callbacks._parameters import readout_parameters
from lit_aux.callbacks._processes import BringsBack
from lit_aux.errors import ConfigurationError

_FEW = 20.0
"""How far below its bound the largest of n uniform draws may lie, in n-ths: beyond with chance exp(-20)."""
_WIDE = 0.05
"""Share of a matrix's entries beyond torch's bounds from which on it was drawn by another law."""


class FromStart(BringsBack):
    """Keeps a copy of some tensors as they were when training started, in checkpoints too.

    Among the Trainer's callbacks of a run of several phases it would act in every one of them, also in
    pretraining, which starts from nothing worth keeping: that is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.start: dict[str, Tensor] = {}

    def kept(self, module: LightningModule) -> Mapping[str, Tensor]:
        """Return the tensors to keep, by name."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit, and refuse to act in every phase."""
        if stage != "fit":
            return
        self.start = {}
        phases = getattr(pl_module, "phases", None) or []
        phase = getattr(pl_module, "phase", None)
        if len(phases) > 1 and not any(one is self for one in getattr(phase, "callbacks", [])):
            names = ", ".join(each.name for each in phases)
            raise ConfigurationError(
                f"trainer.callbacks: {type(self).__name__} would act in every phase ({names}); put it into "
                "--model.finetune_callbacks, or into the callbacks of one phase"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy, after whatever changes weights as a fit starts; a resumed fit has it already."""
        if not self.start:
            self.start = {name: value.detach().clone() for name, value in self.kept(pl_module).items()}
        self.start = {name: value.to(pl_module.device) for name, value in self.start.items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the memory."""
        self.start = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the copy."""
        return {"start": dict(self.start)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.start = dict(state_dict["start"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on with a run that was started without: its start is lost."""
        if self.state_key not in checkpoint.get("callbacks", {}):
            raise ConfigurationError(
                f"ckpt_path: this run was started without {type(self).__name__}, which needs the weights "
                "that it started from; leave it out, or load only the weights and start a new fit"
            )


def starts_untrained(module: nn.Module) -> bool:
    """Whether a fit that begins now starts from weights that nothing has trained, as far as can be told.

    Args:
        module: As it is before its first step, and before it is rescaled. An attribute ``starts_untrained``
            is believed, unless a normalization within was trained: a network of the user's own may have been
            loaded by other means.
    """
    known = getattr(module, "starts_untrained", None)
    return looks_untrained(module) if known is None else bool(known) and not _normalized_before(module)


@torch.no_grad()
def looks_untrained(module: nn.Module) -> bool:
    """Whether every layer of a network but its readout looks as an initialization leaves it.

    An optimizer's first step leaves traces that no initialization has: gains and biases that all were 1 or 0
    differ, and what was drawn uniformly, as torch's own layers draw theirs, leaves its bounds. So a network
    is untrained where no batch normalization has counted a batch and each gain and bias is constant, or fills
    its layer's bounds exactly, as the layer's matrix then does. One without any gain or bias is judged by its
    matrices. Readouts do not count, which are new where a trained network is finetuned.

    Args:
        module: A network, or what holds one.

    Returns:
        False also where nothing can be told, as of a network without layers.
    """
    if _normalized_before(module):
        return False
    readout = {id(parameter) for parameter in readout_parameters(module).values()}
    layers = [(layer, list(_own_parameters(layer, readout))) for layer in module.modules()]
    if any(p.ndim == 1 for _, own in layers for p in own):
        return all(_vectors_as_drawn(layer, own) for layer, own in layers)
    matrices = [(layer, p) for layer, own in layers for p in own]
    return bool(matrices) and all(_fills_bounds(layer, p) for layer, p in matrices)


@torch.no_grad()
def _normalized_before(module: nn.Module) -> bool:
    """Whether a normalization has counted a batch, or has gains that differ: none begins so."""
    for layer in module.modules():
        counted = getattr(layer, "num_batches_tracked", None)
        if isinstance(counted, Tensor) and bool(counted > 0):
            return True
        gain = getattr(layer, "weight", None) if "Norm" in type(layer).__name__ else None
        if not isinstance(gain, Tensor) or isinstance(gain, nn.UninitializedParameter):
            continue
        if gain.ndim == 1 and gain.numel() > 1 and not _is_constant(gain):
            return True
    return False


def _own_parameters(layer: nn.Module, readout: set[int]) -> Iterator[Tensor]:
    """Yield the parameters of a layer itself that tell something."""
    for parameter in layer.parameters(recurse=False):
        known = not isinstance(parameter, nn.UninitializedParameter) and parameter.is_floating_point()
        if known and parameter.numel() > 1 and id(parameter) not in readout:
            yield parameter.detach()


def _vectors_as_drawn(layer: nn.Module, own: list[Tensor]) -> bool:
    """Whether gains and biases are constant, or drawn by torch's law as the layer's matrices are."""
    drawn = [p for p in own if p.ndim == 1 and not _is_constant(p)]
    if not drawn:
        return True
    matrices = [p for p in own if p.ndim > 1]
    return all(_fills_bounds(layer, p) for p in drawn) and all(
        _fills_bounds(layer, p) or _beyond_bounds(layer, p) >= _WIDE for p in matrices
    )


def _is_constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all())


def _fills_bounds(layer: nn.Module, values: Tensor) -> bool:
    """Whether values are as torch draws them: uniform between bounds that the layer's inputs give."""
    bound, largest = _bound(layer), float(values.abs().max())
    if bound is None:
        return False
    return bound * (1 - _FEW / values.numel()) <= largest <= bound * (1 + _rounded(values))


def _beyond_bounds(layer: nn.Module, values: Tensor) -> float:
    """Return the share of values that lie beyond the bounds between which torch draws them."""
    bound = _bound(layer)
    return 0.0 if bound is None else float((values.abs() > bound * (1 + _rounded(values))).double().mean())


def _rounded(values: Tensor) -> float:
    """Return by how much, relatively, rounding to its type may have lifted the largest value."""
    return max(1e-6, torch.finfo(values.dtype).eps)


def _bound(layer: nn.Module) -> float | None:
    """Return the bound of torch's own draw of a layer's weights; None of layers that have another."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(layer.weight)[0])
    kinds = {nn.Linear: "in_features", nn.RNNBase: "hidden_size", nn.Bilinear: "in1_features"}
    inputs = [getattr(layer, name) for kind, name in kinds.items() if isinstance(layer, kind)]
    return 1 / math.sqrt(inputs[0]) if inputs else None
