"""Request quotas: a token bucket per kind of operation, as KMS has one per account and region.

Defaults are those of us-east-1 for symmetric cryptographic operations; management operations have a small one each.
Source: KMS Developer Guide, "Request quotas".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CRYPTOGRAPHIC: Final = "cryptographic"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_ms: int


class Quotas:
    """`cryptographic` and `management` are requests a second; a bucket holds one second's worth."""

    def __init__(self, *, cryptographic: float = 50_000, management: float = 1_000) -> None:
        self._rates = {CRYPTOGRAPHIC: cryptographic}
        self._management = management
        self._buckets: dict[str, _Bucket] = {}

    def take(self, kind: str, now_ms: int) -> bool:
        """False when the request is over the quota. `kind` is CRYPTOGRAPHIC or a management operation's name."""
        rate = self._rates.get(kind, self._management)
        burst = max(rate, 1.0)
        bucket = self._buckets.setdefault(kind, _Bucket(burst, now_ms))
        bucket.tokens = min(burst, bucket.tokens + max(0, now_ms - bucket.at_ms) * rate / 1000)
        bucket.at_ms = max(bucket.at_ms, now_ms)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
