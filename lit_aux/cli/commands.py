"""Every command of ``lit-aux``: one table for the help, the dispatch and the nearest of a mistyped one."""

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from lit_aux.cores import Load, choose_threads
from lit_aux.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType

LIGHTNING = "lit_aux.cli.lightning_cli"


class Command(NamedTuple):
    """A command.

    Attributes:
        help: What it does, in one line.
        module: Where its ``run`` is, imported when the command is asked for.
        computes: Whether it does so for long, so that it matters how many threads it has.
    """

    help: str
    module: str
    computes: bool = True


COMMANDS = {
    "fit": Command("train: run every phase of a module, one after another", LIGHTNING),
    "validate": Command("measure a checkpoint on validation data", LIGHTNING),
    "test": Command("measure a checkpoint on test data", LIGHTNING),
    "predict": Command("compute a checkpoint's outputs, and write predictions into a file", LIGHTNING),
    "export": Command("write a checkpoint's network for timm or transformers", LIGHTNING),
    "sweep": Command("run a W&B sweep file, with or without W&B", "lit_aux.cli.sweep"),
    "reproduce": Command("run an experiment of the paper", "lit_aux.cli.reproduce"),
    "table": Command("means, paired differences and winners of a results table", "lit_aux.cli.table", False),
    "figures": Command("pictures of the theory and of results tables", "lit_aux.cli.figures", False),
    "trajectories": Command("why multi-task training helped or hurt", "lit_aux.cli.trajectories", False),
    "regime": Command("whether a network is lazy, nested or rich", "lit_aux.cli.regime"),
}
MORE_HELP = (
    "The options of a model or of data: lit-aux fit --model.help PretrainFinetuneModule,\n"
    "lit-aux fit --data.help DigitsDataModule."
)
_HELP = f"""\
usage: lit-aux COMMAND ...

Train a network on one task, on several at once, or by pretraining and finetuning; rescale its weights in
between; see which features were reused. Start with: lit-aux fit --config configs/quickstart.yaml

commands (each has its own --help):
{{commands}}

{MORE_HELP}"""


def dispatch(args: "ArgsType" = None) -> int:
    """Carry out a command line, without making one line of what goes wrong.

    Args:
        args: Arguments in place of ``sys.argv``.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: For what is unknown or impossible.
    """
    words = sys.argv[1:] if args is None else args
    name = words[0] if isinstance(words, list) and words else ""
    if name in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(f"  {n:14}{c.help}" for n, c in COMMANDS.items())))
        raise SystemExit(0)
    if isinstance(words, list) and not name.startswith("-"):
        command = COMMANDS.get(name)
        if command is None:
            raise unknown_command(name)
        if command.computes and "torch" not in sys.modules:
            _choose_threads()
        if command.module != LIGHTNING:
            code: int = import_module(command.module).run(words[1:])
            return code
    import_module(LIGHTNING).run(args)
    return 0


def _choose_threads() -> None:
    """Compute with as many threads as others leave cores, where these are fewer than there are."""
    load = Load()
    import_module("jsonargparse")  # is needed anyway: the watch takes no time of its own
    import_module("numpy")
    choose_threads(load, os.environ)


def unknown_command(name: str) -> ConfigurationError:
    """Build the error for a command that does not exist, or for none at all.

    Args:
        name: What stands in its place; ``""`` for nothing.
    """
    known = f"choose {', '.join(COMMANDS)}"
    if not name:
        return ConfigurationError(f"no command is given; {known}")
    near = get_close_matches(name, COMMANDS, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return ConfigurationError(f"{name!r} is no command; {meant}{known}")
