"""make bench: what Kobiri does with this machine, beside what the database alone could do, in the same run."""
