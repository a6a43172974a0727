"""Which option an error belongs to: found by what was being built, and where that is configured."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from traceback import walk_tb
from typing import Any

from jsonargparse import Namespace

from lit_aux.callbacks._options import name_of
from lit_aux.cli.words import as_typed, option_of
from lit_aux.errors import ConfigurationError, NonFiniteLossError, one_line
from lit_aux.identity.modules import imported
from lit_aux.storage import StorageError

_GENERAL = ("accelerator", "callbacks", "logger", "strategy", "plugins", "precision")
"""Options of the Trainer that Lightning names in what it says about others."""
_SCALARS = (bool, int, float, str)
_SUBJECT = re.compile(r"(?:trainer\.)?([A-Za-z_][\w.]*)(?=:? )")
"""How messages begin: with the name of an argument."""
_ALIASES = {"factor": "rescale", "preset": "rescale_preset"}
"""What a callback calls its argument where the module that builds it has another name for the option."""
Path = tuple[str, ...]


class BuildError(ConfigurationError):
    """A class refuses its arguments.

    Attributes:
        kind: The class.
        arguments: What it was given.
    """

    def __init__(self, message: str, kind: type, arguments: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.kind, self.arguments = kind, arguments


def noting(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return an instantiator of jsonargparse's that notes what was being built when an error arose.

    Whatever a class raises is about what it was given: strangers' classes say so in errors of any type.

    Args:
        build: What builds: a function of the class and its arguments.
    """

    @wraps(build)
    def noted(kind: type, /, *args: Any, **kwargs: Any) -> Any:
        try:
            if f"{kind.__module__}.{kind.__qualname__}" == "torch.nn.modules.module.Module":
                raise ConfigurationError("{} names no class; give a class_path, or leave it out")
            return build(kind, *args, **kwargs)
        except (BuildError, StorageError, NonFiniteLossError, NameError):
            raise
        except ConfigurationError as error:
            raise BuildError(str(error), kind, kwargs) from error
        except Exception as error:
            text = one_line(error)
            if not any(_quotes(text, value) for value in kwargs.values()):
                given = {k: v for k, v in kwargs.items() if isinstance(v, _SCALARS)}
                text += f"; given {', '.join(f'{k} {v!r}' for k, v in given.items())}" if given else ""
            raise BuildError(f"it cannot be built ({text})", kind, kwargs) from error

    return noted


def build_plainly(kind: type, /, *args: Any, **kwargs: Any) -> Any:
    """Build an object."""
    return kind(*args, **kwargs)


def located(error: ConfigurationError, config: Any, words: Sequence[str] = ()) -> str:
    """Return an error's message with the full name of its option, and the value as it was typed.

    Args:
        error: Its message begins with the name of an argument, or with an option.
        config: The parsed options; None where there are none.
        words: The command line.
    """
    message = str(error)
    if config is not None and not message.startswith("--"):
        found = _owned(error, message, config) if isinstance(error, BuildError) else None
        message = found or _by_name(message, config)
    return as_typed(message, words)


def of_trainer(error: BaseException, options: Mapping[str, Any]) -> str | None:
    """Return what Lightning says of an option of the Trainer, under its full name; None where it names none.

    Args:
        error: What Lightning raised.
        options: The Trainer's options and their values.
    """
    text = " ".join(str(error).split())
    named = [name for name in options if re.search(rf"(?<![\w.]){name}(?!\w)", text)]
    named.sort(key=lambda name: (f"`{name}`" not in text and f"{name}=" not in text, name in _GENERAL))
    quoted = [n for n, v in options.items() if _quotes(text, v)]
    chosen = next((name for name in named if name in quoted), None) or next(iter([*named, *quoted]), None)
    return None if chosen is None else f"--trainer.{chosen}: {options[chosen]!r}: {text}"


def of_callback(error: BaseException) -> Any:
    """Return the callback of Lightning's in whose own lines an error arose; None where it was elsewhere."""
    owners = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
    home = "lightning.pytorch.callbacks."
    return next((owner for owner in reversed(owners) if type(owner).__module__.startswith(home)), None)


def raised_by_lightning(error: BaseException) -> bool:
    """Say whether the line that raised an error is one of Lightning's."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    return bool(names) and names[-1].partition(".")[0] == "lightning"


def _owned(error: BuildError, message: str, config: Any) -> str | None:
    """Name the option by the place of what was being built."""
    subject = _SUBJECT.match(message)
    found = [(p, node) for p, node in _nodes(config) if _is(node, error.kind, error.arguments)]
    if not found:
        return None
    found.sort(key=lambda one: -len(_options(one[1])))  # what has fewer options may be another of its kind
    keys = subject[1].split(".") if subject else []
    known = bool(keys) and keys[0] in error.arguments
    # several may be alike but for what is built within them
    quoting = [p for p, node in found if known and _quoted_within(_options(node).get(keys[0]), keys, message)]
    place = (quoting or [path for path, _ in found])[0]
    if subject and known:
        return f"{option_of((*place, *keys))}{message[subject.end() :]}"
    said = message.partition("; given")[0]  # behind it stands every option
    quoted = [n for n, v in error.arguments.items() if _quotes(said, v)]
    named = [n for n in error.arguments if re.search(rf"(?<![\w.]){n.removesuffix('s')}s?(?!\w)", said)]
    quoted.sort(key=lambda name: _place(error.arguments[name], message))
    if len(named) == 1:  # other numbers in what is said may be of anything
        quoted = named
    path = (*place, quoted[0]) if quoted else place
    if not error.arguments:
        return f"{option_of(path)}: {message}"
    behind = message[subject.end() :] if subject else ""
    rest = behind[1:].strip() if behind.startswith(":") else message
    return f"{option_of(path)}: {error.kind.__name__}: {rest}"


def _is(node: Mapping[str, Any], kind: type, arguments: Mapping[str, Any]) -> bool:
    """Say whether a node of the configuration is what was being built."""
    if "class_path" in node:
        if imported(node["class_path"]) is not kind:
            return False
    elif not {*node} or not {*node} <= {*arguments}:
        return False
    options = _options(node)
    return all(
        _same(options[k], v) if isinstance(v, _SCALARS) else (v is None) == (options[k] is None)
        for k, v in arguments.items()
        if k in options
    )


def _options(node: Any) -> Mapping[str, Any]:
    """Return the options of a node: those of its class, or its own."""
    node = vars(node) if isinstance(node, Namespace) else node
    if isinstance(node, Mapping) and "class_path" in node:
        inner = node.get("init_args")
        return vars(inner) if isinstance(inner, Namespace) else inner or {}
    return node if isinstance(node, Mapping) else {}


def _quoted_within(value: Any, keys: Sequence[str], message: str) -> bool:
    """Say whether a message quotes an option of a value, the one that it names where it does."""
    wanted = [v for k, v in _options(value).items() if len(keys) == 1 or k == keys[1]]
    return any(_quotes(message, one) for one in (wanted or [value]))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)


def _nodes(config: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield every mapping of a configuration with its path; those of a list have the list's."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        yield path, config
        for key, value in config.items():
            yield from _nodes(value, (*path, str(key)))
    elif isinstance(config, list):
        for value in config:
            yield from _nodes(value, path)


def _by_name(message: str, config: Any) -> str:
    """Give an option that is told by its own name alone its full one, where exactly one has that value."""
    if told := re.match(r"([A-Z]\w*): (\w+): ", message):  # of a class, which says its name
        for path, node in _nodes(config):
            if str(node.get("class_path", "")).endswith(f".{told[1]}") and told[2] in _options(node):
                return f"{option_of((*path, told[2]))}: {message[told.end() :]}"
    subject = _SUBJECT.match(message)
    if subject is None:
        return message
    nodes, name = list(_nodes(config)), subject[1]
    if not any(name in node for _, node in nodes):
        name = _ALIASES.get(name, name)
    found = [((*path, name), node[name]) for path, node in nodes if name in node]
    places = [_place(value, message) for _, value in found]
    first = min(places, default=len(message))
    paths = [p for (p, _), place in zip(found, places, strict=True) if len(found) == 1 or place == first]
    if len({option_of(path) for path in paths}) != 1:
        return message
    return f"{option_of(paths[0])}{message[subject.end() :]}"


def _quotes(message: str, value: Any) -> bool:
    scalar = isinstance(value, _SCALARS) and not isinstance(value, bool)
    return scalar and _place(value, message) < len(message)


def _place(value: Any, message: str) -> int:
    """Return where a message quotes a value, or the first of several, its length if it does not."""
    if isinstance(value, list):
        whole = message.find(str(value)) if value else -1
        return whole if whole >= 0 else min((_place(one, message) for one in value), default=len(message))
    text = "''" if value == "" else name_of(value) if callable(value) else str(value)
    beginning = f"{text[:40]}'..." if len(text) > 40 else text  # as a name that is too long is quoted
    quoted = re.search(rf"(?<![\w.])(?:{re.escape(text)}|{re.escape(beginning)})(?![\w])", message)
    return len(message) if value is None or quoted is None else quoted.start()
