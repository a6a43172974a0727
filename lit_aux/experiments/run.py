"""One run of an experiment: its place in the grid and how it is carried out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from lit_aux.experiments.protocol import Protocol
from lit_aux.runs.table import run_hash
from lit_aux.teachers import drawn_word

Emit = Callable[["Run", dict[str, Any], list[dict[str, Any]]], None]
"""Takes a run that has ended, its columns of the results table and its measures."""
OnStep = Callable[[int, int], None]
"""Takes how many runs of a slice are under way, and how many gradients they have cost."""


@dataclass(frozen=True)
class Run:
    """What one row of the results table is about.

    Args:
        experiment: Name of the experiment.
        setup: STL, MTL, PT+FT, or one with ``(LP)`` or ``(NTK)`` behind it.
        axes: ``seed`` and ``n_main``; ``overlap`` and ``k_main``, or ``correlation`` (a tuple with an entry
            for each main unit), ``magnitude`` and ``k_main``; ``rescale`` where the setup rescales.
        protocol: Constants of a teacher-student run; None for images, whose configuration is in ``options``.
        options: All else on which its numbers depend.
    """

    experiment: str
    setup: str
    axes: Mapping[str, Any]
    protocol: Protocol | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.run_hash)

    @cached_property
    def run_hash(self) -> str:
        """The key by which a grid resumes: a hash of all that the numbers depend on, and what was drawn."""
        parts = {
            "experiment": self.experiment,
            "setup": self.setup,
            "axes": self.axes,
            "protocol": None if self.protocol is None else asdict(self.protocol),
            "options": self.options,
        }
        return run_hash(parts) + drawn_word(self.options)

    @property
    def identity(self) -> dict[str, Any]:
        """The columns of the results table that are known before the run."""
        return {
            "run": self.run_hash,
            "experiment": self.experiment,
            "setup": self.setup,
            **{name: self.axes[name] for name in self.axes},
        }
