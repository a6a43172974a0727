"""What two W&B agents at once are to the tests: processes that carry out a command line each."""

import os
import sys
from pathlib import Path
from typing import Any


def fit(barrier: Any, folder: str, environment: dict[str, str], words: list[str]) -> None:
    """Carry out a command line as an agent's process does; its W&B run is closed in the end."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["lit-aux", *words]
    from lit_aux.cli import main

    run = environment.get("WANDB_RUN_ID", "run")
    output = os.open(f"{run}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    barrier.wait(timeout=120)
    code = main(words)
    import wandb

    opened = wandb.run
    if opened is not None:
        Path(f"{run}.seen").write_text("\n".join([opened.id, str(opened.group), *(opened.tags or ())]))
    wandb.finish()
    sys.exit(code)
