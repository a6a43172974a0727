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
TRAIN = "train a network, and use it"
MANY = "many runs"
LOOK = "look at what came out"


class Command(NamedTuple):
    """A command.

    Attributes:
        help: What it does, in one line.
        module: Where its ``run`` is, imported when the command is asked for.
        group: What a person wants who needs it.
    """

    help: str
    module: str
    group: str = LOOK


COMMANDS = {
    "fit": Command("train: run every phase of a module, one after another", LIGHTNING, TRAIN),
    "validate": Command("measure a checkpoint on validation data", LIGHTNING, TRAIN),
    "test": Command("measure a checkpoint on test data", LIGHTNING, TRAIN),
    "predict": Command("compute a checkpoint's outputs, and write them into a file", LIGHTNING, TRAIN),
    "export": Command("write a checkpoint's network for timm or transformers", LIGHTNING, TRAIN),
    "sweep": Command(
        "run a sweep file, here or on a cluster, with or without W&B", "lit_aux.cli.sweep", MANY
    ),
    "reproduce": Command("run an experiment of the paper, or a part of it", "lit_aux.cli.reproduce", MANY),
    "table": Command("means, paired differences and who wins", "lit_aux.cli.table"),
    "figures": Command("pictures of results, and of the theory", "lit_aux.cli.figures"),
    "report": Command("one HTML page of what runs left: tables, pictures, links", "lit_aux.cli.report"),
    "trajectories": Command("why multi-task training helped or hurt", "lit_aux.cli.trajectories"),
    "regime": Command("whether a network is lazy, nested or rich", "lit_aux.cli.regime"),
}
MORE_HELP = (
    "The options of a model or of data:\n"
    "lit-aux fit --model.help PretrainFinetuneModule, lit-aux fit --data.help DigitsDataModule."
)
_HELP = f"""\
usage: lit-aux COMMAND ...

Train a network on one task, on several at once, or by pretraining and finetuning; rescale its weights in
between; see which features were reused.

start here, a minute and nothing to download:
  lit-aux fit --config configs/quickstart.yaml

{{commands}}

Each command has its own --help. {MORE_HELP}

Read on in the project's folder: docs/tutorial.md, and docs/how-to/which-command.md for a question at hand.\
"""


def help_text() -> str:
    """Return what ``lit-aux --help`` prints: every command in one line, by what a person wants."""
    groups = dict.fromkeys(command.group for command in COMMANDS.values())
    lines = []
    for group in groups:
        lines += ["", f"{group}:"]
        lines += [f"  {name:14}{c.help}" for name, c in COMMANDS.items() if c.group == group]
    return _HELP.format(commands="\n".join(lines[1:]))


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
    if isinstance(words, list) and not words:
        print(help_text(), end="\n\n", flush=True)
        raise unknown_command("")
    if name in ("-h", "--help"):
        print(help_text())
        raise SystemExit(0)
    if isinstance(words, list) and not name.startswith("-"):
        command = COMMANDS.get(name)
        if command is None:
            raise unknown_command(name)
        computes = (command.group != LOOK or name == "regime") and not {"-h", "--help"} & {*words}
        if computes and "torch" not in sys.modules:
            _choose_threads()
        if command.module != LIGHTNING:
            code: int = import_module(command.module).run(words[1:])
            return code
    _say_at_once()
    import_module(LIGHTNING).run(args)
    return 0


def _say_at_once() -> None:
    """Tell a person who waits at a terminal what takes the first seconds."""
    if sys.stderr is not None and sys.stderr.isatty() and "LOCAL_RANK" not in os.environ:
        print("lit-aux: loading PyTorch and Lightning ...", file=sys.stderr, flush=True)


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
