"""What tells one run, or one trained phase, from another, alike in every process."""
