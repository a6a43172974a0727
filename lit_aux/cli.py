"""The command line: ``lit-aux fit | validate | test | predict | export | reproduce | regime | figures``."""

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lit_aux.data
import lit_aux.modules  # noqa: F401 - so that their classes can be named without a path
from lit_aux._messages import parsing_message
from lit_aux._options import located, with_class_paths
from lit_aux.errors import ConfigurationError, NonFiniteLossError
from lit_aux.phases import PhaseTrainer

_DESCRIPTION = (
    "Train a network on one task, on several at once, or by pretraining and finetuning; rescale its weights "
    "in between; see which features were reused. Start with: lit-aux fit --config configs/quickstart.yaml. "
    "The paper's experiments: lit-aux reproduce EXPERIMENT. Where a network is between lazy and rich: "
    "lit-aux regime RUN. Pictures of the theory: lit-aux figures NAME. (Each has its own --help.)"
)


class AuxiliaryCLI(LightningCLI):
    """LightningCLI that takes the tasks from the data and reports after fit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except Exception as error:
            known = _known_cause(error)
            if not isinstance(known, ConfigurationError):
                raise
            raise ConfigurationError(located(str(known), self._options())) from error

    def _options(self) -> Any:
        """Return the options as parsed; None where parsing failed."""
        config = getattr(self, "config", None)
        return None if config is None else config.get(config.get("subcommand", ""))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what must agree."""
        parser.link_arguments("data", "model.init_args.tasks", compute_fn=_tasks, apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands and ``export``."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, with words that stand for classes written out."""
        if isinstance(args, Mapping | Namespace):
            return super().parse_arguments(parser, args)
        self.config = parser.parse_args(with_class_paths(sys.argv[1:] if args is None else args))

    def _parse_ckpt_path(self) -> None:
        """Leave the command line in charge: a checkpoint's hyperparameters must not override it."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Build the Trainer; what it refuses is the user's to correct."""
        try:
            return super()._instantiate_trainer(config, callbacks)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError) as error:
            raise ConfigurationError(f"--trainer: {error}") from error

    def after_fit(self) -> None:
        """Print and draw what came out."""
        from lit_aux.reporting import report

        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            report(self.trainer)


def _tasks(data: Any) -> dict[str, int] | None:
    """Return each task's number of classes as the data module knows it."""
    found: dict[str, int] | None = getattr(data, "num_classes", None)
    return found


def main(args: ArgsType = None) -> int:
    """Run the command line.

    Args:
        args: Arguments in place of ``sys.argv``.

    Returns:
        The exit code: 0 when all went well, 1 when training failed, 2 for a wrong option, 130 when Ctrl-C
        ended ``reproduce`` or ``regime``.
    """
    if os.environ.get("LIT_AUX_DEBUG"):
        return _dispatch(args)
    try:
        return _dispatch(args)
    except Exception as error:
        known = _known_cause(error)
        if known is None:
            raise
        message = str(known)
        if isinstance(known, ArgumentError):
            message = parsing_message(message, sys.argv[1:] if args is None else list(args))
        print(f"lit-aux: error: {' '.join(message.split())}", file=sys.stderr)
        return 1 if isinstance(known, NonFiniteLossError) else 2


def _known_cause(error: BaseException | None) -> BaseException | None:
    """Find the error that was meant for people among those that it led to."""
    known = (ConfigurationError, NonFiniteLossError, MisconfigurationException, ArgumentError)
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return next((e for kind in known for e in chain if isinstance(e, kind)), None)


def _dispatch(args: ArgsType) -> int:
    """Give commands that configure no model or data to their own rooms, the rest to Lightning."""
    words = sys.argv[1:] if args is None else args
    own = words if isinstance(words, list) else []
    name = own[0] if own else ""
    if name == "reproduce":
        from lit_aux.experiments.command import run as reproduce

        return reproduce(own[1:], fit=_run)
    if name == "regime":
        from lit_aux.regimes.command import run as regime

        return regime(own[1:], fit=_run)
    if name == "figures":
        from lit_aux.figures.command import run as figures

        return figures(own[1:])
    _run(args)
    return 0


def _run(args: ArgsType) -> None:
    _hush()
    AuxiliaryCLI(
        trainer_class=PhaseTrainer,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"description": _DESCRIPTION, "parser_mode": "omegaconf+", "exit_on_error": False},
    )


_NOISE = ("litlogger", "weights_only", "TPU available", "`Trainer.fit` stopped")


def _hush() -> None:
    """Leave out what Lightning says about other products, and what the report tells better."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logger = logging.getLogger(name)
        if not logger.filters:
            logger.addFilter(lambda record: not any(part in record.getMessage() for part in _NOISE))
    for message in (".*LeafSpec.*", ".*smaller than the logging interval.*", ".*across ranks is zero.*"):
        warnings.filterwarnings("ignore", message=message)


if __name__ == "__main__":
    sys.exit(main())
