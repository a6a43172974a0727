"""What trains from epoch to epoch of a phase, and what follows from it for layers and processes."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lit_aux.errors import ConfigurationError
from lit_aux.modules.optimization import trainable_names
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased


class Unfreezing:
    """Lets more and more parameters of a module train, as the phase or a callback of Lightning's says.

    The optimizer is built once, over all that will ever train: it passes over parameters without gradient.
    Data-parallel training waits for the gradients of all parameters that trained when the module was wrapped;
    where others train, it is wrapped anew.

    Args:
        module: With a network ``net``.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.begin()

    def begin(self) -> None:
        """Begin a phase, whose layers all are in training mode."""
        self._held: list[nn.Module] = []
        self._training: frozenset[int] = frozenset()
        self._begun = False

    def check_strategy(self) -> None:
        """Refuse strategies that take parameters apart; note what trains as the module is wrapped.

        Raises:
            ConfigurationError: Naming the strategy, where any phase unfreezes something.
        """
        self._training, _ = self._trains_now()
        strategy = self._module.trainer.strategy
        gradual = any(phase.unfreeze is not None for phase in phased(self._module).phases)
        if gradual and not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigurationError(
                f"unfreeze: {type(strategy).__name__} settles what trains before the first epoch; use "
                "--trainer.strategy ddp"
            )

    def begin_epoch(self, phase: Phase | None, epoch: int) -> bool:
        """Let train what is unfrozen by an epoch; keep the layers of what is frozen in eval mode.

        Args:
            phase: The phase.
            epoch: Its epoch.

        Returns:
            Whether other parameters train than before.
        """
        trainer = self._module.trainer
        if phase is not None and phase.unfreeze is not None:
            names = trainable_names(self._module, phase, epoch)
            for name, parameter in self._module.named_parameters():
                if name in names:
                    parameter.requires_grad_(True)
        if not self._begun:
            self._begun = True
            _unfreeze_restored(trainer, self._module, epoch)
        before = self._training
        self._training, all_train = self._trains_now()
        if self._held or not all_train:
            self._hold()
        if self._training == before:
            return False
        _wrap_anew(trainer)
        return True

    def _trains_now(self) -> tuple[frozenset[int], bool]:
        """Return the ``id`` of every parameter that trains, and whether all do."""
        parameters = list(self._module.parameters())
        training = [id(p) for p in parameters if p.requires_grad]
        return frozenset(training), len(training) == len(parameters)

    def _hold(self) -> None:
        """Put frozen layers into eval mode, and those that were put there and train by now back."""
        for layer in self._held:
            if any(p.requires_grad for p in layer.parameters()):
                layer.train()
        self._held = []
        self._hold_within(self._module.net)  # type: ignore[arg-type]

    def _hold_within(self, layer: nn.Module) -> set[bool]:
        """Hold a layer, or those within it, where nothing trains; return whether its parameters do."""
        trains = {p.requires_grad for p in layer._parameters.values() if p is not None}
        trains = trains.union(*map(self._hold_within, layer.children()))
        if trains == {False}:
            self._held.append(layer.eval())
        return trains


def _unfreeze_restored(trainer: Trainer, module: LightningModule, epoch: int) -> None:
    """Let train what a callback of Lightning's had unfrozen: on a resume it restores its optimizer alone."""
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, BackboneFinetuning):
            if epoch >= callback.unfreeze_backbone_at_epoch:
                callback.make_trainable(module.backbone)
        elif isinstance(callback, BaseFinetuning):
            for group in (group for one in trainer.optimizers for group in one.param_groups):
                for parameter in group["params"]:
                    parameter.requires_grad_(True)


def _wrap_anew(trainer: Trainer) -> None:
    """Have processes reduce the gradients of what trains now, and wait for no others."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        wrapper: Any = strategy.model
        wrapper._remove_autograd_hooks()  # else they go on as long as it lives
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()
