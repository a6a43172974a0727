"""Many runs: what a job is, the processes that carry jobs out, the results table, SLURM and W&B."""
