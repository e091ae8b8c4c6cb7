"""The counters of passkeys that were seen, so that a cloned authenticator shows (WebAuthn 7.2, step 21; ADR 7).

WebAuthn compares each assertion with the one before. Here approvals are collected in one order, presented in another,
and presented again with each retry, so what is compared are all pairs: of two assertions the one whose statement was
issued later must not have the lower counter, and no two share a counter, except 0, which synced passkeys always say.

    memory.require(tenant, sighting, policy)  # APPROVAL_COUNTER, or remembered

Within a boot only, and only the newest `limits.MAX_REMEMBERED_COUNTERS` of each passkey.
"""

from __future__ import annotations

from adytum_policy.approvals import Sighting
from adytum_policy.document import Policy
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code


class PasskeyMemory:
    """Bounded by the policies: what is no longer in one is forgotten when room is wanted."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[bytes, list[Sighting]]] = {}  # by tenant and credential, oldest statement first

    def require(self, tenant: str, sighting: Sighting, policy: Policy) -> None:
        """Compare with what was seen and remember. Call only for an approval that is valid in all else.

        Errors: APPROVAL_COUNTER; the memory is then as before.
        """
        credentials = self._seen.setdefault(tenant, {})
        seen = credentials.get(sighting.credential_id)
        if seen is None:
            if len(credentials) >= len(policy.by_passkey):
                for gone in credentials.keys() - policy.by_passkey.keys():
                    del credentials[gone]
            seen = credentials[sighting.credential_id] = []
        if any(other.assertion == sighting.assertion for other in seen):
            return
        if any(_contradict(sighting, other) for other in seen):
            raise AdytumError(Code.APPROVAL_COUNTER)
        seen.append(sighting)
        seen.sort(key=lambda one: one.issued_at)
        del seen[: -limits.MAX_REMEMBERED_COUNTERS]


def _contradict(one: Sighting, other: Sighting) -> bool:
    """Whether one authenticator cannot have made both. Two statements of one millisecond may have any order."""
    if one.counter == other.counter:
        return one.counter != 0
    return (one.counter - other.counter) * (one.issued_at - other.issued_at) < 0
