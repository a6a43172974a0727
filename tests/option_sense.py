"""Which wrong-looking values make sense after all, and why: everything else must be refused."""

import re

SENSE: list[tuple[str, str, str]] = []
"""Patterns of ``scene --option`` and of values, and what the run makes of them."""


def sensible(scene: str, option: str, value: str) -> bool:
    """Say whether a run with this value makes sense."""
    return any(
        re.fullmatch(where, f"{scene} --{option}") and re.fullmatch(what, value) for where, what, _ in SENSE
    )
