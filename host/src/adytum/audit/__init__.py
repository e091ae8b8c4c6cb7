"""The audit on the untrusted side: checkpoints of the receipt chains, their second copies, export.

Nothing here is believed by an auditor: what counts is signed inside the enclave and verified with `adytum_verify`.
"""
