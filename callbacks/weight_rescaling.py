"""Multiply weights by a factor once, before finetuning starts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from statistics import fmean
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lit_aux.adapters import adapter_parameters
from lit_aux.callbacks import _parameters
from lit_aux.callbacks._averages import begun_before
from lit_aux.callbacks._inputs import Inputs
from lit_aux.callbacks._measurements import log_scalars
from lit_aux.callbacks._network import Reader, call, default_to_input, read_ahead
from lit_aux.callbacks._no_trace import traceless
from lit_aux.callbacks._options import check_choice, names_of
from lit_aux.callbacks._processes import BringsBack, Brought, total_over_processes
from lit_aux.callbacks.probe import training_batches, transfer
from lit_aux.errors import ConfigurationError, some
from lit_aux.functional.batchnorm import batchnorm_layers
from lit_aux.functional.batchnorm import reestimate_batchnorm as reestimate
from lit_aux.ranges import LIMIT, POSITIVE, SCALE, check
from lit_aux.trees import concatenated, count_rows, form_of

Preset = Literal["all", "weights", "backbone"]

_STALE = (
    "the running statistics of batch normalization ({layers}) belong to the weights before the rescale, so "
    "that evaluation is off until training has replaced them; set reestimate_batchnorm to true"
)
_UNREACHED = (
    "no training batch reaches batch normalization {layers}: its running statistics stay those of the "
    "weights before the rescale"
)


@dataclass(eq=False, repr=False)
class WeightRescaling(BringsBack):
    """Multiplies parameters by ``factor`` at the start of a fit: once, in place, on every process.

    Rescaling a pretrained network to smaller weights before it is finetuned moves finetuning from the lazy
    regime towards one that reuses few of the pretrained features (Lippl & Lindsey, "Inductive biases of
    multi-task learning and finetuning: multiple regimes of feature reuse"). It happens at ``on_fit_start``,
    when optimizers exist and hold no state yet, in every fit that does not resume: one callback serves
    several networks, the folds of a cross-validation say.

    Attributes:
        factor: The factor, or the list of factors.
        names: The parameters that were multiplied, as in ``named_parameters``.
        left_out: Those that were not, once applied; an info line names them, too.
        norm_before: Their joint Euclidean norm before, once applied.
        norm_after: The same afterwards.

    Args:
        factor: What to multiply by; finite and above 0. A list has one factor a replica, for parameters with
            a leading replica axis of that length.
        preset: ``"all"`` parameters (as published: biases and normalization too), ``"weights"`` (two or more
            dimensions: kernels and matrices), or ``"backbone"``, everything but the network's last readout:
            what the module's ``readout_parameters()`` or timm's ``get_classifier()`` gives, else the last
            part of the network itself that is called ``head``, ``heads``, ``readout``, ``readouts``, ``fc``
            or ``classifier`` (inside its blocks such names mean nothing). Integers, and what is quantised,
            are never multiplied.
        include: Globs over parameter names; keeps only those of the preset that one of them matches.
        exclude: Globs over parameter names to leave alone. Tied parameters answer to each of their names.
        reestimate_batchnorm: Whether to compute the running statistics of batch normalization anew
            afterwards, on the fit's training data: those of before belong to the larger weights.
        batchnorm_samples: About how many training samples, over all processes, to use for that.
        to_input: Finds in a training batch what the network takes, for the same purpose: one argument, or a
            tuple or dictionary of several. By default it is called as the module's own ``training_step``
            calls it, or with all inputs of ``{task: (x, y)}``.

    Raises:
        ConfigurationError: For a bad factor or preset; at the start of a fit for a pattern that matches no
            parameter, when nothing is chosen, for a list of factors and a parameter without as many replicas,
            next to a callback whose average of the weights began before (it would undo the rescale; one that
            starts later, like ``StochasticWeightAveraging``, does not), or on resuming a run that was started
            without, or with another, rescaling.

    Example:
        >>> from lit_aux.callbacks import WeightRescaling
        >>> rescale = WeightRescaling(0.5, exclude=["*.bias"])  # for any Trainer(callbacks=[rescale])
        >>> rescale.factor
        0.5
    """

    factor: float | Sequence[float]
    _: KW_ONLY
    preset: Preset = "all"
    include: list[str] | None = None
    exclude: list[str] | None = None
    reestimate_batchnorm: bool = False
    batchnorm_samples: int = 1000
    to_input: Callable[[Any], Any] | None = None

    names = Brought[list[str]]()
    norm_before = Brought[float | None]()
    norm_after = Brought[float | None]()

    def __post_init__(self) -> None:
        super().__init__()
        given: Any = self.factor
        several = isinstance(given, Sequence) and not isinstance(given, str)
        for allowed in (POSITIVE, SCALE):
            check("factor", list(given) if several else [given], allowed)
        if several and not given:
            raise ConfigurationError("factor: [] is no factor; give a number, or one a replica")
        check_choice("preset", self.preset, "all", "weights", "backbone")
        check("batchnorm_samples", self.batchnorm_samples, LIMIT)
        self.factor = [float(one) for one in given] if several else float(given)
        self.include = names_of("include", self.include)
        self.exclude = names_of("exclude", self.exclude)
        self.names = []
        self.left_out: list[str] = []
        self.norm_before = self.norm_after = None
        self._applied = self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        if stage == "fit":
            self._applied, self.norm_before, self.norm_after = False, None, None

    @property
    def state_key(self) -> str:
        """Tell callbacks for different parameters apart; a changed factor does not make another one."""
        return self._generate_state_key(preset=self.preset, include=self.include, exclude=self.exclude)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the rescale has happened, and the norms."""
        return {"applied": self._applied, "norm_before": self.norm_before, "norm_after": self.norm_after}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; Lightning does so before ``on_fit_start``."""
        self._applied = bool(state_dict["applied"])
        self.norm_before, self.norm_after = state_dict.get("norm_before"), state_dict.get("norm_after")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on with a run that was not rescaled as asked here."""
        saved = [str(key) for key in checkpoint.get("callbacks", {})]
        if self.state_key not in saved:
            was = [key for key in saved if key.startswith(type(self).__qualname__)]
            how = f"with {', '.join(was)}" if was else "without rescaling"
            raise ConfigurationError(
                f"ckpt_path: this run was started {how} and would be rescaled midway ({self.state_key}); "
                "resume it as it was, or load only the weights and start a new fit"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rescale, unless that was done before."""
        self.check(trainer, pl_module, started=True)
        chosen = self.select(pl_module)
        self.names = list(chosen)
        # Strategies that load the checkpoint only after this hook bring back weights that were rescaled.
        late = trainer.strategy.restore_checkpoint_after_setup and trainer.ckpt_path is not None
        if self._applied or late:
            return
        self._tell_left_out(pl_module, chosen)
        self.norm_before = _norm(chosen)
        for parameter in chosen.values():
            self._scale(parameter)
        self.norm_after = _norm(chosen)
        self._applied = True
        if self.reestimate_batchnorm:
            self._reestimate(trainer, pl_module)
        else:
            self._warn_of_batchnorm(pl_module, chosen)
        factor = fmean(self.factor) if isinstance(self.factor, Sequence) else self.factor
        values = {"factor": factor, "norm_before": self.norm_before, "norm_after": self.norm_after}
        log_scalars(trainer, pl_module, {f"rescale/{name}": value for name, value in values.items()})

    def check(self, trainer: Trainer, module: nn.Module, *, started: bool = False) -> None:
        """Say now what the start of the fit would refuse.

        Args:
            trainer: The Trainer of the fit.
            module: Its module.
            started: Whether the fit has begun, so that other callbacks show what they keep.

        Raises:
            ConfigurationError: For patterns that match no parameter, a callback that averages weights, or
                parameters with another number of replicas than there are factors.
        """
        chosen = self.select(module)
        if average := begun_before(trainer, chosen.values(), started=started):
            raise ConfigurationError(
                f"factor: {type(average).__name__} averages weights and would undo the rescale; remove it "
                "from callbacks, start it after the first step, or rescale the weights before the fit"
            )
        if isinstance(self.factor, Sequence):
            for name, parameter in chosen.items():
                if parameter.ndim == 0 or len(parameter) != len(self.factor):
                    raise ConfigurationError(
                        f"factor: {len(self.factor)} factors for {name!r} of shape {tuple(parameter.shape)}; "
                        "give one a replica (its leading axis), or a single number"
                    )

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters that would be multiplied, by name; tied ones once, low-rank adapters never.

        A tied parameter counts as included by any of its names and as excluded by any of them.
        """
        named = _parameters.by_any_name(module)
        _parameters.refuse_uninitialized(type(self).__name__, named)
        names = list(named) if self.include is None else _parameters.match("include", self.include, named)
        dropped = set() if self.exclude is None else set(_parameters.match("exclude", self.exclude, named))
        ids = {id(named[name]) for name in dropped} | adapter_parameters(module)
        if self.preset == "backbone":
            readout = _parameters.readout_parameters(module)
            if not readout:
                known = ", ".join(sorted(_parameters.READOUTS))
                raise ConfigurationError(
                    f"preset: 'backbone' finds no readout ({known}) at the end of {type(module).__name__}; "
                    "use 'all' and name the readout with exclude"
                )
            ids |= {id(parameter) for parameter in readout.values()}
        chosen: dict[int, tuple[str, nn.Parameter]] = {}
        for name in names:
            parameter = named[name]
            fits = _parameters.is_continuous(parameter) and (self.preset != "weights" or parameter.ndim >= 2)
            if fits and id(parameter) not in ids:
                chosen.setdefault(id(parameter), (name, parameter))
        if not chosen:
            raise ConfigurationError(
                f"preset, include, exclude: {self.preset!r}, {self.include}, {self.exclude} leave no "
                f"parameter of {type(module).__name__} to rescale"
            )
        return dict(chosen.values())

    def _tell_left_out(self, module: nn.Module, chosen: Mapping[str, nn.Parameter]) -> None:
        """Say in one line which parameters are not multiplied, and why."""
        ids = {id(parameter) for parameter in chosen.values()}
        readout = _parameters.readout_parameters(module) if self.preset == "backbone" else {}
        left = {name: p for name, p in _parameters.by_first_name(module).items() if id(p) not in ids}
        self.left_out = list(left)
        integers = _parameters.integer_names(left)
        adapters = adapter_parameters(module)
        left = {name: p for name, p in left.items() if id(p) not in adapters}
        kinds = {
            "the readout": [name for name in left if name in readout],
            "integer or quantised": list(integers.values()),
            "as asked": [name for name in left if name not in readout and name not in integers],
        }
        parts = [f"{some(names, _parameters.SHOWN)} ({kind})" for kind, names in kinds.items() if names]
        if parts:
            rank_zero_info(f"{type(self).__name__}: left out {'; '.join(parts)}")

    @torch.no_grad()
    def _scale(self, parameter: nn.Parameter) -> None:
        """Multiply in place; one replica after another, so that each is scaled as it would be alone."""
        if not isinstance(self.factor, Sequence):
            parameter.mul_(self.factor)
            return
        for replica, factor in enumerate(self.factor):
            parameter[replica].mul_(factor)

    def _reestimate(self, trainer: Trainer, module: LightningModule) -> None:
        """Compute the statistics of batch normalization anew on this fit's training data."""
        if not batchnorm_layers(module):
            return
        reader = Reader(trainer, module, self.to_input, training=True)

        def read(batch: Any) -> list[Inputs]:
            moved = transfer(trainer, module, batch)
            tasks = _by_pass(moved) if self.to_input is None else None
            return [reader(moved)] if tasks is None else tasks

        def forward(passes: list[Inputs]) -> int:
            for inputs in passes:
                with traceless(trainer, module, buffers=False):
                    call(trainer, module, inputs)
            return sum(inputs.size for inputs in passes)

        batches = training_batches(trainer)
        share = -(-self.batchnorm_samples // trainer.world_size)
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            # Read ahead: how the network is called must be known before its layers are watched.
            reestimate(
                module,
                read_ahead(read, batches),
                forward,
                max_samples=share,
                reduce=partial(total_over_processes, trainer),
                on_unreached=lambda layers: _warn_of_layers(type(self).__name__, module, layers, _UNREACHED),
            )
            batches.close()

    def _warn_of_batchnorm(self, module: nn.Module, chosen: Mapping[str, nn.Parameter]) -> None:
        """Say once that running statistics belong to other weights."""
        layers = batchnorm_layers(module)
        readout = {id(parameter) for parameter in _parameters.readout_parameters(module).values()}
        readout_alone = all(id(parameter) in readout for parameter in chosen.values())
        if self._warned or not layers or readout_alone or self.factor == 1:
            return
        self._warned = True
        _warn_of_layers(type(self).__name__, module, layers, _STALE)


def _norm(parameters: dict[str, nn.Parameter]) -> float:
    """Joint Euclidean norm in float64, of complex numbers that of their moduli."""
    return math.sqrt(sum(float(_parameters.squares(p.detach().cpu()).sum()) for p in parameters.values()))


def _by_pass(batch: Any) -> list[Inputs] | None:
    """Return what to run the network on, pass by pass, so that it sees the inputs of all tasks of a batch.

    Of ``{task: (x, y)}`` tasks whose inputs have the same form share a pass, as in the project's
    networks; a task that a batch has nothing of may be None.

    Args:
        batch: A training batch; None is returned for any other than this.
    """
    held = {k: pair for k, pair in batch.items() if pair is not None} if isinstance(batch, Mapping) else {}
    if not held or not all(isinstance(pair, tuple | list) for pair in held.values()):
        return None
    kinds: dict[Any, list[Any]] = {}
    for pair in held.values():
        x = pair[0] if isinstance(pair[0], Mapping | tuple) else default_to_input(pair)
        kinds.setdefault(form_of(x), []).append(x)
    return [Inputs((concatenated(alike),), size=sum(map(count_rows, alike))) for alike in kinds.values()]


def _warn_of_layers(user: str, module: nn.Module, layers: Iterable[nn.Module], text: str) -> None:
    """Warn about some layers of a module; the text says what about them."""
    plain = _parameters.cleaner(module)
    names = {id(layer): plain(name) for name, layer in module.named_modules()}
    found = [names.get(id(layer), type(layer).__name__) for layer in layers]
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    rank_zero_warn(f"{user}: {text.format(layers=shown)}")
