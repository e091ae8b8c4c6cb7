"""Limits: what is used of them, what is held, and how that outlives a start. `ledger` is what requests see."""
