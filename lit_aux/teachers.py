"""How synthetic teachers are drawn and how large they are; without torch, for tables and commands too.

Neither is a column of the results table, and rows that differ in them are other runs of the same cell, whose
mean says nothing. So the end of a run's name tells them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from lit_aux.errors import check_known

Sampling = Literal["published", "independent"]
SAMPLINGS = ("published", "independent")
OutputScale = Literal["sqrt", "units"]
TEACHERS = ("main", "aux", "pretrain")
RELU_DRAWS = 2
"""Version of the published draws of ReLU teachers: what the first drew was not what the paper's code drew."""
_SIZES = {"sqrt": "1/sqrt(units)", "units": "1/units"}
_USUAL = "p1sss"  # which has no word, as runs were named before there were others


def output_scales(
    option: str, given: Any, others: Mapping[str, OutputScale] | None = None
) -> dict[str, OutputScale]:
    """Return the size of every teacher's output weights: +-1/sqrt(units) (``sqrt``) or +-1/units (``units``).

    Args:
        option: What is blamed for a size or a teacher that there is not.
        given: One size for all, or a mapping of ``main``, ``aux`` (the auxiliary task beside the main one)
            and ``pretrain`` (the auxiliary task alone).
        others: The sizes of teachers that it leaves out, where they are not ``sqrt``.

    Raises:
        ConfigurationError: For another size or teacher.
    """
    if not isinstance(given, Mapping):
        given = dict.fromkeys(TEACHERS, given)
    for teacher, scale in given.items():
        check_known(option, str(teacher), TEACHERS)
        check_known(option, str(scale), _SIZES)
    return {teacher: given.get(teacher, (others or {}).get(teacher, "sqrt")) for teacher in TEACHERS}


def short_form(scales: Mapping[str, OutputScale]) -> OutputScale | dict[str, OutputScale]:
    """Return one size where all teachers have it, else the mapping."""
    one, *others = dict.fromkeys(scales.values())
    return dict(scales) if others else one


def drawn_word(options: Mapping[str, Any]) -> str:
    """Return the end of a run's name, such as ``-p2uus``.

    The letters say: published or independent draws, their version, and the size of the main, the auxiliary
    and the pretraining teacher.

    Args:
        options: Of the run: ``sampling``, ``draws`` and ``output_scale``; runs without teachers have none.

    Returns:
        Nothing for the first published draws with all sizes 1/sqrt(units), and for runs without teachers.
    """
    if "sampling" not in options:
        return ""
    scales = output_scales("output_scale", options.get("output_scale", "sqrt"))
    letters = "".join(scales[teacher][0] for teacher in TEACHERS)
    word = f"{options['sampling'][0]}{options.get('draws', 1)}{letters}"
    return "" if word == _USUAL else f"-{word}"


def spelled(word: str) -> str:
    """Write in full what :func:`drawn_word` says, without its dash."""
    word = word or _USUAL
    sizes = {text[0]: text for text in _SIZES}
    told = (f"{name} {_SIZES[sizes[letter]]}" for name, letter in zip(TEACHERS, word[-3:], strict=True))
    kind = next(name for name in SAMPLINGS if name[0] == word[0])
    return f"{kind} draws, version {word[1:-3]}, of teachers {', '.join(told)}"
