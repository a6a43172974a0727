"""Many runs of one sweep file: on this machine, as a SLURM array, or by W&B agents."""
