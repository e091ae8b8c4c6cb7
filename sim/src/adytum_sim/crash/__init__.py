"""The crash matrix: each part of a deployment killed at each step of a request, under load, and what came of it.

Every part is a process of its own that SIGKILL ends: enclave, host service, PostgreSQL. Between them stand relays that
see where a request is (`wires`, `points`); `cell` kills and asks again, `judge` compares what clients were told with
what is stored. `adytum bench crash` runs it all (`matrix`).
"""
