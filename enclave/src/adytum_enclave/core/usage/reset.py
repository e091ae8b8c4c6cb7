"""Opening an admin quorum's reset (spec/usage.md, U-12): who signed, for which tenant, for which boot."""

from __future__ import annotations

from adytum_policy.quorum import QuorumError, count_signatures
from adytum_wire.approvals import UsageReset, parse_usage_reset
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Tenant
from adytum_wire.pae import USAGE_RESET


def open_reset(envelope: bytes, tenant: Tenant, *, boot_id: str) -> UsageReset:
    """The payload is parsed only after the tenant's threshold of administrators was found to have signed it.

    Errors: POLICY_QUORUM; USAGE_INVALID with the field's path: malformed, another tenant's, or another boot's.
    """
    payload, quorum = count_signatures(envelope, tenant, payload_type=USAGE_RESET, code=Code.USAGE_INVALID)
    if not quorum.reached:
        raise QuorumError(quorum)
    reset = parse_usage_reset(payload)
    if reset.tenant != tenant.id:
        raise AdytumError(Code.USAGE_INVALID, "$.tenant")
    if reset.boot_id != boot_id:
        raise AdytumError(Code.USAGE_INVALID, "$.boot_id")
    return reset
