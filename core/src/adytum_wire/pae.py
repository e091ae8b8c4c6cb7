"""Pre-authentication encoding, as DSSE defines it (https://github.com/secure-systems-lab/dsse, protocol.md).

Everything that anyone signs in Adytum is signed over `pae(type, bytes)`, so a signature for one purpose can never
serve another, and bytes are parsed only after their signature holds.

>>> pae("t", b"abc")
b'DSSEv1 1 t 3 abc'
"""

from __future__ import annotations

from typing import Final

REQUEST: Final = "application/vnd.adytum.request.v1+json"
POLICY: Final = "application/vnd.adytum.policy.v1+json"
APPROVAL: Final = "application/vnd.adytum.approval.v1+json"
USAGE_RESET: Final = "application/vnd.adytum.usage-reset.v1+json"
CHECKPOINT: Final = "application/vnd.adytum.checkpoint.v1+json"
RECEIPT_HEAD: Final = "application/vnd.adytum.receipt-head.v1"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes to sign: "DSSEv1" SP len(type) SP type SP len(payload) SP payload, lengths in decimal."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
