"""Step 1, authenticate: who asks, and is it now? Nothing of the body is read before the stamp has verified."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from adytum_enclave.core.crypto import stamps
from adytum_policy.document import Principal, SignedPolicy, find_principal
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Bounds, Tenant
from adytum_wire.messages import Execute
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import Body, parse_body
from adytum_wire.types import Digest, sha256


class Authenticated(Struct, frozen=True, kw_only=True):
    """A request whose stamp, principal and time hold. `digest`: SHA-256 of the body as it came.
    `lives_until_ms`: until then the same request would pass again."""

    body: Body
    digest: Digest
    lives_until_ms: int
    tenant: Tenant
    policy: SignedPolicy
    principal: Principal


def authenticate(
    message: Execute,
    *,
    tenants: Mapping[str, Tenant],
    policies: Mapping[str, SignedPolicy],
    bounds: Bounds,
    now_ms: int,
) -> Authenticated:
    """Errors, in this order: REQUEST_INVALID (too large), STAMP_INVALID, REQUEST_INVALID, TENANT_UNKNOWN,
    POLICY_MISSING, PRINCIPAL_UNKNOWN, REQUEST_EXPIRED, REQUEST_FROM_FUTURE."""
    if len(message.body) > limits.MAX_BODY:
        raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    stamp = message.stamp
    if not stamps.is_valid(stamp.scheme, stamp.public_key, pae(REQUEST, message.body), stamp.signature):
        raise AdytumError(Code.STAMP_INVALID)
    body = parse_body(message.body)
    tenant = tenants.get(body.tenant)
    if tenant is None:
        raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
    policy = policies.get(body.tenant)
    if policy is None:
        raise AdytumError(Code.POLICY_MISSING)
    principal = find_principal(policy.policy, stamp.scheme, stamp.public_key)
    if principal is None:
        raise AdytumError(Code.PRINCIPAL_UNKNOWN)
    # A request that waited for approvals may be older; whether it had to wait is for the decision to say.
    past_ms = max(bounds.approval_past_ms, bounds.request_past_ms) if message.approvals else bounds.request_past_ms
    if body.issued_at < now_ms - past_ms:
        raise AdytumError(Code.REQUEST_EXPIRED, "$.issued_at")
    if body.issued_at > now_ms + bounds.request_future_ms:
        raise AdytumError(Code.REQUEST_FROM_FUTURE, "$.issued_at")
    return Authenticated(
        body=body,
        digest=sha256(message.body),
        lives_until_ms=body.issued_at + past_ms,
        tenant=tenant,
        policy=policy,
        principal=principal,
    )
