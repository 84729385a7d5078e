"""One verb per function: opens the transactions, calls the providers. No HTTP types, no SQL."""
