"""Bringing files of keys in: what each is, what is wrong with it, and sending them, with a report that survives.

    keystores.py    what of a keystore shows without its password
    raw_keys.py     a key in hex: of which algorithm, and is it the expected one?
    candidates.py   finding files, telling their form, and naming their requests
    run.py          many at a time, until the end or until somebody interrupts it
    report.py       a line a file, written as it comes

The command is `adytum keys import`; docs/how-to/import.md.
"""
