"""Native cryptography on slots: one module a primitive, by pointer, never through `bytes`, `str` or `int`.

Secrets come in as `Slot`; public values (digests, signatures, public keys, ciphertext) are `bytes`.
"""
