"""The name of a way of training, as results tables and W&B groups have it."""

from typing import Any


def setup_of(module: Any) -> str:
    """Return the setup of the results table that a module's phases are: STL, MTL, PT+FT, with (LP) or not.

    Args:
        module: A module with phases.
    """
    *earlier, last = module.phases
    finetunes = hasattr(module, "pretrained")
    # without a phase of pretraining, a deep network finetunes the weights that its backbone came with
    given = finetunes and (getattr(module, "students", None) is None or module.pretrained is not None)
    if given or any(phase.trainable != "readout" for phase in earlier):
        name = "PT+FT"
    else:
        name = "MTL" if len(last.tasks) > 1 else "STL"
    return f"{name} (LP)" if last.trainable == "readout" else name
