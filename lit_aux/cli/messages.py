"""What the command line says about a wrong option: one line, with the option as the user wrote it."""

import ast
import re
import traceback
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from lit_aux.cli.commands import unknown_command
from lit_aux.cli.words import option_of
from lit_aux.identity.modules import imported
from lit_aux.identity.objects import parameters_of

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|unrecognized arguments: --(\S+)")
_NO_CLASS = re.compile(
    r"(?:module '[^']+' has no attribute '[^']+'|No module named '[^']+'|^Import path \S+ does not)"
)
_REQUIRED = re.compile(r"the following arguments are required: (\S+)")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: ?(.*))?$")
_GIVEN = re.compile(r"Given value: ?(.*)$")
_CALLABLE = re.compile(r"\. Got value: Namespace\(class_path='([^']+)'")
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_EXAMPLES = {
    "model": "lit_aux.modules.SingleTaskModule",
    "data": "lit_aux.data.DigitsDataModule",
    "optimizer": "torch.optim.SGD",
    "lr_scheduler": "torch.optim.lr_scheduler.StepLR",
    "callbacks": "lit_aux.callbacks.WeightRescaling",
}
_NOTHING = ("NoneType", "dot import path", "path but")


def parsing_message(error: str) -> str:
    """Make one readable line of what jsonargparse says.

    Args:
        error: Its message, of many lines where types are nested.
    """
    if match := re.match(r"unrecognized arguments: (.+)", error):
        return _unrecognized(match[1])
    if match := re.match(r"Subcommand '\S+' does not accept option '([^']+)'", error):
        return _unrecognized(f"--{match[1]}")
    if match := re.match(r"the following arguments are required: (?:\w+\.)?(\S+)", error):
        option = f"--{match[1]}"
        return f"{option}: nothing is given; name a configuration (--config FILE) or a class ({option} CLASS)"
    if error.startswith("Problems parsing config"):
        reason = " ".join(error.partition(":")[2].split()).replace('in "<unicode string>", ', "at ")
        return f"--config: what is given is not valid YAML ({reason})"
    if match := re.match(r'Parser key "config": (.+)', error):
        return f"--config: {match[1][0].lower()}{match[1][1:]}"
    if match := re.match(r"argument subcommand: invalid choice: '?([^\s']+)", error):
        return str(unknown_command(match[1]))
    if error.startswith('expected "subcommand" to be one of'):
        return str(unknown_command(""))
    return _nested(error) or error


def _nested(error: str) -> str | None:
    """Find in the tree of reasons the first that is not merely one member of a union, with its option."""
    stack: list[tuple[int, str]] = []
    owner: str | None = None
    expected: list[str] = []
    lines = error.splitlines()
    implied: tuple[int, str] | None = None
    for number, line in enumerate(lines):
        text = line.strip().removeprefix("- ")
        if not text:
            continue
        depth = len(line) - len(line.lstrip())
        while stack and stack[-1][0] >= depth and not line.lstrip().startswith("- Does not validate"):
            stack.pop()
        path = [key for _, key in stack]
        if implied and depth > implied[0]:
            continue
        implied = None
        if match := _CLASS.search(text):
            owner = match[1]
            if _is_implied(owner, depth, lines[number:]):
                implied = (depth, owner)
        elif match := _UNKNOWN.search(text):
            name, _, value = (match[1] or match[2]).partition("=")
            if name == "class_path" and (said := _of_class_entry(path, _given(lines[number:]))):
                return said
            if callable_class := _CALLABLE.search(text):
                owner = callable_class[1]
            if name in options_of(owner):  # as it is for one that is given as nothing
                return f"{option_of([*path, name])}: {value!r} is nothing that {_last(owner)} takes there"
            return _unknown_option(path, name, owner)
        elif _NO_CLASS.search(text):
            if callable_class := _CALLABLE.search(text):
                owner = callable_class[1]
            return _no_class(path, owner or _given(lines[number:]), text)
        elif match := _REQUIRED.search(text):
            return f"{option_of([*path, match[1]])}: {_last(owner)} needs it, and nothing is given"
        if match := _KEY.search(text):
            stack.append((depth, match[1]))
            expected, owner = [], None
            text, path = text[match.end() :].strip(), [key for _, key in stack]
        if match := _EXPECTED.search(text):
            expected.append(match[1])
            if match[2] is not None:
                return _wrong_type(path, expected, match[2])
        elif (match := _GIVEN.match(text)) and expected:
            return _wrong_type(path, expected, match[1])
    return None


def _given(lines: list[str]) -> str:
    """Return the value that the first of some lines tells."""
    return next((match[1] for line in lines if (match := _GIVEN.match(line.strip()))), "")


def _is_implied(class_path: str, depth: int, lines: list[str]) -> bool:
    """Return whether nobody has named a class: it is tried for a mapping, beside others that were named.

    Args:
        class_path: The class.
        depth: How far its line is indented.
        lines: What is said from its line on.
    """
    beside = False
    for line in lines[1:]:
        indent = len(line) - len(line.lstrip())
        if indent == depth and _CLASS.search(line):
            beside = True
        if indent < depth and (match := _GIVEN.match(line.strip())):
            return beside and class_path not in match[1]
    return False


def _last(class_path: str | None) -> str:
    return (class_path or "the class").rpartition(".")[2]


def _unknown_option(path: list[str], name: str, owner: str | None) -> str:
    option = option_of([*path, name])
    if _last(owner) in ("LightningModule", "LightningDataModule"):
        return f"{option}: no class is chosen yet; put --config FILE or {option_of(path)} CLASS before it"
    return f"{option}: unknown option of {_last(owner)}{_hint(name, options_of(owner))}"


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _no_class(path: list[str], class_path: str, text: str) -> str:
    if text.startswith("Import path"):
        words = text.split()
        return f"{option_of(path)}: {words[2]} is not a {words[-1]}"
    attribute = re.search(r"module '([^']+)' has no attribute '([^']+)'", text)
    class_path = ".".join(attribute.groups()) if attribute else class_path
    module, _, name = class_path.rpartition(".")
    try:
        known = [n for n, value in vars(import_module(module)).items() if isinstance(value, type)]
    except Exception as error:
        if said := _of_import(module, error):
            return f"{option_of(path)}: {class_path}: {said}"
        known = []
    if said := _of_class_entry(path, class_path):
        return said
    return f"{option_of(path)}: no class {class_path!r}{_hint(name, known)}"


def _wrong_type(path: list[str], expected: list[str], given: str) -> str:
    """Say what a value should have been."""
    given = given.removesuffix(".").partition(". Got value: Namespace")[0]
    if nested := re.fullmatch(r"NestedArg\(key='(\w+)', val=(['\"])(.*)\2\)", given):
        return f"{option_of([*path, nested[1]])}: {nested[3]!r} is nothing that it takes"
    if said := _of_class_entry(path, given) or _of_list_entry(path, given):
        return said
    choices: list[str] = []
    kinds: list[str] = []
    for kind in expected:
        if kind.startswith("typing.Literal["):
            choices += [c.strip().strip("'\"") for c in kind[len("typing.Literal[") : -1].split(",")]
        elif "import path or a subclass spec" in kind:
            kinds.append("a function or class, named with its module")
        elif not any(word in kind for word in _NOTHING):
            plain = re.sub(r"<class '(?:.*\.)?([^'.]+)'>", r"\1", kind)
            kinds.append(_TYPES.get(plain, f"a {plain}".lower()))
    if choices:
        return f"{option_of(path)}: {given!r} is not one of {', '.join(choices)}"
    if "a number" in kinds:  # a learning rate, which torch takes as a tensor too
        kinds = [kind for kind in kinds if kind != "a list of numbers"]
    if kinds:
        return f"{option_of(path)}: {given!r} is not {' or '.join(dict.fromkeys(kinds))}"
    return f"{option_of(path)}: no class {given!r}; name one with its module, as in {_example(path)}"


def _example(path: list[str]) -> str:
    return next((_EXAMPLES[key] for key in reversed(path) if key in _EXAMPLES), "torch.nn.Linear")


def _of_class_entry(path: list[str], given: str) -> str | None:
    """Say what is wrong with an entry that should choose a class, by its keys; None for anything else."""
    entry = _literal(given)
    if not isinstance(entry, dict) or "class_path" not in entry:
        return None
    option, name = option_of(path), entry["class_path"]
    for key in entry:
        if key not in ("class_path", "init_args", "dict_kwargs"):
            return f"{option}: {key!r} stands beside class_path; it belongs beneath init_args"
    inner = entry.get("init_args", {})
    if not isinstance(inner, dict):
        return f"{option}: init_args: {inner!r} is no mapping of options and their values"
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        return f"{option}: class_path: {name!r} names no class"
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module), last, None) if module else None
    except Exception as error:
        if said := _of_import(module, error):
            return f"{option}: {name}: {said}"
        found = None
    if not isinstance(found, type):
        return f"{option}: no class {name!r}"
    example = _example(path)
    return f"{option}: {name} is none that is asked for here; name one as {example}" if path else None


def _literal(given: str) -> Any:
    """Return a value that a message quotes as Python writes it; None where that is no literal."""
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(given)


def _of_list_entry(path: list[str], given: str) -> str | None:
    """Say which entry of a list of callbacks within a list (of phases) chooses no class."""
    entries = _literal(given)
    for entry in entries if isinstance(entries, list) else ():
        inner = entry.get("callbacks") if isinstance(entry, dict) else None
        for one in inner if isinstance(inner, list) else ():
            if not isinstance(one, dict | str):
                option = option_of([*path, "callbacks"])
                return f"{option}: {one!r} names no class; name one as {_example([*path, 'callbacks'])}"
    return None


def _of_import(module: str, error: Exception) -> str | None:
    """Say in which line of which file a module of the user's fails; None where there is no such module."""
    missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
    if missing or (isinstance(error, ValueError) and not module.strip(".")):
        return None
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        own = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        if len(own) < 2:  # this file's own line is the first
            return None
        place = f"{own[-1].filename}, line {own[-1].lineno}"
    text = " ".join(str(getattr(error, "msg", None) or error).split())
    return f"its module cannot be imported ({place}: {type(error).__name__}: {text})"


def options_of(class_path: str | None) -> list[str]:
    """Return the arguments of a class, those of its bases included where it passes them on."""
    found = imported(class_path)
    return parameters_of(found) if isinstance(found, type) else []


def _unrecognized(words: str) -> str:
    """Explain an argument that no option takes."""
    name, _, _ = words.split()[0].partition("=")
    if not name.startswith("-"):
        return f"{name!r} belongs to no option"
    roots = ["config", "model", "data", "trainer", "ckpt_path", "seed_everything", "open"]
    head, _, tail = name.lstrip("-").partition(".")
    if head == "trainer" and tail:
        hint = _hint(tail, options_of("lit_aux.phases.PhaseTrainer"))
        return f"{name}: unknown option of the Trainer{hint}"
    if near := get_close_matches(head, roots, n=1):
        return f"{name}: unknown option; did you mean '--{near[0]}{'.' if tail else ''}{tail}'?"
    return f"{name}: unknown option; options begin with --config, --model, --data or --trainer"
