"""What rows say of their teachers, and how that is written over panels."""

from collections import Counter
from typing import Any

from lit_aux.experiments.grids import EXPERIMENTS
from lit_aux.figures.curves import Row
from lit_aux.figures.style import TIMES


def network_of(row: Row) -> str:
    """Return whose row it is: ``diagonal`` or ``relu`` students, or ``image`` classifiers."""
    known = EXPERIMENTS.get(row.get("experiment") or "")
    if known is not None:
        return known.network
    if row.get("correlation") is not None:
        return "relu"
    return "diagonal" if row.get("overlap") is not None else "image"


def by_task(row: Row) -> tuple[Any, ...]:
    """Return the key that orders rows by how much their main task shares with the auxiliary one."""
    shares = row.get("correlation")
    if shares is None:
        return 0.0 if row.get("k_main") is None else row["overlap"] / row["k_main"], row["overlap"]
    return sum(shares) / len(shares), len(shares)


def pattern_title(row: Row) -> str:
    """Write which main features are auxiliary ones too."""
    shares = row.get("correlation")
    if shares is None:
        whole = "" if row.get("k_main") is None else f" of {row['k_main']}"
        return f"{row['overlap']}{whole} shared"
    counts: Counter[float] = Counter(shares)
    if len(counts) == 1:
        return rf"all $\rho$ = {shares[0]:g}"
    return r"$\rho$ = " + ", ".join(
        f"{value:g} ({TIMES}{count})" for value, count in sorted(counts.items(), reverse=True)
    )


def shared_title(row: Row) -> str:
    """Write whether the main features are auxiliary ones too, whatever their number is."""
    shares = row.get("correlation")
    if shares is not None:
        names = {(1.0,): "all shared", (0.0,): "none shared"}
        return names.get(tuple({*shares}), pattern_title(row))
    if row["overlap"] == row.get("k_main"):
        return "all shared"
    return "none shared" if row["overlap"] == 0 else f"{row['overlap']} shared"


def entries(row: Row, count: int) -> str:
    """Return what the features of a row's network are called."""
    name = ("entry", "entries") if network_of(row) == "diagonal" else ("unit", "units")
    return name[count != 1]
