"""Who signed a policy: the result is data, so that a person can be told whose signature is missing.

A signature that does not verify, or by somebody who is no administrator, refuses nothing and counts for nothing: the
host, who carries the envelope, could otherwise spoil a good one. Two signatures by one administrator count once (P-4).
"""

from __future__ import annotations

from dataclasses import dataclass

from adytum_wire import dsse, limits, signatures
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Tenant
from adytum_wire.pae import POLICY, pae

_MAX_ENVELOPE = 2 * limits.MAX_POLICY  # base64 makes four of three; the rest is room for the signatures


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """Ids of administrators in the manifest's order; `counted` and `missing` together are all of the tenant's."""

    threshold: int
    counted: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def reached(self) -> bool:
        return len(self.counted) >= self.threshold


class QuorumError(AdytumError):
    """POLICY_QUORUM, with the count in `quorum`."""

    def __init__(self, quorum: Quorum) -> None:
        super().__init__(Code.POLICY_QUORUM, "$.signatures")
        self.quorum = quorum


def count_signatures(
    envelope: bytes, tenant: Tenant, *, payload_type: str = POLICY, code: Code = Code.POLICY_INVALID
) -> tuple[bytes, Quorum]:
    """Return (payload, quorum) of a DSSE envelope. The payload is not parsed. Errors: `code`."""
    payload, signed = dsse.parse(envelope, payload_type, limit=_MAX_ENVELOPE, code=code)
    message = pae(payload_type, payload)
    by_key = {bytes.fromhex(admin.public_key): admin for admin in tenant.admins}
    counted: set[str] = set()
    for public_key, signature in signed:
        admin = by_key.get(public_key)
        if admin is None or admin.id in counted:
            continue
        if signatures.is_valid(admin.scheme, public_key, message, signature):
            counted.add(admin.id)
    return payload, Quorum(
        threshold=tenant.threshold,
        counted=tuple(admin.id for admin in tenant.admins if admin.id in counted),
        missing=tuple(admin.id for admin in tenant.admins if admin.id not in counted),
    )
