"""Step 1, authenticate: who asks, and is it now? Nothing of the body is read before the stamp has verified."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from adytum_enclave.core.crypto import stamps
from adytum_enclave.core.sessions import Sessions
from adytum_policy.document import Principal, SignedPolicy, find_principal
from adytum_wire import limits
from adytum_wire.errors import AdytumError, Code
from adytum_wire.manifest import Bounds, Tenant
from adytum_wire.messages import Execute
from adytum_wire.pae import REQUEST, pae
from adytum_wire.requests import Body, OpenSession, SessionStamp, Sign, operation_of, parse_body
from adytum_wire.types import Digest, Scheme, sha256


class Authenticated(Struct, frozen=True, kw_only=True):
    """A request whose stamp, principal and time hold. `digest`: SHA-256 of the body as it came.
    `lives_until_ms`: until then the same request would pass again. `scheme`, `public_key`: the key that stamped it,
    itself or through a session."""

    body: Body
    digest: Digest
    lives_until_ms: int
    tenant: Tenant
    policy: SignedPolicy
    principal: Principal
    scheme: Scheme
    public_key: bytes


def authenticate(
    message: Execute,
    *,
    tenants: Mapping[str, Tenant],
    policies: Mapping[str, SignedPolicy],
    sessions: Sessions,
    bounds: Bounds,
    now_ms: int,
) -> Authenticated:
    """Errors, in this order: REQUEST_INVALID (too large), SESSION_UNKNOWN, STAMP_INVALID, SESSION_EXPIRED,
    REQUEST_INVALID, TENANT_UNKNOWN, POLICY_MISSING, PRINCIPAL_UNKNOWN, REQUEST_EXPIRED, REQUEST_FROM_FUTURE."""
    if len(message.body) > limits.MAX_BODY:
        raise AdytumError(Code.REQUEST_INVALID, "$ (too large)")
    stamp, signed = message.stamp, pae(REQUEST, message.body)
    if isinstance(stamp, SessionStamp):
        session = sessions.check(stamp, signed, now_ms)
        scheme, public_key = session.scheme, session.public_key
    else:
        session, scheme, public_key = None, stamp.scheme, stamp.public_key
        if not stamps.is_valid(scheme, public_key, signed, stamp.signature):
            raise AdytumError(Code.STAMP_INVALID)
    body = parse_body(message.body)
    # A session acts in its own tenant, and does not open another one: it would never end.
    if session is not None and (body.tenant != session.tenant or isinstance(body, OpenSession)):
        raise AdytumError(Code.STAMP_INVALID, "$.stamp")
    tenant = tenants.get(body.tenant)
    if tenant is None:
        raise AdytumError(Code.TENANT_UNKNOWN, "$.tenant")
    policy = policies.get(body.tenant)
    if policy is None:
        raise AdytumError(Code.POLICY_MISSING)
    principal = find_principal(policy.policy, scheme, public_key)
    if principal is None:
        raise AdytumError(Code.PRINCIPAL_UNKNOWN)
    # A request that waited for approvals may be older; whether it had to wait is for the decision to say.
    longest_ms = max(bounds.approval_past_ms, bounds.request_past_ms)
    past_ms = longest_ms if message.approvals else bounds.request_past_ms
    if body.issued_at < now_ms - past_ms:
        raise AdytumError(Code.REQUEST_EXPIRED, "$.issued_at")
    if body.issued_at > now_ms + bounds.request_future_ms:
        raise AdytumError(Code.REQUEST_FROM_FUTURE, "$.issued_at")
    return Authenticated(
        body=body,
        digest=sha256(message.body),
        lives_until_ms=body.issued_at + (longest_ms if _may_come_back(policy, body) else past_ms),
        tenant=tenant,
        policy=policy,
        principal=principal,
        scheme=scheme,
        public_key=public_key,
    )


def _may_come_back(policy: SignedPolicy, body: Body) -> bool:
    """Carried out without approvals, a request could be sent again with some, long after its ordinary window, and make
    a second record under the id of the first. Not `sign`: repeated, it gives the same bytes, and there are many."""
    if isinstance(body, Sign):
        return False
    operation = operation_of(body)
    return any(rule.approvals is not None and operation in rule.operations for rule in policy.policy.rules)
