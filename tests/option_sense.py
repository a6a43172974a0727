"""Which wrong-looking values make sense after all, and why: everything else must be refused."""

import re

_HUGE = "9{20}"
SENSE: list[tuple[str, str, str]] = [
    # limits that are never reached, periods that never come round, samples of which there are fewer
    (
        r".*(max|min)_(epochs|steps|evaluations|stages|backoffs|flow_time)",
        _HUGE,
        "another limit ends the run",
    ),
    (r".*(limit_\w+_batches|overfit_batches|num_sanity_val_steps)", _HUGE, "all batches"),
    (
        r".*every_n_(epochs|steps|epoch)|.*(pairwise_every|test_every|log_every_n_steps|step_size)",
        _HUGE,
        "never",
    ),
    (r".*reload_dataloaders_every_n_epochs", "0|" + _HUGE, "never"),
    (r".*(num_samples|batchnorm_samples|num_batches|power_iterations|chunk|test_thinning)", _HUGE, "all"),
    (r"\w+ --trainer\.callbacks\.(batch_size|iterations|top_k)", _HUGE, "one batch of all"),
    (
        r"(reproduce.*|sweep.*) --(count|jobs|max-steps|max-evaluations|stride|replicas-per-slice|seed)",
        _HUGE,
        "all",
    ),
    (r".*(check_val_every_n_epoch|val_check_interval)", _HUGE, "no validation, which has no batches here"),
    (r".*(max_epochs|max_steps)", "-1", "no limit: another one ends the run"),
    (r".*num_sanity_val_steps", "-1|0", "all batches, or none"),
    # nothing, where nothing is a choice
    (r".*(limit_(val|test|predict)_batches|overfit_batches|fast_dev_run|min_(epochs|steps))", "0", "none"),
    (
        r".*(gradient_clip_val|log_every_n_steps|weight_decay|momentum|dampening|lr_lambda|gamma|lr_decay)",
        "0",
        "none",
    ),
    (
        r".*(drop_rate|padding|readout_scale|n_val|overlap|correlation|seed|seeds|seed_everything|mean)",
        "0",
        "none",
    ),
    (
        r".*(chunk|landing|max_backoffs|pairwise_every|min_norm|alpha|beta|betas|mixing|test_unit)",
        "0",
        "none",
    ),
    (
        r".*(task|n_main|label_noise|threshold|num_workers|last_epoch|blocks_per_epoch)",
        "0",
        "the first, or none",
    ),
    # names and folders may be any text
    (
        r".*(default_root_dir|phase_store|model_registry|store|out|output|slurm|profiler)",
        "abc|0|-1|nan|inf|" + _HUGE,
        "a name",
    ),
    (r".*phases\.name", "abc|0|nan|inf|-1|" + _HUGE, "a name"),
    (r".*(model_registry)", "", "none"),
    # thresholds beyond everything, scales of what is judged
    (
        r".*(nested_below|replaced_below|divergence|gradient_clip_val|rho|tolerance|alpha|stop_at_training_loss|threshold)",
        _HUGE,
        "beyond all values",
    ),
    (r".*divergence", "inf", "nothing counts as divergence"),
    # true and false as YAML, Python and jsonargparse spell them
]
"""Patterns of ``scene --option`` and of values, and what the run makes of them."""


def sensible(scene: str, option: str, value: str) -> bool:
    """Say whether a run with this value makes sense."""
    return any(
        re.fullmatch(where, f"{scene} --{option}") and re.fullmatch(what, value) for where, what, _ in SENSE
    )
