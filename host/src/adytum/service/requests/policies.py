"""The policy in force, as far as the host knows it: the newest one that an enclave took. For previews."""

from __future__ import annotations

from adytum.storage import reads
from adytum.storage.database import Database
from adytum_policy.document import Policy, parse_policy
from adytum_wire import dsse, limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.pae import POLICY


class Policies:
    """Parses a policy once. The enclave verified its signatures; here nobody believes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parsed: dict[str, tuple[bytes, Policy | None]] = {}  # tenant -> (envelope, policy)

    async def of(self, tenant: str) -> Policy | None:
        """None when there is none, or none that this version understands. Errors: STORAGE_UNAVAILABLE."""
        try:
            _, envelope, _ = await reads.newest_policy(self._database, tenant)
        except AdytumError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        known = self._parsed.get(tenant)
        if known is None or known[0] != envelope:
            known = (envelope, _parse(envelope))
            self._parsed[tenant] = known
        return known[1]


def _parse(envelope: bytes) -> Policy | None:
    try:
        payload, _ = dsse.parse(envelope, POLICY, limit=2 * limits.MAX_POLICY, code=Code.POLICY_INVALID)
        return parse_policy(payload)
    except AdytumError:
        return None
