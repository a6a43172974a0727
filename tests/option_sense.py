"""Which wrong-looking values make sense after all, and why: everything else must be refused."""

import re

_HUGE = "9{20}"
_ANY = r"abc|\[1, 2\]|0|-1|\.nan|\.inf|" + _HUGE
SENSE: list[tuple[str, str, str]] = [
    (r"(max|min)_(epochs|steps|evaluations|backoffs|flow_time)", _HUGE, "a limit that is never reached"),
    (r"max[-_](steps|evaluations)|stride|replicas-per-slice", _HUGE, "a limit that is never reached"),
    (r"sweep.seed", _HUGE, "a number like others: Python's generator takes any"),
    (r"limit_\w+_batches|overfit_batches|num_sanity_val_steps", _HUGE, "all batches"),
    (r"every_n_(epochs|steps)|pairwise_every|test_every|log_every_n_steps", _HUGE, "never"),
    (r"step_size|check_val_every_n_epoch|val_check_interval", _HUGE, "never"),
    (r"num_samples|batchnorm_samples|chunk|top_k", _HUGE, "all there are"),
    (r"callbacks\.batch_size", _HUGE, "all in one batch"),
    (r"test_thinning", _HUGE, "one look"),
    (r"nested_below|replaced_below|divergence|gradient_clip_val|min_norm|rho", _HUGE, "beyond all values"),
    (r"stop_at_training_loss|threshold", _HUGE, "the first epoch ends the phase"),
    (
        r"(.*[.])?(seeds?|n[-_]main|overlap|k[-_]main|rescale|factors|magnitude|top_k|k)",
        r"\[1, 2\]",
        "several",
    ),
    (r"\w+\.print_config", "", "as without a value: everything"),
    (r"print_config", "", "as without a value: everything"),
    (r"divergence", r"\.inf", "nothing counts as divergence"),
    (r"max_(epochs|steps)", "-1", "no limit"),
    (r"num_sanity_val_steps", "-1|0", "all batches, or none"),
    (r"last_epoch", "-1", "torch's word for the beginning"),
    (r"mean|correlation|data\.correlation", "-1", "a number like others"),
    (r"limit_(val|test|predict)_batches|overfit_batches|fast_dev_run|min_(epochs|steps)", "0", "none"),
    (r"gradient_clip_val|log_every_n_steps|reload_dataloaders_every_n_epochs", "0", "none"),
    (r"weight_decay|momentum|dampening|gamma|drop_rate|padding|readout_scale|n_val|num_workers", "0", "none"),
    (r"dropout|test_fraction", "0", "none"),
    (r"chunk|landing|max_backoffs|pairwise_every|min_norm|alpha|beta|mixing", "0", "none"),
    (r"seed|seeds|seed_everything|mean|overlap|correlation|task|last_epoch", "0", "a number like others"),
    (r"default_root_dir|phase_store|model_registry|store|out|output|slurm", _ANY, "a name"),
    (r"phases\.name|job|sbatch", _ANY, "a name"),
    (r"model_registry|sbatch|by", "", "none"),
]
"""Patterns of the last names of options and of values, and what a run makes of them."""


def sensible(option: str, value: str) -> bool:
    """Say whether a run with this value makes sense.

    Args:
        option: Dotted.
        value: As it is typed.
    """
    return any(
        re.fullmatch(rf"(.*\.)?({where})", option) and re.fullmatch(what, value) for where, what, _ in SENSE
    )
