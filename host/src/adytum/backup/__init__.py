"""Backups of the database, and restores that prove themselves.

    create.py     one snapshot: `pg_dump`, and beside it a manifest that says what a whole copy has
    restore.py    into an empty database, migrated forward, then checked; `drill.py` opens a sample in an enclave
    findings.py   what a database lacks by its own evidence; also what the service looks at when it starts (`watch.py`)
    compare.py    what it lacks beside a manifest, and beside the checkpoints of the second copy

A backup holds ciphertext, receipts and policies, and no secret: keys are sealed before they reach the database. It is
as worth hiding as the database, and no more. Left out: PostgreSQL's own ways (replicas, point-in-time recovery), which
`adytum restore check` judges all the same.
"""
