"""The weights of a phase's best epoch, back when it ends."""

from math import isfinite
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.phases.monitors import is_validated, restored_name
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased
from lit_aux.phases.state import PhaseResult


class RestoreBest(Callback):
    """Keeps the weights and buffers of the epoch with the best value, and puts them back in the end.

    They are kept in CPU memory, as they were evaluated, and in checkpoints. A checkpoint of the phase's end
    has them as the network's, and the last ones here, from which training goes on where its limits are
    raised. Of equal values the first counts; one that is NaN or infinite is never the best.

    Args:
        phase: One with ``restore_best``.
    """

    def __init__(self, phase: Phase) -> None:
        self.monitor = restored_name(phase)
        self.mode: Literal["min", "max"] | None = phase.restore_mode
        self._phase = phase.name
        self._value: float | None = None
        self._epoch = 0
        self._metrics: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}
        self._restored = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out what is better; refuse strategies that no process has whole weights of."""
        phase = phased(pl_module).phase
        if stage != "fit" or phase is None:
            return
        self.mode = self.mode or direction(pl_module, phase)
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigurationError(
                f"restore_best: {type(trainer.strategy).__name__} divides the weights among processes; use "
                "--trainer.strategy ddp"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the last weights where the phase had ended with the best."""
        if self._restored:
            self._exchange(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was validated."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and is_validated(self.monitor):
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what was measured in training."""
        if not is_validated(self.monitor):
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back, before anybody measures or saves those of the phase's end."""
        if self._value is not None:
            self._exchange(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the memory."""
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far; after the end, the last weights."""
        told = {"value": self._value, "epoch": self._epoch, "metrics": dict(self._metrics)}
        return {**told, "weights": dict(self._weights), "restored": self._restored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._value, self._epoch = state_dict["value"], state_dict["epoch"]
        self._metrics, self._weights = dict(state_dict["metrics"]), dict(state_dict["weights"])
        self._restored = bool(state_dict["restored"])

    def tell(self, result: PhaseResult) -> None:
        """Write into a phase's result which epoch's weights come back, and what they measured."""
        if self._value is None:
            result.reason += f"; weights of the last epoch, as {self.monitor} never was a finite number"
            return
        result.reason += f"; weights of epoch {self._epoch} ({self.monitor} {self._value:.4g})"
        result.metrics |= self._metrics | {"best_epoch": float(self._epoch)}

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise unknown_name("restore_best", self.monitor, metrics)
        given = metrics[self.monitor].detach().to(trainer.strategy.root_device)
        value = float(trainer.strategy.reduce(given, reduce_op="mean"))  # the same on every process
        if not isfinite(value) or (self._value is not None and not self._is_better(value, self._value)):
            return
        phased(module).refresh_batchnorm()  # done already where weights are validated
        self._value, self._epoch = value, trainer.current_epoch
        self._weights = _copy(module)
        prefix, validated = f"{self._phase}/", is_validated(self.monitor)
        self._metrics = {
            name.removeprefix(prefix): float(found)
            for name, found in metrics.items()
            if name.startswith(prefix) and is_validated(name) == validated
        }

    def _is_better(self, value: float, than: float) -> bool:
        return value < than if self.mode == "min" else value > than

    @torch.no_grad()
    def _exchange(self, module: LightningModule) -> None:
        """Exchange the weights that are kept for those of the network."""
        last, now = _copy(module), module.state_dict()
        for name, value in self._weights.items():
            now[name].copy_(value)
        self._weights, self._restored = last, not self._restored


def _copy(module: LightningModule) -> dict[str, Tensor]:
    found = module.state_dict().items()
    return {n: v.detach().to("cpu", copy=True) for n, v in found if isinstance(v, Tensor)}


def direction(module: LightningModule, phase: Phase) -> Literal["min", "max"]:
    """Return whether the metric of ``restore_best`` is better when it is smaller or larger.

    Raises:
        ConfigurationError: Where neither the phase nor the metric says it.
    """
    if phase.restore_mode is not None:
        return phase.restore_mode
    name = restored_name(phase)
    more = phased(module).logged(phase).get(name.removeprefix(f"{phase.name}/"))
    if more is None and name.endswith("loss"):
        more = False
    if more is None:
        raise ConfigurationError(
            f"restore_best: {name!r} does not say whether more of it is better; give restore_mode, min or max"
        )
    return "max" if more else "min"
