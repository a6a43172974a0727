"""What a sweep over rescale factors prints and writes."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_write
from lit_aux.regimes.sweep import FactorFit
from lit_aux.regimes.sweep_picture import draw_sweep
from lit_aux.regimes.sweep_summary import as_csv, by_factor, chosen_layer, conclusion, in_words, sweep_table


def report_sweep(fits: Sequence[FactorFit], out: Path, layer: str | None, words: Sequence[str]) -> None:
    """Print a sweep's table and conclusion; write ``regime.json``, ``regime.csv`` and ``regime.png``.

    Args:
        fits: Of every factor and seed.
        out: The folder.
        layer: The layer to judge by; None for the last one before the readout.
        words: The options of ``lit-aux fit`` that were given, for the record.

    Raises:
        ConfigurationError: For a layer that was not measured, or files that cannot be written.
    """
    from rich.console import Console

    from lit_aux.reporting import finite

    factors = by_factor(fits)
    judged = chosen_layer(factors, layer)
    found = conclusion(factors, judged)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(sweep_table(factors, judged))
    for line in in_words(found):
        console.print(line, soft_wrap=True, highlight=False)
    if found["best"] is not None:
        factor = found["best_nested"] or found["best"]
        again = [
            "lit-aux",
            "fit",
            *words,
            f"--model.rescale={factor:g}",
            f"--trainer.phase_store={out}/phases",
        ]
        kind = "nested one" if found["best_nested"] else "one"
        text = f"to train the best {kind}: {shlex.join(again)}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    content = {
        "options": list(words),
        "conclusion": found,
        "factors": [asdict(one) for one in factors],
        "fits": [asdict(one) for one in fits],
    }
    files = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        if judged is not None:
            files["picture"] = draw_sweep(factors, judged, out / "regime.png")
        files |= {"table": out / "regime.csv", "numbers": out / "regime.json"}
        atomic_write(files["table"], as_csv(fits))
        atomic_write(files["numbers"], json.dumps(finite(content), indent=2) + "\n")
    except OSError as error:
        raise ConfigurationError(f"--out {out}: cannot be written ({error.strerror})") from None
    for what, path in files.items():
        console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
