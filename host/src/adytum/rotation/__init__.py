"""Rotation: every record of a tenant sealed again, gradually, by any number of workers, while the service signs.

    plan       what the policy and the manifest ask for, and which records do not have it yet (dry run)
    job        start, pause, resume, cancel; the job's rows
    queue      batches to workers: PgQueuer (SKIP LOCKED, leases with heartbeats)
    worker     leases batches, sends one `reseal` a record, writes down how each ended
    throttle   one token bucket a job, shared by all workers
    progress   how far it is, for people and programs
    finish     once old records are refused: the enclave's statement, then the old ciphertext is removed

The enclave decides every reseal (the rotator is a principal of the policy with that right alone) and the service stores
record and receipt in one transaction. So the worst that a defect here can do is to leave a record as it was.
"""
