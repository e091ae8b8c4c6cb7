"""PostgreSQL, the only database. It holds ciphertext, public facts and receipts; nothing in it is secret or
believed."""
