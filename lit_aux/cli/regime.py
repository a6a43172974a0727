"""``lit-aux regime``: its options, what it prints and what it writes."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from lit_aux.cli.commands import dispatch
from lit_aux.cli.parser import Option, command_parser, parse
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.files import atomic_write
from lit_aux.outputs import check_folder, check_output, written_to
from lit_aux.results.sheet import show
from lit_aux.runs.job import CLUSTER
from lit_aux.storage import check_place

Fit = Callable[[list[str]], Any]
_OWN = {
    "--pretrained": "of a run: the checkpoint of pretraining, where it is not beside that of finetuning",
    "--trust": "of a run: import whatever its config.yaml names, as if its author's script were run",
    "--results": "a results table of lit-aux reproduce; its PT+FT rows are solved, or trained again",
    "--run": "of a table: the hash of one row, or how it begins",
    "--sampling": "of a table: published or independent, where its rows do not tell",
    "--factors": 'of a deep network: rescale factors, "[1, 0.5, 0.25, 0.125]" by default',
    "--seeds": 'of a deep network: as in "[0, 1]"; that of the configuration by default',
    "--cluster": f"of a deep network: {CLUSTER}",
    "--layer": "of a deep network: the layer to judge by; the last one before the readout by default",
    "--out": "folder of regime.json and regime.png; that of the run or table, or runs/regime",
}
_FLAGS = ("--trust", "--help", "-h")
_OF_MODE = {
    "run": {"--pretrained", "--trust", "--out"},
    "results": {"--results", "--run", "--sampling", "--out"},
    "config": {"--factors", "--seeds", "--layer", "--cluster", "--out"},
}
_OF_FIT = ("--config", "-c", "--seed_everything", "--trainer", "--model", "--data")
_USAGE = """lit-aux regime RUN [--pretrained FILE] [--trust] [--out DIR]
       lit-aux regime --results FILE [--run HASH] [--out DIR]
       lit-aux regime --config FILE [--factors LIST] [--seeds LIST] [--layer NAME] [--out DIR]
                      [--cluster ADDRESS] [options of lit-aux fit]"""
_TEXT = """\
Where is my network? Finetuning may leave pretrained features as they are (lazy), choose few of them (nested
feature selection) or ignore them (rich). This says where it is, and which factor on the pretrained weights
(--model.rescale) brings it into the nested regime.

RUN        A folder that lit-aux fit wrote for diagonal or ReLU students of pretraining and finetuning
           (runs/version_0), or a checkpoint in it. Each feature is placed by its penalty. The factor is a
           first-order suggestion: it takes what was learned as given. Of what its config.yaml names, classes
           of known packages and of the working folder are imported; all else only with --trust.
--results  The same for rows of a results table. They hold no weights: diagonal networks are solved exactly,
           ReLU networks train again, half a minute or more each (choose with --run).
--config   Fits a deep network once for each factor and measures its layers. Pretraining is shared. Started
           again, it goes on where it stopped. Checkpoints are kept only where asked for.

Nothing here looks at test data: what is said to be best is so on validation data."""


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux regime``; RUN and the options of ``lit-aux fit`` are not in it."""
    options = {name.removeprefix("--"): Option(text, str) for name, text in _OWN.items()}
    options["trust"] = Option(_OWN["--trust"], bool)
    return command_parser("regime", _TEXT, options, _USAGE)


def run(arguments: Sequence[str], fit: Fit = dispatch) -> int:
    """Carry out ``lit-aux regime``.

    Args:
        arguments: What follows ``regime``.
        fit: Carries out a ``lit-aux`` command line in this process, for deep networks.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        ConfigurationError: For what is unknown or impossible.
    """
    own, rest = _split(arguments)
    mode = _mode(own, rest)
    if "--out" in own:
        check_place("--out", own["--out"])
    for name in own:
        if name not in _OF_MODE[mode]:
            place = {"run": "a run's folder", "results": "--results", "config": "--config"}[mode]
            raise ConfigurationError(f"{name} {own[name]}: has no meaning with {place}")
    if mode == "config":
        return _sweep(own, rest, fit)
    if mode == "results":
        from lit_aux.regimes.results_rows import read_results

        path = Path(own["--results"])
        print(f"reading the PT+FT rows of {path} ...", flush=True)
        students, note = read_results(path, own.get("--run"), own.get("--sampling"))
        return _report_students(students, note, _out(own, path.parent))
    from lit_aux.identity.configuration import know_working_folder
    from lit_aux.regimes.run_folder import deep_layers, folder_of, read_run

    know_working_folder()
    layers = deep_layers(Path(rest[0]))
    if layers:
        return _report_layers(layers, Path(rest[0]))
    students, note = read_run(rest[0], own.get("--pretrained"), trust="--trust" in own)
    return _report_students(students, f"finetuning: {note}", _out(own, folder_of(Path(rest[0]))))


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return this command's own options, and what is left."""
    own: list[str] = []
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, sign, _ = word.partition("=")
        if name not in (*_OWN, "--help", "-h"):
            rest.append(word)
        elif sign or name in _FLAGS or not words:
            own.append(word)
        else:  # also one that begins with a hyphen
            own.append(f"{name}={words.pop(0)}")
    missing = {name: f"it is {text}" for name, text in _OWN.items()}
    given = {f"--{name}": value for name, value in parse(parser(), own, missing=missing).items()}
    given = {n: "" if value is True else value for n, value in given.items() if value not in (None, False)}
    for name, value in given.items():
        if not value.strip() and name not in _FLAGS and name != "--out":  # which says itself what it must be
            raise ConfigurationError(f"{name}: {value!r} is nothing; it is {_OWN[name]}")
    return given, rest


def _mode(own: Mapping[str, str], rest: Sequence[str]) -> str:
    """Return what is asked for, refusing words that belong to nothing."""
    options = [word.partition("=")[0] for word in rest if word.startswith("-") and not _is_number(word)]
    for name in options:
        if name not in _OF_FIT and name.partition(".")[0] not in _OF_FIT:
            raise unknown_name("regime", name, [*_OWN, "--config", "--model.", "--data.", "--trainer."])
    if "--results" in own:
        if rest:
            raise ConfigurationError(f"{rest[0]!r}: has no meaning with --results")
        return "results"
    if "--config" in options or "-c" in options:
        if not rest[0].startswith("-"):
            raise ConfigurationError(f"{rest[0]!r}: a run's folder and --config are two questions; give one")
        return "config"
    if options:
        raise ConfigurationError(f"{options[0]}: goes with --config FILE, which is not given")
    if len(rest) != 1:
        what = "nothing is given" if not rest else f"{' '.join(rest)} is more than one"
        raise ConfigurationError(f"RUN: {what}; give a run's folder, --results TABLE or --config FILE")
    return "run"


def _is_number(word: str) -> bool:
    with suppress(ValueError):
        float(word)
        return True
    return False


def _out(own: Mapping[str, str], default: Path) -> Path:
    """Return the folder for what is found, refusing what cannot be one."""
    folder = check_folder("--out", own.get("--out", default))
    _files(folder)
    check_output("--out", folder / "regime.csv", kind="table of regimes")
    return folder


def _files(out: Path) -> dict[str, Path]:
    """Return where picture and numbers go, refusing to write over files of other kinds."""
    return {
        "picture": check_output("--out", out / "regime.png", kind="picture"),
        "numbers": check_output("--out", out / "regime.json", kind="file of regimes"),
    }


def _value(own: Mapping[str, str], name: str) -> Any:
    """Return an option as YAML reads it."""
    if name not in own:
        return None
    try:
        return yaml.safe_load(own[name])
    except yaml.YAMLError:
        raise ConfigurationError(f'{name} {own[name]}: is no list; write it as "[1, 2]"') from None


def _sweep(own: Mapping[str, str], words: Sequence[str], fit: Fit) -> int:
    """Fit a deep network at every factor."""
    from lit_aux.figures import draw_factors
    from lit_aux.regimes.sweep import Sweep
    from lit_aux.regimes.sweep_options import check_layer, factors_of, resolved, seeds_of
    from lit_aux.regimes.sweep_report import report_sweep
    from lit_aux.runs.engines import workers_of

    factors = factors_of(_value(own, "--factors"))
    out = _out(own, Path("runs/regime"))
    cluster = own.get("--cluster")
    if cluster is not None:  # whose workers have working folders of their own
        out = out.resolve()
    config = resolved(words, fit)
    sweep = Sweep(config, factors, seeds_of(_value(own, "--seeds"), config), out)
    if "--layer" in own:
        check_layer(own["--layer"], config)
    try:
        engine = None if cluster is None else workers_of(cluster)
        fits = sweep.run(fit, lambda text: print(text, flush=True), engine)
    except (KeyboardInterrupt, SystemExit):  # within a fit, Lightning makes the latter of the former
        print("stopped; the same command goes on with the factors that are left", flush=True)
        return 130
    report_sweep(fits, out, own.get("--layer"), words, draw_factors)
    return 0


def _report_layers(layers: Sequence[Any], run: Path) -> int:
    """Print what a run of a deep network says of its layers."""
    from lit_aux.reporting import layer_table

    show([layer_table(layers)])
    print(
        f"{run}: a deep network, judged by its own measures; which factor would make it nested says\n"
        "lit-aux regime --config FILE --factors LIST"
    )
    return 0


def _report_students(students: Sequence[Any], note: str, out: Path) -> int:
    """Print where students are, draw it, and write both."""
    from lit_aux.figures import draw_students_map, save
    from lit_aux.figures.student_map import MOST
    from lit_aux.regimes.student_summary import groups_of, regime_table, remarks, summarize
    from lit_aux.reporting import finite

    members = groups_of(students)
    groups = [summarize(some) for some in members]
    show([regime_table(groups, students[0].penalty)])
    lines = [note, *remarks(groups, students[0].penalty)]
    if len(groups) > MOST:
        lines.append(f"the picture shows the first {MOST} of {len(groups)} cells")
    print("\n".join(lines))
    content = {"penalty": students[0].penalty, "note": note, "cells": [group.asdict() for group in groups]}
    files = _files(out)
    with written_to(out):
        save(draw_students_map(members, groups), files["picture"])
        atomic_write(files["numbers"], json.dumps(finite(content), indent=2) + "\n")
    for what, path in files.items():
        print(f"{what}: {path}")
    return 0
