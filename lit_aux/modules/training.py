"""What the two ways to train a module's network have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lit_aux.modules.losses import JointLosses
from lit_aux.phases.phase import Phase

Outputs = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Training(ABC):
    """A way to train a network, chosen once when its module is built.

    Args:
        module: The module, with ``net`` and ``evaluation``.

    Attributes:
        phase: The phase that the module is in.
        trains_itself: Whether it moves the weights itself, in this process, and minds the training loss.
    """

    trains_itself = False

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.phase: Phase | None = None

    @property
    def net(self) -> Any:
        """The module's network."""
        return self._module.net

    def enter_phase(self, phase: Phase) -> None:
        """Begin a phase."""
        self.phase = phase

    def begin_epoch(self, epoch: int) -> bool:
        """Let train what is unfrozen by an epoch of the phase, and hold what is frozen as it is.

        Args:
            epoch: Its number; to be called again in its middle where a run goes on there.

        Returns:
            Whether other parameters train than when the optimizer was built, or at the last call.
        """
        return False

    @property
    def log_prefix(self) -> str:
        """What precedes the names that this phase logs, such as ``"finetune/"``."""
        return "" if self.phase is None else f"{self.phase.name}/"

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Log a value of this phase."""
        self._module.log(f"{self.log_prefix}{name}", value, **options)

    @abstractmethod
    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Refuse phases with options that are for the other way."""

    @abstractmethod
    def attach(self, data: Any, processes: int, phases: Sequence[Phase]) -> None:
        """Meet the data module, if any, before any process is launched; refuse data for the other way."""

    @abstractmethod
    def optimizer(self, phase: Phase, names: set[str]) -> Any:
        """Return the optimizer of a phase over the parameters of these names, as Lightning takes it."""

    @abstractmethod
    def before_step(self, optimizer: Optimizer) -> None:
        """Prepare the step of an optimizer, when gradients are there, not clipped yet."""

    @abstractmethod
    def step(self, batch: Any, outputs: Outputs) -> JointLosses | None:
        """Return the losses of a training batch; None where the step has been taken already.

        Args:
            batch: The batch.
            outputs: Returns each task's logits on its own inputs.
        """

    @abstractmethod
    def test(self, batch: Any) -> None:
        """Take a test batch into the measures."""

    @abstractmethod
    def predict(self, batch: Any) -> Any:
        """Return the outputs of each task in the batch, or of every task for a bare tensor."""

    @property
    def stop_reason(self) -> str | None:
        """How the phase ended, where that is known here."""
        return None

    @abstractmethod
    def end_epoch(self, unlabelled: set[str]) -> None:
        """End an epoch.

        Args:
            unlabelled: The tasks of which it has been said that they had no label; others are added.
        """

    @abstractmethod
    def refresh_batchnorm(self, samples: int | None) -> None:
        """Bring batch-normalization statistics up to date.

        Args:
            samples: Training inputs to re-estimate them from; None leaves them as running averages.
        """

    @abstractmethod
    def check_export(self) -> None:
        """Refuse to export a network that has no timm weights."""
