"""Try every option of every command with wrong values, and print what is amiss.

    python scripts/walk_options.py [--part I/N] [--only TEXT] [--out FILE]

About 2,000 cases, a second each. ``--part 1/2`` does every second case, ``--only`` those whose command line
holds TEXT. One line for each case goes to FILE.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from option_cases import cases  # type: ignore[import-not-found]
from option_walk import limit_memory, walk  # type: ignore[import-not-found]


def main() -> int:
    """Walk; return 1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", default="walk.txt")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    chosen = [case for case in cases() if given.only in str(case)][part - 1 :: parts]
    limit_memory()
    counts: Counter[str] = Counter()
    with walk() as walking, Path(given.out).open("w", buffering=1) as file:
        for case in chosen:
            started = time.monotonic()
            outcome = walking.try_case(case)
            counts[outcome.kind] += 1
            counts.update(what.partition(":")[0] for what in outcome.amiss)
            counts["amiss"] += bool(outcome.amiss)
            seconds = time.monotonic() - started
            marks = "; ".join(outcome.amiss) or "-"
            print(f"{outcome.kind}\t{marks}\t{case}\t{outcome.line}\t{seconds:.1f}", file=file)
    print(f"{len(chosen)} cases: {dict(counts)}")
    return int(counts["amiss"] > 0)


if __name__ == "__main__":
    sys.exit(main())
