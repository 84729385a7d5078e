"""pawaPay v2: one account that reaches the wallets of all three Zambian networks."""
