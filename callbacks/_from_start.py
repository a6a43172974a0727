"""What callbacks have in common that compare a network with what it was when its fit started."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks._brought_back import BringsBack
from lit_aux.errors import ConfigurationError


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
