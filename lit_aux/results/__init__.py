"""What a results table says: means with standard errors, paired differences, who wins."""
