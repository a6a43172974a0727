"""Try every option of every command with wrong values, and print what is amiss.

    python scripts/walk_options.py [--part I/N] [--only TEXT] [--again FILE ...] [--out FILE]

Some 4,000 cases, a second each. ``--part 1/2`` does every second case, ``--only`` those whose command line
holds TEXT, ``--again`` those that were amiss in earlier walks. One line for each case goes to FILE, which is
started anew; what is amiss is printed as well.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from option_cases import COMMANDS, cases  # type: ignore[import-not-found]
from option_walk import limit_memory, walk  # type: ignore[import-not-found]


def main() -> int:
    """Walk; return 1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--only", default="")
    parser.add_argument("--again", nargs="+", default=[])
    parser.add_argument("--out", default="walk.txt")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    chosen = [case for case in cases() if given.only in str(case)]
    if given.again:
        again = {name for file in given.again for name in amiss_in(Path(file))}
        chosen = [case for case in chosen if str(case) in again]
    chosen = chosen[part - 1 :: parts]
    limit_memory()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    amiss = 0
    with walk() as walking, Path(given.out).open("w", buffering=1) as file:
        for case in chosen:
            started = time.monotonic()
            outcome = walking.try_case(case)
            counts[case.scene.split()[0] if case.scene in COMMANDS else "fit"].update(
                [outcome.kind, *(what.partition(":")[0] for what in outcome.amiss)]
            )
            amiss += bool(outcome.amiss)
            seconds = time.monotonic() - started
            marks = "; ".join(outcome.amiss) or "-"
            line = f"{outcome.kind}\t{marks}\t{case}\t{outcome.line}\t{seconds:.1f}"
            print(line, file=file)
            if outcome.amiss:
                print(line, flush=True)
    for command, found in counts.items():
        print(f"{command}: {dict(found)}")
    print(f"{len(chosen)} cases, {amiss} amiss")
    return int(amiss > 0)


def amiss_in(file: Path) -> Iterator[str]:
    """Yield the cases that were amiss in a walk."""
    for line in file.read_text().splitlines():
        _, marks, case, *_ = line.split("\t")
        if marks != "-":
            yield case


if __name__ == "__main__":
    sys.exit(main())
