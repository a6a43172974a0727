"""The command line: ``lit-aux fit | validate | test | predict | export`` and the project's own commands."""

import errno
import os
import sys
from argparse import ArgumentError
from typing import TYPE_CHECKING, Any

from lit_aux.errors import ConfigurationError, NonFiniteLossError, RankError, printable
from lit_aux.storage import TOO_LONG, StorageError, is_too_long, storage_trouble

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType

    from lit_aux.auxiliary_cli import AuxiliaryCLI

__all__ = ["AuxiliaryCLI", "main"]


def __getattr__(name: str) -> Any:
    """Import what needs Lightning when it is asked for: many commands do without."""
    if name == "AuxiliaryCLI":
        from lit_aux.auxiliary_cli import AuxiliaryCLI

        return AuxiliaryCLI
    raise AttributeError(f"module 'lit_aux.cli' has no attribute {name!r}")


def main(args: "ArgsType" = None) -> int:
    """Run the command line.

    Args:
        args: Arguments in place of ``sys.argv``.

    Returns:
        The exit code: 0 when all went well, 1 when training failed, one of its processes died or a disk is
        full, 2 for a wrong option, 130 when Ctrl-C ended ``reproduce``, ``sweep`` or ``regime``, 141 when
        nobody read the output.
    """
    if args is None:  # also for further processes of a run, which Lightning starts with the same words
        sys.argv[1:] = _with_home(sys.argv[1:])
    elif isinstance(args, list):
        args = _with_home(args)
    if os.environ.get("LIT_AUX_DEBUG"):
        return _dispatch(args)
    try:
        return _dispatch(args)
    except BrokenPipeError:  # whoever read the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
        return 141
    except Exception as error:
        words = sys.argv[1:] if args is None else args
        known = _known_cause(error) or storage_trouble(error, os.curdir) or _of_name(error, words)
        if known is None:
            raise
        message = str(known)
        if isinstance(known, ArgumentError):
            from lit_aux._messages import parsing_message

            message = parsing_message(message)
        if isinstance(known, ArgumentError | ConfigurationError):
            from lit_aux._typed_values import as_typed

            message = as_typed(message, words)
        print(f"lit-aux: error: {printable(' '.join(message.split()))}", file=sys.stderr)
        return 1 if isinstance(known, NonFiniteLossError | StorageError | RankError) else 2


def _with_home(words: list[str]) -> list[str]:
    """Write ``~/`` at the beginning of a value as the home folder, as a shell does where it stands alone."""
    written = []
    for word in words:
        option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
        written.append(option + sign + os.path.expanduser(value) if value.startswith("~/") else word)
    return written


def _known_cause(error: BaseException | None) -> BaseException | None:
    """Find the error that was meant for people among those that it led to."""
    known = [StorageError, ConfigurationError, NonFiniteLossError, RankError, ArgumentError]
    if lightning := sys.modules.get("lightning.fabric.utilities.exceptions"):  # else it raised nothing
        known.insert(4, lightning.MisconfigurationException)
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return next((e for kind in known for e in chain if isinstance(e, kind)), None)


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


def _dispatch(args: "ArgsType") -> int:
    """Give commands that configure no model or data to their own packages, the rest to Lightning."""
    words = sys.argv[1:] if args is None else args
    own = words if isinstance(words, list) else []
    name = own[0] if own else ""
    if name == "reproduce":
        from lit_aux.experiments.command import run as reproduce

        return reproduce(own[1:], fit=_run)
    if name == "regime":
        from lit_aux.regimes.command import run as regime

        return regime(own[1:], fit=_run)
    if name == "sweep":
        from lit_aux.sweeps.command import run as sweep

        return sweep(own[1:], lit_aux=main, check=_check_fit)
    if name == "table":
        from lit_aux.tables.command import run as table

        return table(own[1:])
    if name == "figures":
        from lit_aux.figures.command import run as figures

        return figures(own[1:])
    if name == "trajectories":
        from lit_aux.trajectories.command import run as trajectories

        return trajectories(own[1:])
    _run(args)
    return 0


def _check_fit(options: list[str]) -> None:
    """Parse the options of ``fit``, saying in one line what is wrong with them."""
    from lit_aux._messages import parsing_message
    from lit_aux.auxiliary_cli import parse

    try:
        parse(["fit", *options])
    except ArgumentError as error:
        raise ConfigurationError(parsing_message(str(error))) from error


def _run(args: "ArgsType") -> None:
    from lit_aux.auxiliary_cli import run

    run(args)


if __name__ == "__main__":
    sys.exit(main())
