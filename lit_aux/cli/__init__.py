"""The command line: ``lit-aux fit | validate | test | predict | export`` and the project's own commands."""

import errno
import os
import sys
from argparse import ArgumentError
from typing import TYPE_CHECKING, Any

from lit_aux.cli.commands import dispatch
from lit_aux.cli.words import as_typed, with_values
from lit_aux.errors import ClusterError, ConfigurationError, NonFiniteLossError, RankError, causes, printable
from lit_aux.lazy import lazy
from lit_aux.storage import TOO_LONG, StorageError, is_too_long, storage_trouble

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType

    from lit_aux.cli.lightning_cli import AuxiliaryCLI

__all__ = ["AuxiliaryCLI", "main"]
__getattr__, __dir__ = lazy(__name__, {"AuxiliaryCLI": "lightning_cli"})  # Lightning: many do without


def main(args: "ArgsType" = None) -> int:
    """Run the command line.

    Args:
        args: Arguments in place of ``sys.argv``.

    Returns:
        The exit code, 0 when all went well, 1 when training failed, one of its processes died or a disk is
        full, 2 for a wrong option, 130 when Ctrl-C ended ``reproduce``, ``sweep`` or ``regime``, 141 when
        nobody read the output.
    """
    if args is None:  # also for further processes of a run, which Lightning starts with the same words
        sys.argv[1:] = with_values(sys.argv[1:], _with_home)
    elif isinstance(args, list):
        args = with_values(args, _with_home)
    if os.environ.get("LIT_AUX_DEBUG"):
        return dispatch(args)
    try:
        return dispatch(args)
    except BrokenPipeError:  # whoever read the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
        return 141
    except Exception as error:
        words = sys.argv[1:] if args is None else args
        known = _known_cause(error) or storage_trouble(error, os.curdir) or _of_name(error, words)
        if known is None:
            raise
        from lit_aux.cli.messages import parsing_message

        message = str(known)
        if isinstance(known, ArgumentError):
            message = parsing_message(message)
        if isinstance(known, ArgumentError | ConfigurationError):
            message = as_typed(message, words)
        print(f"lit-aux: error: {printable(' '.join(message.split()))}", file=sys.stderr)
        return 1 if isinstance(known, NonFiniteLossError | StorageError | RankError | ClusterError) else 2


def _with_home(_: str, value: str) -> str:
    """Write ``~/`` at the beginning of a value as the home folder, as a shell does where it stands alone."""
    return os.path.expanduser(value) if value.startswith("~/") else value


def _known_cause(error: BaseException) -> BaseException | None:
    """Find the error that was meant for people among those that it led to."""
    known = [StorageError, ConfigurationError, NonFiniteLossError, RankError, ClusterError, ArgumentError]
    if lightning := sys.modules.get("lightning.fabric.utilities.exceptions"):  # else it raised nothing
        known.insert(4, lightning.MisconfigurationException)
    return next((e for kind in known for e in causes(error) if isinstance(e, kind)), None)


def _of_name(error: BaseException, words: Any) -> ConfigurationError | None:
    """Return the error for a name that no file can have, under the option that gave it; None for others."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        what = TOO_LONG
    elif isinstance(error, ValueError) and "null byte" in str(error):
        what = "has a null character, as no name of a file has"
    else:
        return None
    option = ""
    for word in words if isinstance(words, list) else ():
        name, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
        option = name or option
        if "\0" in value or is_too_long(value):
            return ConfigurationError(f"{option or 'the argument'}: {value[:40]!r}... {what}")
        option = "" if sign or not name else option
    return None
