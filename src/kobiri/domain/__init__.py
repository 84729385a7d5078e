"""Pure values and decisions: no I/O, no clock, no randomness but in `ids`, no framework."""
