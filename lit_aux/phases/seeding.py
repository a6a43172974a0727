"""Seeds of phases, derived from the run's."""

import os
import zlib

import lightning.pytorch as pl

from lit_aux.phases.phase import Phase

_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def phase_seed(phase: Phase) -> int | None:
    """Derive a phase's seed from the global one and its name; None where there is no global seed.

    A phase that follows another thus draws the same numbers whether that one was trained, resumed or reused.
    """
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else (int(seed) + zlib.crc32(phase.name.encode())) % 2**32


def seed_phase(phase: Phase) -> None:
    """Seed every generator for a phase and leave the global seed's variables as they are."""
    seed = phase_seed(phase)
    if seed is None:
        return
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    pl.seed_everything(seed, verbose=False)
    os.environ.update(kept)
