"""A penalty on the distance to the weights that finetuning starts from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.adapters import adapted_layers, adapter_parameters, base_of, merged_weight, own_parameters
from lit_aux.callbacks import _parameters
from lit_aux.callbacks._measurements import log_scalars
from lit_aux.callbacks._options import names_of
from lit_aux.callbacks._start import FromStart
from lit_aux.errors import ConfigurationError
from lit_aux.ranges import RATE, Range, check


class L2SP(FromStart):
    """Adds the gradient of ``alpha/2 |w - w_start|^2 + beta/2 |v|^2``, which holds weights near their start.

    Li, Grandvalet & Davoine 2018, "Explicit inductive bias for transfer learning with convolutional networks"
    (arXiv 1802.01483, equation 3). w are the shared parameters, w_start their values when training starts
    (after a rescale), v all other parameters that train: the readout. Parameters that do not train are left
    alone while they do not, and held near the same start once they do (as with Lightning's
    ``BackboneFinetuning``); what joins the network later starts from its value at its first step. The
    gradient is added before clipping, so that the optimizer treats it like that of a loss; set the
    optimizer's own weight decay to 0, which would pull w to 0. Of a layer with low-rank adapters w is the
    weight that they merge into. Only ratios matter to normalized weights: in front of batch normalization the
    penalty keeps directions.

    After every epoch ``l2_sp/penalty`` and ``l2_sp/distance`` (``|w - w_start|``) are logged. In
    ``PretrainFinetuneModule`` it belongs into ``finetune_callbacks``.

    Attributes:
        start: The shared parameters at the start by name, of tied ones the first; empty outside of a fit.

    Args:
        alpha: Strength for the shared parameters; published values lie between 0.001 and 1.
        beta: Strength for the readout.
        shared: Globs over the names of the shared parameters, of tied ones over each; by default all but the
            module's ``readout_parameters()``.

    Raises:
        ConfigurationError: For a strength that is negative or not finite; as a fit starts if the shared
            parameters are not known, in every phase of several, with an optimizer that undoes the scaling of
            losses itself, with sparse gradients, or on resuming a run that was started without.
    """

    def __init__(
        self, alpha: float = 0.1, beta: float = 0.01, *, shared: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        for option, value in (("alpha", alpha), ("beta", beta)):
            check(option, value, Range(least=0, most=RATE.most))
        self.alpha, self.beta = alpha, beta
        self.shared = names_of("shared", shared)
        self._readout: set[str] = set()
        self._held: bool | None = None

    def kept(self, module: LightningModule) -> Mapping[str, Tensor]:
        """Return the shared parameters, also those that do not train yet."""
        shared = _parameters.shared_parameters(module, self.shared, type(self).__name__, frozen=True)
        adapters = adapter_parameters(module)
        return {name: p for name, p in shared.items() if id(p) not in adapters}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit."""
        super().setup(trainer, pl_module, stage)
        self._readout, self._held = set(), None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say now what would go wrong when training starts."""
        if getattr(pl_module, "students", None) is not None:
            raise ConfigurationError("L2SP: students have no gradients that it could change; leave it out")
        shared = _parameters.shared_parameters(pl_module, self.shared, "L2SP", frozen=True, tell=True)
        _parameters.refuse_uninitialized("L2SP", shared)
        _parameters.refuse_sparse_layers("L2SP", pl_module, self._training(pl_module).values())
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if scaled and any(getattr(o, "_step_supports_amp_scaling", False) for o in trainer.optimizers):
            raise ConfigurationError(
                "L2SP: a fused optimizer with precision 16-mixed hides the scale of gradients; set fused to "
                "false or use bf16-mixed"
            )

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the penalty."""
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        training = self._training(pl_module)
        self._begin(pl_module, training)
        self._held = bool(self._held)
        with torch.enable_grad():
            adapted = list(self._adapted(pl_module))
        for distance, parameters in adapted:
            own = [p for p in parameters if p.requires_grad and id(p) in mine]
            if not own:  # all frozen, or another optimizer's
                continue
            for parameter, gradient in zip(own, torch.autograd.grad(distance, own), strict=True):
                self._held = True
                added = self.alpha / 2 * gradient
                parameter.grad = added if parameter.grad is None else parameter.grad + added
        for name, parameter in training.items():
            if id(parameter) not in mine:
                continue
            _parameters.refuse_sparse("L2SP", name, parameter.grad)
            held = name in self.start
            self._held = self._held or held
            added = self.alpha * (parameter - self.start[name]) if held else self.beta * parameter
            parameter.grad = added if parameter.grad is None else parameter.grad + added

    def _begin(self, module: LightningModule, training: Mapping[str, Tensor]) -> None:
        """Take the start of shared parameters that are new."""
        unknown = training.keys() - self.start.keys() - self._readout
        if not unknown:
            return
        new = {n: value.detach().clone() for n, value in self.kept(module).items() if n in unknown}
        self.start |= new
        self._readout |= unknown - new.keys()

    def _adapted(self, module: LightningModule) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Yield ``|w - w_start|^2`` of each weight with low-rank adapters that is held, and what moves it."""
        names = {id(p): name for name, p in _parameters.by_first_name(module).items()}
        for layer in adapted_layers(module).values():
            weight: Any = base_of(layer).weight
            start = self.start.get(names[id(weight)])
            if start is not None:
                yield (merged_weight(layer) - start).square().sum(), [weight, *own_parameters(layer)]

    @torch.no_grad()
    def penalty(self, module: LightningModule) -> tuple[float, float]:
        """Return the penalty, and the Euclidean distance of the shared parameters from the start."""
        distance, norm = sum((float(square) for square, _ in self._adapted(module)), 0.0), 0.0
        for name, parameter in self._training(module).items():
            if name in self.start:
                distance += float(_parameters.squares(parameter - self.start[name]).sum())
            else:
                norm += float(_parameters.squares(parameter).sum())
        return (self.alpha * distance + self.beta * norm) / 2, math.sqrt(distance)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say if there was nothing to hold."""
        if self._held is False:
            rank_zero_warn("L2SP: shared: none of the shared parameters trained, so that none was held")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log penalty and distance."""
        penalty, distance = self.penalty(pl_module)
        log_scalars(trainer, pl_module, {"l2_sp/penalty": penalty, "l2_sp/distance": distance})

    def _training(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name, but for what a weighting of several losses learns.

        Those that move a held weight with low-rank adapters are left out as well.
        """
        whole = {id(p) for _, parameters in self._adapted(module) for p in parameters}
        named = _parameters.by_first_name(module)
        training = {name: p for name, p in named.items() if p.requires_grad and id(p) not in whole}
        return {name: p for name, p in training.items() if not name.startswith("task_method.")}
