"""Lightning's command line as this project has it."""

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lit_aux.data
import lit_aux.modules  # noqa: F401 - so that their classes can be named without a path
from lit_aux._building import build_plainly, located, noting, of_callback, of_trainer, raised_by_lightning
from lit_aux._configurations import check_configurations, given_values, told_of_references
from lit_aux._options import with_class_paths, with_nulls
from lit_aux.commands import know_working_folder
from lit_aux.errors import ConfigurationError
from lit_aux.phases import PhaseTrainer
from lit_aux.phases.state import check_archive
from lit_aux.ranges import SEED
from lit_aux.storage import storage_trouble

_DESCRIPTION = (
    "Train a network on one task, on several at once, or by pretraining and finetuning; rescale its weights "
    "in between; see which features were reused. Start with: lit-aux fit --config configs/quickstart.yaml. "
    "Many runs of one W&B sweep file, with or without W&B: lit-aux sweep FILE. The paper's experiments: "
    "lit-aux reproduce EXPERIMENT. Means and winners of a results table: lit-aux table FILE; its pictures: "
    "lit-aux figures NAME. Is a network lazy, nested or rich: lit-aux regime RUN. Why did multi-task "
    "training help or hurt: lit-aux trajectories RUN... (Each has its own --help.) The options of a model or "
    "of data: lit-aux fit --model.help PretrainFinetuneModule, lit-aux fit --data.help DigitsDataModule."
)


class _Parser(LightningArgumentParser):
    """A parser that knows None, also in options of classes, each of which is parsed by one of its own kind.

    jsonargparse hands them a null that it has read as the word None.
    """

    def parse_args(self, args: Any = None, *others: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parse a command line, None in it being null."""
        return super().parse_args(with_nulls(args) if isinstance(args, list) else args, *others, **options)

    def add_instantiator(self, instantiator: Any, *others: Any, **options: Any) -> None:
        """Add what builds a class; an error knows then what was being built."""
        super().add_instantiator(noting(instantiator), *others, **options)


class AuxiliaryCLI(LightningCLI):
    """LightningCLI that takes the tasks from the data and reports after fit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("args")
        self._words = sys.argv[1:] if given is None else list(given) if isinstance(given, list) else []
        try:
            super().__init__(*args, **kwargs)
        except Exception as error:
            known = _configuration_error(error) or self._of_trainer(error)
            if known is None:
                trouble = storage_trouble(error, self._folder())
                if trouble is None:
                    raise
                raise trouble from error
            raise ConfigurationError(located(known, self._options(), self._words)) from error

    def _of_trainer(self, error: Exception) -> ConfigurationError | None:
        """Return what Lightning says of the Trainer's options while it runs; None for any other error."""
        options = self._options()
        if options is None or not raised_by_lightning(error):
            return None
        callback = of_callback(error)
        if callback is not None:
            said = " ".join(str(error).split())
            return ConfigurationError(f"--trainer.callbacks: {type(callback).__name__}: {said}")
        text = of_trainer(error, vars(options["trainer"]))
        return None if text is None else ConfigurationError(text)

    def _folder(self) -> str:
        """Return where the run writes; the working folder where there is no Trainer yet."""
        trainer = getattr(self, "trainer", None)
        return "." if trainer is None else str(trainer.default_root_dir)

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
        words = with_class_paths(self._words)
        check_configurations(words)
        try:
            with told_of_references(words):
                self.config = parser.parse_args(words)
        except SystemExit as end:  # not of the parser, which raises what is wrong
            if end.code:
                raise ConfigurationError(
                    f"a module that the options name ends Python (code {end.code})"
                ) from end
            raise

    def _add_instantiators(self) -> None:
        """Say how classes are built: as Lightning has it, any other plainly."""
        super()._add_instantiators()
        self.parser.add_instantiator(build_plainly, object, subclasses=True)

    def _set_seed(self) -> None:
        """Seed everything; a seed is what NumPy takes for one."""
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None and seed not in SEED:
            raise ConfigurationError(f"--seed_everything: {seed} must be {SEED}")
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Leave the command line in charge: a checkpoint's hyperparameters must not override it."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Build the Trainer; what it refuses is the user's to correct."""
        try:
            return super()._instantiate_trainer(config, callbacks)
        except ConfigurationError as error:
            name = str(error).partition(":")[0]
            if name not in config:
                raise
            raise ConfigurationError(f"--trainer.{error}") from error
        except (ValueError, TypeError, ArithmeticError, MisconfigurationException, ImportError) as error:
            raise ConfigurationError(of_trainer(error, config) or f"--trainer: {error}") from error

    def after_instantiate_classes(self) -> None:
        """Refuse tasks that are given beside data that say otherwise: the data's would be taken."""
        known = _tasks(getattr(self, "datamodule", None))
        for place, given in given_values(self._words, "model.tasks"):
            if known is not None and given != known:
                raise ConfigurationError(
                    f"--model.tasks: {given}{place} are not those of the data, {known}; leave it out"
                )

    def before_fit(self) -> None:
        """Tell the Trainer what the run was configured with: it names the run."""
        import yaml

        for phase in getattr(self.model, "phases", None) or ():
            rate = getattr(phase.optimizer, "keywords", {}).get("lr")
            if rate == 0 and phase.lr_scheduler is None:
                raise ConfigurationError(
                    f"lr: {rate} trains nothing (phase {phase.name!r}); it must be above 0 where no schedule "
                    "raises it"
                )
        if isinstance(self.trainer, PhaseTrainer):
            text = self._parser("fit").dump(self.config["fit"], skip_none=False)
            self.trainer.configuration = yaml.safe_load(text)

    def before_validate(self) -> None:
        """Refuse a checkpoint that is none, before anything is written."""
        self._check_checkpoint("validate")

    def before_test(self) -> None:
        """Refuse a checkpoint that is none, before anything is written."""
        self._check_checkpoint("test")

    def before_predict(self) -> None:
        """Refuse a checkpoint that is none, before anything is written."""
        self._check_checkpoint("predict")

    def _check_checkpoint(self, command: str) -> None:
        path = self.config[command].get("ckpt_path")
        if path is not None and path not in ("best", "last", "hpc") and "registry" not in str(path):
            check_archive(path, "--ckpt_path")

    def after_fit(self) -> None:
        """Print and draw what came out."""
        from lit_aux.reporting import report

        if not getattr(self.trainer, "fast_dev_run", False):
            report(self.trainer)


def _configuration_error(error: BaseException | None) -> ConfigurationError | None:
    """Find the error that was meant for people among those that an error came from."""
    while error is not None and not isinstance(error, ConfigurationError):
        error = error.__cause__ or error.__context__
    return error


def _tasks(data: Any) -> dict[str, int] | None:
    """Return each task's number of classes as the data module knows it."""
    found: dict[str, int] | None = getattr(data, "num_classes", None)
    return found


class _ParsedOnly(AuxiliaryCLI):
    """Parses the options of ``fit``; builds and trains nothing."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return ``fit`` alone."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def _set_seed(self) -> None:
        """Leave the generators alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Nothing was built."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def parse(args: list[str]) -> None:
    """Parse a command line of ``fit`` and do no more.

    Args:
        args: The command line, from ``fit`` on.

    Raises:
        ConfigurationError: For files that cannot be read, and references that lead nowhere.
        ArgumentError: For options that are unknown or of the wrong kind.
    """
    _command_line(_ParsedOnly, args)


def run(args: ArgsType) -> None:
    """Carry out a command of Lightning's, or ``export``.

    Args:
        args: The command line in place of ``sys.argv``.

    Raises:
        ConfigurationError: For what is unknown or impossible.
        StorageError: If a file cannot be written.
    """
    _command_line(AuxiliaryCLI, args)


def _command_line(kind: type[AuxiliaryCLI], args: ArgsType) -> None:
    _hush()
    know_working_folder()
    kind(
        parser_class=_Parser,
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
    for message in (
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*across ranks is zero.*",
        "Detected pickle protocol",
    ):
        warnings.filterwarnings("ignore", message=message)
