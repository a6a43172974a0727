"""Lightning's command line as this project has it."""

import ast
import json
import re
import shlex
import sys
from argparse import Action, ArgumentError
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lit_aux.data
import lit_aux.modules  # noqa: F401 - so that their classes can be named without a path
from lit_aux.cli import configuration
from lit_aux.cli.building import build_plainly, located, noting, of_callback, of_trainer, raised_by_lightning
from lit_aux.cli.commands import MORE_HELP
from lit_aux.cli.display import has_display, open_file
from lit_aux.cli.messages import parsing_message
from lit_aux.cli.words import with_values
from lit_aux.cores import tell_threads
from lit_aux.errors import ConfigurationError, causes
from lit_aux.identity.configuration import know_working_folder
from lit_aux.integrators import INTEGRATORS
from lit_aux.models.pretrained_weights import without_reading
from lit_aux.modules.rebuilding import network_told_in
from lit_aux.phases import PhaseTrainer
from lit_aux.phases.quiet import quiet
from lit_aux.phases.state import check_archive
from lit_aux.ranges import SEED, check
from lit_aux.run_folder import in_notebook
from lit_aux.storage import storage_trouble
from lit_aux.tasks import tasks_of
from lit_aux.tensor_options import register_tensors

_KNOWN = re.compile(r"known subclasses: ([\w., ]+)")
_PUBLIC = re.compile(r"lit_aux\.\w+\.\w+")


class _HelpFormatter(DefaultHelpFormatter):
    """Lists of the classes that an option takes only this project's: torch alone has hundreds."""

    def _expand_help(self, action: Action) -> str:
        return str(_KNOWN.sub(_own_classes, super()._expand_help(action)))


def _own_classes(match: "re.Match[str]") -> str:
    known = match[1].split(", ")
    own = [name for name in known if _PUBLIC.fullmatch(name)]
    if len(own) == len(known):
        return match[0]
    return f"known subclasses: {', '.join([*own, f'{len(known) - len(own)} of other packages'])}"


class _Parser(LightningArgumentParser):
    """A parser that knows None, also in options of classes, each of which is parsed by one of its own kind.

    jsonargparse hands them a null that it has read as the word None.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter, **options})

    def parse_args(self, args: Any = None, *others: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parse a command line, None in it being null."""
        words = with_values(args, _null) if isinstance(args, list) else args
        return super().parse_args(words, *others, **options)

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
            found = (one for one in causes(error) if isinstance(one, ConfigurationError))
            known = next(found, None) or self._of_trainer(error)
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

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser whose help ends with how to see what only a model's or data's own help lists."""
        return super().init_parser(**{"epilog": MORE_HELP, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what must agree."""
        parser.link_arguments("data", "model.init_args.tasks", compute_fn=tasks_of, apply_on="instantiate")
        shown = "Open the report of a fit at its end, where there is a desktop (LIT_AUX_DISPLAY=0: never)."
        parser.add_argument("--open", type=bool, default=False, help=shown)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands and ``export``."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Leave out the options of subcommands beside the one that is named: adding them takes a while."""
        named = self._words[0] if self._words and self._words[0] in self.subcommands() else subcommand
        if named != subcommand:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, with words that stand for classes written out."""
        if isinstance(args, Mapping | Namespace):
            return super().parse_arguments(parser, args)
        words = with_values(self._words, _class_path)
        configuration.check_configurations(words)
        try:
            with configuration.told_of_references(words):
                self.config = parser.parse_args(words)
        except SystemExit as end:  # not of the parser, which raises what is wrong
            if end.code:
                what = f"a module that the options name ends Python (code {end.code})"
                raise ConfigurationError(what) from end
            raise

    def _add_instantiators(self) -> None:
        """Say how classes are built: as Lightning has it, any other plainly."""
        super()._add_instantiators()
        self.parser.add_instantiator(build_plainly, object, subclasses=True)

    def _set_seed(self) -> None:
        """Seed everything; a seed is what NumPy takes for one."""
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool):
            check("--seed_everything", seed, SEED)
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

    def instantiate_classes(self) -> None:
        """Build everything; weights that a checkpoint will bring need not be there any more."""
        subcommand = self.subcommand or ""
        path = (self.config.get(subcommand) or {}).get("ckpt_path")
        if subcommand == "fit" or path is None or not Path(str(path)).is_file():
            return super().instantiate_classes()
        with without_reading(cache(partial(network_told_in, str(path)))):
            return super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Refuse tasks that are given beside data that say otherwise: the data's would be taken."""
        known = tasks_of(getattr(self, "datamodule", None))
        for place, given in configuration.given_values(self._words, "model.tasks"):
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
        tell_threads()

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint that is none, before anything is written."""
        path = self.config[self.subcommand].get("ckpt_path")
        if path is not None and path not in ("best", "last", "hpc") and "registry" not in str(path):
            check_archive(path, "--ckpt_path")

    before_validate = before_test = before_predict = check_checkpoint

    def after_fit(self) -> None:
        """Print and draw what came out."""
        from lit_aux.reporting import report

        if getattr(self.trainer, "fast_dev_run", False):
            return
        folder = report(self.trainer)
        if not self.trainer.is_global_zero:
            return
        if in_notebook():  # there a report is shown by whoever gets it
            from IPython.display import display

            display(folder)  # type: ignore[no-untyped-call]
        if self._get(self.config, "open", default=False) and has_display():
            _open_report(folder)
        else:
            print(f"report: {shlex.join(['lit-aux', 'report', str(folder)])} --open")


def _open_report(folder: Path) -> None:
    """Write the page of a run, and open it; the run has ended well, whatever becomes of its page."""
    from lit_aux.pages import write_report

    try:
        page = write_report([folder], folder / "report.html")
    except ConfigurationError as error:
        print(f"report: not written: {error}")
        return
    print(f"report: {page}")
    open_file(page)


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


def check_fit(options: list[str]) -> None:
    """Parse the options of ``fit`` and do no more.

    Args:
        options: What follows ``fit``.

    Raises:
        ConfigurationError: For options that are unknown or of the wrong kind, for files that cannot be read,
            and references that lead nowhere.
    """
    try:
        _command_line(_ParsedOnly, ["fit", *options])
    except ArgumentError as error:
        raise ConfigurationError(parsing_message(str(error))) from error


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
    know_working_folder()
    register_tensors()
    with quiet():
        kind(
            parser_class=_Parser,
            trainer_class=PhaseTrainer,
            args=args,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={
                "description": "All commands: lit-aux --help",
                "parser_mode": "omegaconf+",
                "exit_on_error": False,
            },
        )


def _class_path(option: str, value: str) -> str:
    """Write an integrator that is named by its word (``gradient_descent``) as its class.

    Only then do options of its own that follow (``--model.settings.integrator.lr 0.1``) have an owner.
    """
    known = INTEGRATORS.get(value) if option.endswith(".integrator") else None
    return value if known is None else f"lit_aux.integrators.{known.__qualname__}"


def _null(option: str, value: str) -> str:
    """Write None as null, also within a list or a dictionary: W&B agents spell values as Python does."""
    if option and value == "None":
        return "null"
    if "None" not in value or value[:1] not in ("[", "{"):
        return value
    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError):
        return value
