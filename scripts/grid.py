#!/usr/bin/env python3
"""Run one configuration over rescale factors, numbers of main images and seeds; print the means.

usage: grid.py CONFIG --out DIR [--factors 1 .5] [--n-main 20 200] [--seeds 0 1 2] [-- more lit-aux options]

Each run is one `lit-aux fit` in this process; as it ends it adds a row to DIR/results.csv and its layers to
DIR/measures.csv. Runs that have their row are skipped: an interrupted grid goes on where it stopped.
"""

import argparse
import csv
import json
import sys
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from lit_aux.cli import main as lit_aux

FIELDS = [
    "setup",
    "seed",
    "n_main",
    "rescale",
    "accuracy",
    "loss",
    "train_loss",
    "epochs",
    "seconds",
    "reason",
]


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--n-main", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    own, rest = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, rest = own[:at], own[at + 1 :]
    return parser.parse_args(own), rest


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open())) if path.exists() else []


def append(path: Path, rows: list[dict[str, object]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def run(config: Path, out: Path, key: dict[str, object], rest: list[str]) -> None:
    """Run one fit and write its rows."""
    name = "_".join(str(v) for v in key.values())
    root = out / "runs" / name
    options = ["--trainer.default_root_dir", str(root), "--trainer.phase_store", str(out / "phases")]
    options += ["--seed_everything", str(key["seed"]), "--data.n_main", str(key["n_main"])]
    if key["rescale"] != "":
        options += ["--model.rescale", str(key["rescale"])]
    code = lit_aux(
        ["fit", "--config", str(config), *options, "--trainer.enable_progress_bar", "false", *rest]
    )
    if code:
        raise SystemExit(code)
    newest = max(root.glob("version_*/summary.json"), key=lambda p: p.stat().st_mtime)
    summary = json.loads(newest.read_text())
    last = summary["phases"][-1]
    measured = last["metrics"]
    row = {
        **key,
        "accuracy": measured["main/test_accuracy"],
        "loss": measured["main/test_loss"],
        "train_loss": measured["main/train_loss"],
        "epochs": last["epochs"],
        "seconds": round(sum(p["seconds"] for p in summary["phases"]), 1),
        "reason": last["reason"],
    }
    layers = [{**key, **layer} for layer in summary["layers"] if layer["phase"] == last["name"]]
    if layers:
        append(out / "measures.csv", layers)
    append(out / "results.csv", [row])


def cells(rows: list[dict[str, str]], by: list[str], values: list[str]) -> None:
    """Print means with standard errors over seeds."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    print("  ".join(f"{name:>10}" for name in by + values))
    for group, members in groups.items():
        text = []
        for value in values:
            found = [float(m[value]) for m in members if m[value]]
            error = stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
            text.append(f"{fmean(found):.3f} ± {error:.3f}" if found else "-")
        print("  ".join(f"{part:>10}" for part in [*group, *text]))


def main() -> None:
    options, rest = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    setup = options.config.stem
    factors: list[object] = list(options.factors) if "ptft" in setup else [""]
    for seed, n_main, factor in product(options.seeds, options.n_main, factors):
        key: dict[str, object] = {"setup": setup, "seed": seed, "n_main": n_main, "rescale": factor}
        done = any(all(row[k] == str(v) for k, v in key.items()) for row in read(options.out / "results.csv"))
        if not done:
            run(options.config, options.out, key, rest)
    cells(read(options.out / "results.csv"), ["setup", "n_main", "rescale"], ["accuracy", "loss"])
    last = [
        row for row in read(options.out / "measures.csv") if row["layer"].endswith(("global_pool", "layer4"))
    ]
    cells(last, ["setup", "layer", "n_main", "rescale"], ["pr_before", "pr_after", "ensd"])


if __name__ == "__main__":
    main()
