"""HTTP in and out: translates, decides nothing."""
