"""What was used of the limits: reservations, windows, sealed snapshots, and what outlives the enclave."""
