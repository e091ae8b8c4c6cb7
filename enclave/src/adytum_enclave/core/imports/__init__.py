"""Files that others wrote, opened inside the enclave: one module a format (spec/imports.md).

A module reads what is public of a file into a frozen type (`parse`), and makes the secret in a slot. `Parts` says where
password and file lie in what the client sealed; the password, a mnemonic and what a file holds never leave slots.
"""
