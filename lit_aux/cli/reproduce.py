"""``lit-aux reproduce``: its options, and a call of the runner."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_aux.cli.commands import dispatch
from lit_aux.cli.parser import Option, command_parser, parse, spelling, split_at_dashes
from lit_aux.cli.report import LIVE, named
from lit_aux.errors import ConfigurationError
from lit_aux.experiments.grids import ALL, EXPERIMENTS, KERNELS, PROBES, TRAINED, Experiment
from lit_aux.experiments.options import DType, Options
from lit_aux.experiments.reproduction import SliceError, reproduce
from lit_aux.runs.job import CLUSTER
from lit_aux.storage import check_place
from lit_aux.teachers import Sampling

_LISTS = {
    "setups": f'which setups, as in "[STL, PT+FT]", of {", ".join((*TRAINED, *PROBES, *KERNELS))}',
    "seeds": 'which seeds, as in "[0, 1]"',
    "n_main": 'rows or images of the main task, as in "[16, 64]"',
    "overlap": f"shared entries of diagonal teachers; {ALL!r} for as many as there are",
    "k_main": "non-zero entries, or units, of the main teacher",
    "correlation": "of main with auxiliary units: a number for all, or one for each as in 1|1|0",
    "magnitude": "factor on the outputs of the ReLU main teacher",
    "rescale": "factor on the pretrained weights",
}
_TYPED: dict[str, Option] = {
    "integrator": Option(
        "gradient_flow, gradient_descent, exact (solved, diagonal) or a class of torch.optim",
        str,
        "gradient_flow",
    ),
    "pretrain_integrator": Option(
        "the same of pretraining; null: gradient_descent for published ReLU draws, else as --integrator",
        str | None,
    ),
    "tolerance": Option("error per step of gradient flow, relative to the weights", float, 1e-2),
    "sampling": Option("draw as the paper's code did, or each seed by itself", Sampling, "published"),
    "output_scale": Option(
        'size of teachers: sqrt (1/sqrt(units)), units (1/units), or as in "{main: units, pretrain: sqrt}"; '
        "what is left out is as published",
        Any,
    ),
    "dtype": Option("precision; null chooses by experiment and integrator", DType | None),
    "device": Option("cpu, cuda, cuda:1, ...", str, "auto"),
    "max_steps": Option("most steps of every phase, in place of the published ones", int | None),
    "max_evaluations": Option("most gradients that flow takes for a run", int, 20_000),
    "stride": Option("steps, or epochs of mini-batches, from one look at the test loss to the next", int, 50),
    "patience": Option(
        "epochs after which descent of ReLU networks gives up on a smaller test loss; null for never",
        int | None,
        5000,
    ),
    "replicas_per_slice": Option("most runs that train as one batch; null chooses", int | None),
    "jobs": Option("processes that train slices at a time; null: two on a CPU, one on a GPU", int | None),
    "store": Option("folder of pretrained networks; null for 'phases' beside the table", Path | None),
}
_PLACES: dict[str, Option] = {
    "out": Option("the table; runs/EXPERIMENT/results.csv by default", str),
    "cluster": Option(CLUSTER),
    "live": Option(LIVE, bool),
    "configs": Option("folder of the image configurations", Path | None),
}
_FOR_IMAGES = ("device", "max_steps", "store", "jobs")
_EPILOGUE = "For images, options after '--' go to lit-aux fit: -- --data.root DIR"


def _line(found: Experiment) -> str:
    takes = found.takes(found.size)
    return f"  {found.name:18} {found.about} ({', '.join(found.axes)}){takes and f'; {takes}'}"


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux reproduce``."""
    names = "\n".join(map(_line, EXPERIMENTS.values()))
    text = (
        "Run an experiment of the paper; every run becomes a row of a results table. Started again, it goes "
        f"on where it stopped.\n\nexperiments (axes beside seed and n_main):\n{names}\n\n"
        f"Without options, the published grid. Each list may be a single value.\n{_EPILOGUE}"
    )
    lists = {name: Option(text, Any) for name, text in _LISTS.items()}
    made = command_parser("reproduce", text, {**lists, **_TYPED, **_PLACES})
    made.add_argument("experiment", type=str, help="one of those above")
    return made


def run(arguments: Sequence[str], fit: Callable[[list[str]], Any] = dispatch) -> int:
    """Carry out ``lit-aux reproduce``.

    Args:
        arguments: What follows ``reproduce``.
        fit: Carries out a ``lit-aux`` command line in this process, for image experiments.

    Returns:
        The exit code: 0, 1 where runs have no row because their process failed, 130 after Ctrl-C.

    Raises:
        ConfigurationError: For what is unknown or impossible.
    """
    own, rest = split_at_dashes(arguments)
    given = _parse(own).as_dict()
    for option in ("store", "configs"):
        if given[option] is not None and f"--{option}=" in own:
            raise ConfigurationError(f"--{option}: '' names no folder; leave it out")
    name = given.pop("experiment")
    typed = {option: given.pop(option) for option in _TYPED}
    if name in EXPERIMENTS and EXPERIMENTS[name].network == "image":
        for option, known in _TYPED.items():
            if option not in _FOR_IMAGES and typed[option] != known.default:
                raise ConfigurationError(
                    f"{spelling(option)} {typed[option]}: {name} trains as its configuration says; "
                    "change it after '--'"
                )
    out, live = given.pop("out"), given.pop("live")
    table = Path("runs") / name / "results.csv" if out is None else check_place("--out", out)
    with named(table, live and name in EXPERIMENTS) as page:
        how = Options(**typed)
        try:
            done = reproduce(
                name, options=how, fit=fit, fit_arguments=rest, out=table, appended=page, **given
            )
        except SliceError as error:
            print(f"lit-aux: error: {error}", file=sys.stderr)
            return 1
    return 0 if done else 130


def _parse(arguments: list[str]) -> Any:
    return parse(
        parser(),
        arguments,
        nothing=f"EXPERIMENT: nothing is given; name one of {', '.join(EXPERIMENTS)}",
        stray='quote lists: "[0, 1]"',
    )
