"""Pretraining on auxiliary tasks, then finetuning on the main one."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lightning.pytorch import Callback
from torch import nn

from lit_aux.callbacks import WeightRescaling
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.models import LoRA
from lit_aux.modules.base import AuxiliaryModule
from lit_aux.phases.phase import Phase, PhaseSettings
from lit_aux.tasks import Task


class PretrainFinetuneModule(AuxiliaryModule):
    """Pretrains on some tasks and finetunes on others (PT+FT), or fits a linear probe (LP).

    The phases are ``pretrain``, then ``finetune``, ``probe``, or ``probe`` and ``finetune``. A first phase
    that was trained before with the same configuration, data and seed is found and reused.

    Args:
        backbone: A network that returns features (batch, features), or the name of a timm network.
        tasks: What each task is, or its number of classes; the command line takes it from the data.
        pretrain_tasks: Tasks of the first phase; by default all that are not finetuned on. Where there are
            none, finetuning starts from the backbone's own (pretrained) weights.
        finetune_tasks: Tasks of the later phases.
        finetune: ``"full"`` trains every parameter, ``"probe"`` the readout alone, ``"probe_then_full"``
            first the readout, then every parameter (Kumar et al. 2022, arXiv 2202.10054), ``"lora"`` the
            readout and low-rank updates of the backbone's weights (Hu et al. 2021, arXiv 2106.09685).
        lora: Rank, scale and layers of ``finetune="lora"``.
        rescale: Multiply the weights by this factor (or by one for each replica of a student) before the
            first phase after pretraining (Lippl & Lindsey 2023, arXiv 2310.02396); None leaves them.
        rescale_preset: Which weights: ``"all"`` (as published), ``"weights"`` without biases and
            normalization, ``"backbone"`` without the readout.
        readout: Whether the finetuned tasks' readout is kept or drawn anew after pretraining.
        readout_scale: Multiplies a readout that is drawn anew.
        pretrained: A file to start from in place of pretraining: see :class:`AuxiliaryModule`.
        pretrain_settings: Optimizer, schedule and limits of pretraining.
        finetune_settings: The same of finetuning.
        probe_settings: The same of the linear probe; by default those of finetuning, where both follow each
            other without ``unfreeze`` and ``callbacks``.
        finetune_callbacks: Callbacks of the last phase alone, such as ``L2SP`` and ``WiSEFT``; those among
            the Trainer's act in every phase.
        **kwargs: As for :class:`AuxiliaryModule`.

    Raises:
        ConfigurationError: If tasks, factor or checkpoint do not fit.
    """

    finetunes = True
    later_phase_options = AuxiliaryModule.later_phase_options | {
        *("pretrain_tasks", "finetune_tasks", "finetune", "rescale", "rescale_preset", "readout"),
        *("readout_scale", "lora"),
    }
    lora: LoRA | None = None

    def __init__(
        self,
        backbone: nn.Module | str,
        tasks: Mapping[str, int | Task] | None = None,
        *,
        pretrain_tasks: list[str] | None = None,
        finetune_tasks: list[str] | None = None,
        finetune: Literal["full", "probe", "probe_then_full", "lora"] = "full",
        lora: LoRA | None = None,
        rescale: float | list[float] | None = None,
        rescale_preset: Literal["all", "weights", "backbone"] = "all",
        readout: Literal["keep", "reset"] = "keep",
        readout_scale: float | list[float] = 1.0,
        pretrained: str | None = None,
        pretrain_settings: PhaseSettings | None = None,
        finetune_settings: PhaseSettings | None = None,
        probe_settings: PhaseSettings | None = None,
        finetune_callbacks: list[Callback] | None = None,
        **kwargs: Any,
    ) -> None:
        self.pretrain_tasks, self.finetune_tasks = pretrain_tasks, finetune_tasks or ["main"]
        check_known("finetune", finetune, ("full", "probe", "probe_then_full", "lora"))
        self.finetune, self.pretrained = finetune, pretrained
        if lora is not None:
            self.lora = lora
        self.rescale, self.rescale_preset = rescale, rescale_preset
        self.readout, self.readout_scale = readout, readout_scale
        self._pretrain_settings = pretrain_settings or PhaseSettings()
        self._finetune_settings = finetune_settings or PhaseSettings()
        self._finetune_callbacks = list(finetune_callbacks or [])
        self._probe_settings = probe_settings or self._finetune_settings
        super().__init__(backbone, tasks, pretrained=pretrained, **kwargs)
        _ = self.phases  # what does not fit is said now, not when training starts

    def default_phases(self) -> list[Phase]:
        """Return pretraining, unless its outcome is given, and what follows it."""
        return [*self._pretraining(), *self._finetuning()]

    def _pretraining(self) -> Iterator[Phase]:
        tasks = self.pretrain_tasks
        if tasks is None:
            tasks = [task for task in self.tasks if task not in self.finetune_tasks]
        if self.pretrained is not None:
            return
        if tasks:
            yield Phase(name="pretrain", tasks=tasks, **vars(self._pretrain_settings))
        elif getattr(getattr(self.net, "backbone", None), "pretrained", None) is False:
            raise ConfigurationError(
                "pretrain_tasks: no task is left to pretrain on and the backbone is not pretrained; set the "
                "backbone's pretrained, name a checkpoint in --model.pretrained, or add a task to the data"
            )

    def _finetuning(self) -> Iterator[Phase]:
        options: list[dict[str, Any]] = []
        if self.finetune in ("probe", "probe_then_full"):
            options.append({"name": "probe", "trainable": "readout", **vars(self._probe_settings)})
            if self.finetune != "probe" and self._probe_settings is self._finetune_settings:
                options[0] |= {"unfreeze": None, "callbacks": []}  # which are of finetuning itself
        if self.finetune != "probe":
            options.append({"name": "finetune", **vars(self._finetune_settings)})
        if self.finetune == "lora":
            options[-1]["lora"] = LoRA() if self.lora is None else self.lora
        elif self.lora is not None:
            raise ConfigurationError(
                f"lora: options of low-rank finetuning are for finetune lora, not {self.finetune}"
            )
        options[0] |= {"readout": self.readout, "readout_scale": self.readout_scale}
        options[0]["callbacks"] = [*self._rescaling(), *options[0]["callbacks"]]
        options[-1]["callbacks"] = [*options[-1]["callbacks"], *self._finetune_callbacks]
        _check_rescaling(options[0]["callbacks"])
        yield from (Phase(tasks=self.finetune_tasks, **each) for each in options)

    def _rescaling(self) -> list[Callback]:
        if self.rescale is None:
            return []
        try:
            rescaling = WeightRescaling(
                self.rescale, preset=self.rescale_preset, reestimate_batchnorm=self.reestimate_batchnorm
            )
        except ConfigurationError as error:  # the callback's names for what are options of this module
            text = str(error).replace("factor: ", "rescale: ", 1).replace("preset: ", "rescale_preset: ", 1)
            raise ConfigurationError(text) from error
        return [rescaling]


def _check_rescaling(callbacks: list[Callback]) -> None:
    """Refuse to rescale the same weights twice."""
    keys = [callback.state_key for callback in callbacks if isinstance(callback, WeightRescaling)]
    if len({*keys}) < len(keys):
        raise ConfigurationError(
            "rescale: the callbacks of the same phase hold a WeightRescaling, so that weights would be "
            "rescaled twice; give one of the two"
        )
